"""Page `stopping`: the stopping rule, replayed."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from experiments.show.text import table
from experiments.study import stopping, tables
from experiments.study.cells import Result, of_part
from experiments.study.derived.of_stopping import FIRST
from experiments.study.numbers import Numbers
from experiments.study.pages.text import count, interval, rows_over
from experiments.study.prediction import GAIN, VALIDATION
from experiments.study.stopping import replayed_parts
from lightning_modules.metrics.estimates import Estimate


def of_stopping(results: Sequence[Result], numbers: Numbers, out: Path) -> tuple[list[str], list[str]]:
    """The findings in sentences, and the lines of the page; both empty without results."""
    by_patience = [numbers.at(stopping.NAME, patience=str(patience)) for patience in stopping.PATIENCES]
    if not all(by_patience):
        return [], []
    heads = [
        "patience",
        "runs",
        "end surely lower",
        "stopped before the end",
        "of them end surely lower",
        "of them end no lower",
        "of them come back in a later validation",
        "stopped by the last validation",
        "end surely lower, not stopped",
        "steps from the first lower validation to the stop",
        "share of their steps saved",
        "share of all steps saved",
    ]
    parts = " and ".join(f"`{name}`" for name in replayed_parts(results))
    page = [
        "# The stopping rule, replayed",
        "",
        f"`python -m experiments.study`; [results.parquet](results.parquet), rows `{VALIDATION}STEP` of "
        f"parts {parts}, and {rows_over(stopping.NAME)} for what is over several cells.",
        "",
    ]
    page += [
        f"Every run of {parts} is validated every so many steps; the rule that a run has (a significant "
        "decline of the Hit Rate against the start, question by question) is asked after each what it would "
        "have done. *Surely lower*: of the questions that are measured on, by the interval of the change. "
        "Runs share questions and seeds, so that counts have no intervals; all of them have 32 or 64 steps, "
        "and none trains its reader.",
        "",
        *_NOT_REPLAYED * bool(of_part(results, tables.NAME)),
        *table(
            heads, [_row(patience, of) for patience, of in zip(stopping.PATIENCES, by_patience, strict=True)]
        ),
    ]
    return [_sentence(*of) for of in zip(stopping.PATIENCES, by_patience, strict=True)], [
        *page,
        *_stops(numbers),
    ]


def _row(patience: int, of: Mapping[str, Estimate]) -> list[str]:
    counts = (
        "runs",
        "end_surely_lower",
        "stopped",
        "stopped_end_surely_lower",
        "stopped_end_no_lower",
        "stopped_come_back",
        "stopped_by_the_last",
        "end_surely_lower_not_stopped",
    )
    late, of_stopped = of.get("steps_to_the_stop"), of.get("steps_saved_of_stopped")
    return [
        str(patience),
        *(count(of[name]) for name in counts),
        "-" if late is None else f"{late.mean:.1f}",
        "-" if of_stopped is None else f"{of_stopped.mean:.0%}",
        f"{of['steps_saved'].mean:.0%}",
    ]


def _sentence(patience: int, of: Mapping[str, Estimate]) -> str:
    said = {name: count(found) for name, found in of.items()}
    return (
        f"Replayed on {said['runs']} runs, of which {said['end_surely_lower']} end surely below their start, "
        f"the rule with patience {patience} stops {said['stopped']} before their end: "
        f"{said['stopped_end_surely_lower']} of them end surely lower, {said['stopped_end_no_lower']} no "
        f"lower than they started, and {said['stopped_come_back']} come back to their start in a later "
        f"validation. It lets {said['end_surely_lower_not_stopped']} go on that end surely lower, and saves "
        f"{of['steps_saved'].mean:.0%} of all steps."
    )


def _stops(numbers: Numbers) -> list[str]:
    rows = [
        [
            f"`{of['run']}`",
            count(of.measures["stopped_at"]),
            f"{of.measures['end'].mean:+.3f}",
            interval(of.measures[GAIN]),
        ]
        for of in numbers.having(stopping.NAME, "run", patience=FIRST)
    ]
    heads = ["run", "stopped at", "change on validation at the end", "on the questions measured on"]
    return ["", f"The runs that patience {FIRST} stops:", "", *table(heads, rows)] if rows else []


_NOT_REPLAYED = [
    f"Runs of `{tables.NAME}` are not replayed: of their validations the table has means alone. "
    "They had the rule itself, which ends a run.",
    "",
]
