"""Page `collapse`: when the paper's signal ruins a retriever."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path

import numpy as np
from jaxtyping import Float

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
_APART = "candidates"
"""The factor whose levels the others' effects are shown for."""


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
    gains, beyond = (
        {factors: over_seeds(list(of_seeds.values()), outcome) for factors, of_seeds in by_factors.items()}
        for outcome in (GAIN, BEYOND_LENGTH)
    )
    worst, best = min(gains, key=lambda of: gains[of].mean), max(gains, key=lambda of: gains[of].mean)
    lower = sum(of.high < 0 for of in gains.values())
    effects = _effects(by_factors)
    sentences = [
        f"Of {len(gains)} combinations with the answer's rows as the teacher {lower} end surely below their "
        f"start, {sum(of.low > 0 for of in gains.values())} surely above it, and "
        f"{sum(of.low > 0 for of in beyond.values())} surely above it beyond length; HR@5 changes by "
        f"{interval(gains[worst])} at worst ({' '.join(worst)}), by {interval(gains[best])} in the one that "
        f"is best ({' '.join(best)})."
    ]
    if effects:
        by_size = sorted(effects, key=lambda of: -abs(of.of_gain.mean))
        said = "; ".join(f"{of.words} {interval(of.of_gain)}" for of in by_size)
        sentences.append(f"What changes it, on average over all else: {said}.")
    page = [
        "# When the paper's signal ruins a retriever",
        "",
        command(collapse.NAME),
        "",
        run,
        "",
        _ABOUT,
        "",
    ]
    page += ["![Validations](collapse.svg)", "", "## What each factor does", "", *_of_effects(effects)]
    return sentences, [*page, "", "## All combinations", "", *_combinations(by_factors, gains, beyond)]


_ABOUT = (
    "The reader is frozen, its scores of a question's candidates are fixed, and only queries learn: what "
    "ruins here is the signal, not what joint training does to the reader. *Shown*: all passages in one "
    "prompt, in the order of their ranks or shuffled, or each alone (independent). *Taken off*: what of the "
    "scores passage length explains."
)


def _by_factors(found: Sequence[Result]) -> dict[_Factors, dict[int, Result]]:
    """Results by seed of each combination."""
    by_factors: dict[_Factors, dict[int, Result]] = {}
    for result in found:
        factors = tuple(value for _, value in result.cell.factors)
        by_factors.setdefault(factors, {})[result.cell.seed] = result
    return by_factors


def _combinations(
    by_factors: Mapping[_Factors, Mapping[int, Result]],
    gains: Mapping[_Factors, Estimate],
    beyond: Mapping[_Factors, Estimate],
) -> list[str]:
    rows = [
        [
            *factors,
            str(len(of_seeds)),
            interval(gains[factors]),
            interval(beyond[factors]),
            f"{np.mean([of.measures['words'].mean for of in of_seeds.values()]):.0f}",
        ]
        for factors, of_seeds in by_factors.items()
    ]
    return table([*collapse.FACTORS, "seeds", "gain", "beyond length", "words"], rows)


# ---- what a factor does ----


@dataclass(frozen=True)
class _Effect:
    """One level of a factor instead of another, all else the same.

    Attributes:
        words: both levels.
        up, down: pairs of combinations in which the gain rises or falls.
        of_gain, beyond: the mean change over all pairs, of the gain and of the gain beyond length.
        by_candidates: the change of the gain with candidates from each source alone.
    """

    words: str
    up: int
    down: int
    of_gain: Estimate
    beyond: Estimate
    by_candidates: Mapping[str, Estimate]


def _effects(by_factors: Mapping[_Factors, Mapping[int, Result]]) -> list[_Effect]:
    """Of each factor a level instead of the one before, over combinations that have every seed."""
    seeds = sorted({seed for of_seeds in by_factors.values() for seed in of_seeds})
    whole = {factors: of for factors, of in by_factors.items() if set(of) == set(seeds)}
    effects = []
    for place, levels in enumerate(collapse.FACTORS.values()):
        for level, other in combinations(levels, 2):
            pairs = {
                factors: (whole[factors], whole[instead])
                for factors in whole
                if factors[place] == level
                and (instead := (*factors[:place], other, *factors[place + 1 :])) in whole
            }
            if pairs:
                effects.append(_effect(f"{other} instead of {level}", pairs, seeds))
    return effects


_Pair = tuple[Mapping[int, Result], Mapping[int, Result]]


def _effect(words: str, pairs: Mapping[_Factors, _Pair], seeds: Sequence[int]) -> _Effect:
    changes = [_changes([pair], seeds, GAIN).mean() for pair in pairs.values()]
    of_all = list(pairs.values())
    place = list(collapse.FACTORS).index(_APART)
    by_source: dict[str, list[_Pair]] = {}
    for factors, pair in pairs.items():
        by_source.setdefault(factors[place], []).append(pair)
    return _Effect(
        words,
        sum(change > 0 for change in changes),
        sum(change < 0 for change in changes),
        crossed_estimate(_changes(of_all, seeds, GAIN)),
        crossed_estimate(_changes(of_all, seeds, BEYOND_LENGTH)),
        {source: crossed_estimate(_changes(of, seeds, GAIN)) for source, of in by_source.items()},
    )


def _changes(
    pairs: Sequence[_Pair], seeds: Sequence[int], outcome: str
) -> Float[np.ndarray, "seeds questions"]:
    """The mean over pairs."""
    return np.array(
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


def _of_effects(effects: Sequence[_Effect]) -> list[str]:
    if not effects:
        return ["No two combinations that differ in one factor have been run with every seed."]
    sources = collapse.FACTORS[_APART]
    rows = [
        [
            of.words,
            f"{of.up} up, {of.down} down",
            interval(of.of_gain),
            *(interval(of.by_candidates[name]) if len(of.by_candidates) > 1 else "-" for name in sources),
            interval(of.beyond),
        ]
        for of in effects
    ]
    heads = ["instead of", "pairs", "change of the gain", *(f"with {name}" for name in sources)]
    return [
        "One level instead of another, all else the same: the mean over all pairs of combinations that have "
        "every seed; intervals over seeds and questions. Factors depend on each other, candidates most: so "
        "their sources stand apart as well.",
        "",
        *table([*heads, "change beyond length"], rows),
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
