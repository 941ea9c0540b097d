"""Page `collapse`: when the paper's signal ruins a retriever."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from experiments.show.text import table
from experiments.study import collapse
from experiments.study.cells import Result
from experiments.study.derived.of_collapse import APART, OF_CANDIDATES_APART, Combination, by_combination
from experiments.study.figures import draw_curves
from experiments.study.numbers import Derived, Numbers
from experiments.study.pages.text import command, count, interval
from experiments.study.prediction import BEYOND_LENGTH, GAIN
from experiments.study.stopping import validations_of

_CURVES_OF = ("rate", "shown")
"""Factors of which the figure has a line for each combination, the mean over all others."""


def of_collapse(results: Sequence[Result], numbers: Numbers, out: Path) -> tuple[list[str], list[str]]:
    """The findings in sentences, and the lines of the page; both empty without results."""
    by_levels = by_combination(results)
    if not by_levels:
        return [], []
    _draw(by_levels, out / "collapse.svg")
    counts = numbers.at(collapse.NAME)
    run = f"{count(counts['cells_run'])} of {count(counts['cells'])} cells have been run."
    if counts["cells_run"].mean < counts["cells"].mean:
        run += " The others are combinations of readers, contexts and candidates that are not in the table."
    effects = numbers.having(collapse.NAME, "level", "instead_of")
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
    page += [
        "![Validations](collapse.svg)",
        "",
        "## What each factor does",
        "",
        *_of_effects(numbers, effects),
    ]
    page += ["", "## All combinations", "", *_combinations(numbers)]
    return _sentences(numbers, effects), page


_ABOUT = (
    "The reader is frozen, its scores of a question's candidates are fixed, and only queries learn: what "
    "ruins here is the signal, not what joint training does to the reader. *Shown*: all passages in one "
    "prompt, in the order of their ranks or shuffled, or each alone (independent). *Taken off*: what of the "
    "scores passage length explains."
)


def _sentences(numbers: Numbers, effects: Sequence[Derived]) -> list[str]:
    counts = numbers.at(collapse.NAME)
    lack = counts["lack_a_seed"]
    left_out = [f"{count(lack)} combinations lack a seed and are in no count."] * bool(lack.mean)
    found = numbers.having(collapse.NAME, *collapse.FACTORS)
    most = max(of.measures["words"].n for of in found)
    whole = [of for of in found if of.measures["words"].n == most]
    by_gain = sorted(whole, key=lambda of: of.measures[GAIN].mean)
    worst, best = by_gain[0], by_gain[-1]
    sentences = [
        *left_out,
        f"Of {count(counts['combinations'])} combinations with the answer's rows as the teacher "
        f"{count(counts['surely_lower'])} end surely below their start and {count(counts['surely_higher'])} "
        f"surely above it; beyond length {count(counts['surely_lower_beyond_length'])} surely below and "
        f"{count(counts['surely_higher_beyond_length'])} surely above it. By chance alone about "
        f"{counts['surely_higher_by_chance'].mean:.0f} would be surely above it. HR@5 changes by "
        f"{interval(worst.measures[GAIN])} at worst ({_levels(worst)}), by "
        f"{interval(best.measures[GAIN])} in the one that is best ({_levels(best)}).",
    ]
    if effects:
        by_size = sorted(effects, key=lambda of: -abs(of.measures[GAIN].mean))
        said = "; ".join(f"{_words(of)} {interval(of.measures[GAIN])}" for of in by_size)
        sentences.append(f"What changes it, on average over all else: {said}.")
    return sentences


def _levels(of: Derived) -> str:
    return " ".join(of[name] for name in collapse.FACTORS)


def _words(effect: Derived) -> str:
    return f"{effect['level']} instead of {effect['instead_of']}"


def _combinations(numbers: Numbers) -> list[str]:
    rows = [
        [
            *(of[name] for name in collapse.FACTORS),
            str(of.measures["words"].n),
            interval(of.measures[GAIN]),
            interval(of.measures[BEYOND_LENGTH]),
            f"{of.measures['words'].mean:.0f}",
        ]
        for of in numbers.having(collapse.NAME, *collapse.FACTORS)
    ]
    return table([*collapse.FACTORS, "seeds", "gain", "beyond length", "words"], rows)


def _of_effects(numbers: Numbers, effects: Sequence[Derived]) -> list[str]:
    if not effects:
        return ["No two combinations that differ in one factor have been run with every seed."]
    sources = collapse.FACTORS[APART]
    rows = [
        [
            _words(of),
            f"{count(of.measures['pairs_up'])} up, {count(of.measures['pairs_down'])} down",
            interval(of.measures[GAIN]),
            *(_with_candidates(numbers, of, source) for source in sources),
            interval(of.measures[BEYOND_LENGTH]),
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
        *_of_candidates(numbers),
    ]


def _of_candidates(numbers: Numbers) -> list[str]:
    """What their source does, by how passages are shown."""
    found = numbers.having(collapse.NAME, "level", "instead_of", OF_CANDIDATES_APART)
    if not found:
        return []
    rows = [[_words(of), of[OF_CANDIDATES_APART], interval(of.measures[GAIN])] for of in found]
    return ["", *table(["instead of", OF_CANDIDATES_APART, "change of the gain"], rows)]


def _with_candidates(numbers: Numbers, effect: Derived, source: str) -> str:
    factors = {"level": effect["level"], "instead_of": effect["instead_of"], APART: source}
    found = numbers.at(collapse.NAME, **factors)
    return interval(found[GAIN]) if found else "-"


# ---- curves ----


def _draw(by_levels: Mapping[Combination, Mapping[int, Result]], path: Path) -> None:
    """A line for each combination of two factors, the mean over all others."""
    places = [list(collapse.FACTORS).index(name) for name in _CURVES_OF]
    lines: dict[str, dict[int, dict[int, list[float]]]] = {}
    for levels, of_seeds in by_levels.items():
        of_line = lines.setdefault(" ".join(levels[place] for place in places), {})
        for seed, result in of_seeds.items():
            of_seed = of_line.setdefault(seed, {})
            for step, hits in validations_of(result).items():
                of_seed.setdefault(step, []).append(float(hits.mean()))
    draw_curves(
        [
            (
                name,
                [{step: float(np.mean(of)) for step, of in of_seed.items()} for of_seed in of_seeds.values()],
            )
            for name, of_seeds in sorted(lines.items())
        ],
        "HR@5, validation",
        path,
    )
