"""Page `collapse`: when the paper's signal ruins a retriever."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from experiments.show.text import table
from experiments.study import collapse
from experiments.study.cells import Cell, Result, of_part
from experiments.study.derived.of_collapse import (
    APART,
    LESS,
    OF_CANDIDATES_APART,
    RATE,
    STEPS,
    VALIDATED,
    by_combination,
)
from experiments.study.figures import draw_curves
from experiments.study.numbers import Derived, Numbers
from experiments.study.pages.text import command, count, interval
from experiments.study.prediction import BEYOND_LENGTH, GAIN
from experiments.study.stopping import validations_of

_COUNTED = {
    "surely_lower": "surely below the start",
    "surely_higher": "surely above it",
    "surely_lower_beyond_length": "beyond length, below",
    "surely_higher_beyond_length": "above",
}
"""Counts of combinations, and what the page calls them."""
_WITH_A_READER = "with a reader"
_CONTROLS_DRAWN = ("uniform", "labels")


def of_collapse(results: Sequence[Result], numbers: Numbers, out: Path) -> tuple[list[str], list[str]]:
    """The findings in sentences, and the lines of the page; both empty without results."""
    by_levels = by_combination(results)
    if not by_levels:
        return [], []
    _draw(results, out / "collapse.svg")
    counts = numbers.at(collapse.NAME)
    run = f"{count(counts['cells_run'])} of {count(counts['cells'])} cells have been run."
    if counts["cells_run"].mean < counts["cells"].mean:
        run += " The others are combinations and controls that are not in the table."
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
    page += [*_of_steps(numbers), *_beside_controls(numbers)]
    page += ["", "## All combinations", "", *_combinations(numbers)]
    return _sentences(numbers, effects), page


_ABOUT = (
    "The reader is frozen, its scores of a question's candidates are fixed, and only queries learn: nothing "
    "here is what joint training does to the reader. *Shown*: all passages in one prompt, in the order of "
    "their ranks or shuffled, or each alone (independent). *Taken off*: what of the scores passage length "
    "explains."
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
    return [*sentences, *_by_rate(numbers)]


def _by_rate(numbers: Numbers) -> list[str]:
    """How many combinations end lower or higher, and how they do beside no teacher."""
    said = []
    for rate in collapse.FACTORS[RATE]:
        counts = numbers.at(collapse.NAME, rate=rate)
        if not counts:
            continue
        less = [
            f"{interval(found[GAIN])} ({source})"
            for source in collapse.FACTORS[APART]
            if (found := numbers.at(collapse.NAME, less=LESS, candidates=source, rate=rate))
        ]
        beside = f", less {LESS} {' and '.join(less)} on average" if less else ""
        said.append(
            f"at {rate} {count(counts['surely_lower'])} of {count(counts['combinations'])} end surely below "
            f"their start and {count(counts['surely_higher'])} surely above it{beside}"
        )
    return [f"By rate: {'; '.join(said)}."] if said else []


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


def _of_steps(numbers: Numbers) -> list[str]:
    """What the validations say on the way, after each doubling of the steps."""
    found = numbers.having(collapse.NAME, RATE, STEPS)
    if not found:
        return []
    counted = [
        [rate, *(count(counts[name]) for name in ("combinations", *_COUNTED))]
        for rate in collapse.FACTORS[RATE]
        if (counts := numbers.at(collapse.NAME, rate=rate))
    ]
    first, *later = dict.fromkeys(int(of[STEPS]) for of in found)
    shown = [first, *(step for step in later if (step // first).bit_count() == 1)]
    rows = [
        [
            rate,
            *(interval(numbers.at(collapse.NAME, rate=rate, steps=str(step))[VALIDATED]) for step in shown),
        ]
        for rate in dict.fromkeys(of[RATE] for of in found)
    ]
    return [
        "",
        "## Rate and steps",
        "",
        *table([RATE, "combinations", *_COUNTED.values()], counted),
        "",
        "What HR@5 of the validation questions has changed by after so many steps, the mean over all "
        "combinations that have every seed. Rates fall to nothing by the last step, so that the steps of a "
        "higher rate are longer from the first one on, and go further in all.",
        "",
        *table([RATE, *(f"{step} steps" for step in shown)], rows),
    ]


def _beside_controls(numbers: Numbers) -> list[str]:
    """At each rate the paper's rows, and teachers without a reader."""
    found = numbers.having(collapse.NAME, APART, RATE)
    if not numbers.having(collapse.NAME, *collapse.FACTORS_OF_CONTROLS):
        return []
    lines = [
        "",
        "## Beside teachers without a reader",
        "",
        "The mean over all combinations with a reader, and what becomes of the same retriever when all "
        "candidates are alike (uniform), when their order teaches, and when true labels do.",
    ]
    for outcome, words in ((GAIN, "gain"), (BEYOND_LENGTH, "beyond length")):
        rows = [
            [
                of[APART],
                of[RATE],
                interval(of.measures[outcome]),
                *(_of_control(numbers, of, outcome, control=name) for name in collapse.CONTROLS),
                _of_control(numbers, of, outcome, less=LESS),
            ]
            for of in found
        ]
        heads = [APART, RATE, f"{words}, with a reader", *collapse.CONTROLS, f"with a reader less {LESS}"]
        lines += ["", *table(heads, rows)]
    return lines


def _of_control(numbers: Numbers, of: Derived, outcome: str, **beside: str) -> str:
    """What a control comes to with the same candidates at the same rate, or what it is taken from."""
    found = numbers.at(collapse.NAME, **{**beside, APART: of[APART], RATE: of[RATE]})
    return interval(found[outcome]) if found else "-"


def _with_candidates(numbers: Numbers, effect: Derived, source: str) -> str:
    factors = {"level": effect["level"], "instead_of": effect["instead_of"], APART: source}
    found = numbers.at(collapse.NAME, **factors)
    return interval(found[GAIN]) if found else "-"


# ---- curves ----


def _draw(results: Sequence[Result], path: Path) -> None:
    """A line for each rate with a reader, and with some controls, the mean over all else."""
    lines: dict[tuple[str, ...], dict[int, dict[int, list[float]]]] = {}
    for who in (_WITH_A_READER, *_CONTROLS_DRAWN):
        for rate in collapse.FACTORS[RATE]:
            of_line = [of for of in of_part(results, collapse.NAME) if _line_of(of.cell) == (rate, who)]
            for result in of_line:
                of_seed = lines.setdefault((rate, who), {}).setdefault(result.cell.seed, {})
                for step, hits in validations_of(result).items():
                    of_seed.setdefault(step, []).append(float(hits.mean()))
    draw_curves(
        [
            (
                name,
                [{step: float(np.mean(of)) for step, of in of_seed.items()} for of_seed in of_seeds.values()],
            )
            for name, of_seeds in lines.items()
        ],
        "HR@5, validation",
        path,
    )


def _line_of(cell: Cell) -> tuple[str, str]:
    return cell[RATE], cell["control"] if collapse.is_control(cell) else _WITH_A_READER
