"""Page `collapse`: when the paper's signal ruins a retriever."""

from collections.abc import Mapping, Sequence
from itertools import pairwise
from pathlib import Path

import numpy as np

from experiments.study import collapse
from experiments.study.analysis import crossed_estimate
from experiments.study.cells import Result, of_part
from experiments.study.figures import draw_curves
from experiments.study.pages.text import command, interval, over_seeds, table
from experiments.study.prediction import BEYOND_LENGTH, GAIN
from experiments.study.stopping import validations_of
from lightning_modules.metrics.estimates import Estimate

_Factors = tuple[str, ...]
_CURVES_OF = ("rate", "shown")
"""Factors of which the figure has a line for each combination, the mean over all others."""


def of_collapse(results: Sequence[Result], out: Path) -> tuple[list[str], list[str]]:
    """The findings in sentences, and the lines of the page; both empty without results."""
    found = of_part(results, collapse.NAME)
    if not found:
        return [], []
    by_factors = _by_factors(found)
    _draw(by_factors, out / "collapse.svg")
    num_seeds = len({result.cell.seed for result in found})
    num_cells = len(collapse.cells(range(num_seeds)))
    run = f"{len(found)} of {num_cells} cells have been run."
    if len(found) < num_cells:
        run += " The others are combinations of readers, contexts and candidates that are not in the table."
    gains = {factors: over_seeds(list(of_seeds.values()), GAIN) for factors, of_seeds in by_factors.items()}
    worst, best = min(gains, key=lambda of: gains[of].mean), max(gains, key=lambda of: gains[of].mean)
    lower = sum(of.high < 0 for of in gains.values())
    effects = _effects(by_factors)
    sentences = [
        f"The answer's rows change HR@5 by {interval(gains[worst])} at worst ({' '.join(worst)}), by "
        f"{interval(gains[best])} at best ({' '.join(best)}); {lower} of {len(gains)} combinations "
        "end surely below their start."
    ]
    if effects:
        by_size = sorted(effects, key=lambda row: -abs(row[2].mean))
        said = "; ".join(f"{words} {interval(of)}" for words, _, of, _ in by_size)
        sentences.append(f"What changes it, on average over all else: {said}.")
    page = ["# When the paper's signal ruins a retriever", "", command(collapse.NAME), "", run, ""]
    page += ["![Validations](collapse.svg)", "", "## What each factor does", "", *_of_effects(effects)]
    return sentences, [*page, "", "## All combinations", "", *_combinations(by_factors, gains)]


def _by_factors(found: Sequence[Result]) -> dict[_Factors, dict[int, Result]]:
    """Results by seed of each combination."""
    by_factors: dict[_Factors, dict[int, Result]] = {}
    for result in found:
        factors = tuple(value for _, value in result.cell.factors)
        by_factors.setdefault(factors, {})[result.cell.seed] = result
    return by_factors


def _combinations(
    by_factors: Mapping[_Factors, Mapping[int, Result]], gains: Mapping[_Factors, Estimate]
) -> list[str]:
    rows = [
        [
            *factors,
            str(len(of_seeds)),
            interval(gains[factors]),
            interval(over_seeds(list(of_seeds.values()), BEYOND_LENGTH)),
            f"{np.mean([of.measures['words'].mean for of in of_seeds.values()]):.0f}",
        ]
        for factors, of_seeds in by_factors.items()
    ]
    return table([*collapse.FACTORS, "seeds", "gain", "beyond length", "words"], rows)


# ---- what a factor does ----


_Effect = tuple[str, int, Estimate, Estimate]
"""In words, pairs of combinations that differ in nothing else, change of the gain, and beyond length."""


def _effects(by_factors: Mapping[_Factors, Mapping[int, Result]]) -> list[_Effect]:
    """Of each factor a level instead of the one before, over combinations that have every seed."""
    seeds = sorted({seed for of_seeds in by_factors.values() for seed in of_seeds})
    whole = {factors: of for factors, of in by_factors.items() if set(of) == set(seeds)}
    effects = []
    for place, levels in enumerate(collapse.FACTORS.values()):
        for level, other in pairwise(levels):
            pairs = [
                (whole[factors], whole[instead])
                for factors in whole
                if factors[place] == level
                and (instead := (*factors[:place], other, *factors[place + 1 :])) in whole
            ]
            if pairs:
                of_gain, beyond = (_change(pairs, seeds, outcome) for outcome in (GAIN, BEYOND_LENGTH))
                effects.append((f"{other} instead of {level}", len(pairs), of_gain, beyond))
    return effects


def _change(
    pairs: Sequence[tuple[Mapping[int, Result], Mapping[int, Result]]], seeds: Sequence[int], outcome: str
) -> Estimate:
    """The mean over pairs, with an interval over seeds and questions."""
    return crossed_estimate(
        np.array(
            [
                np.mean(
                    [
                        np.subtract(other[seed].questions[outcome], one[seed].questions[outcome])
                        for one, other in pairs
                    ],
                    axis=0,
                )
                for seed in seeds
            ]
        )
    )


def _of_effects(effects: Sequence[_Effect]) -> list[str]:
    if not effects:
        return ["No two combinations that differ in one factor have been run with every seed."]
    rows = [
        [words, str(pairs), interval(of_gain), interval(beyond)] for words, pairs, of_gain, beyond in effects
    ]
    return [
        "One level instead of another, all else the same: the mean over all pairs of combinations that have "
        "every seed; intervals over seeds and questions.",
        "",
        *table(["instead of", "pairs", "change of the gain", "beyond length"], rows),
    ]


# ---- curves ----


def _draw(by_factors: Mapping[_Factors, Mapping[int, Result]], path: Path) -> None:
    """A line for each combination of two factors, the mean over all others."""
    places = [list(collapse.FACTORS).index(name) for name in _CURVES_OF]
    lines: dict[str, dict[int, list[np.ndarray]]] = {}
    steps: list[int] = []
    for factors, of_seeds in by_factors.items():
        of_line = lines.setdefault(" ".join(factors[place] for place in places), {})
        for seed, result in of_seeds.items():
            curve = validations_of(result)
            steps = list(curve)
            of_line.setdefault(seed, []).append(np.array([hits.mean() for hits in curve.values()]))
    draw_curves(
        [
            (name, steps, [list(np.mean(curves, axis=0)) for curves in of_seeds.values()])
            for name, of_seeds in sorted(lines.items())
        ],
        "HR@5, validation",
        path,
    )
