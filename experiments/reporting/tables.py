"""The paper's tables with our numbers, the changes since the start, and the list of runs."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from experiments.reporting.collect import Run
from experiments.reporting.document import Table
from experiments.reporting.entries import OTHER_SOURCES, SHORTENED, Entry, changed_settings
from experiments.reporting.estimates import Estimate
from experiments.reporting.labels import dataset_label, reading_label, setting_label
from experiments.reporting.paper import paper_value

NOTHING = "–"


@dataclass(frozen=True)
class Column:
    """A reading, its name in a table of the paper, and how it is written."""

    reading: str
    paper_name: str
    head: str
    factor: float = 1.0
    decimals: int = 3
    with_std: bool = False


_ANSWERS = (
    Column("em", "em", "EM (%)", 100.0, 2),
    Column("f1", "f1", "F1 (%)", 100.0, 2),
    Column("hr_at_5", "hr5", "HR@5"),
)
_CHANGES = (
    "hr_at_5",
    "indicator1/lift_p90",
    "indicator1/spearman_p90",
    "indicator2/lift_p90",
    "indicator2/spearman_p90",
    "teacher/auc",
)


def make_tables(entries: Sequence[Entry]) -> list[Table]:
    """Tables 1 to 4 and the changes since the start, for the entries of one scale."""
    title = "answer-related tokens (Indicator 1)"
    return [
        _paper_table("Table 1: answers and retrieval, test questions", "table1", _ANSWERS, entries),
        _paper_table(f"Tables 2 and 3: {title}", "table3", _indicator_columns(1), entries),
        _paper_table(
            "Table 4: question-related tokens (Indicator 2)", "table4", _indicator_columns(2), entries
        ),
        _change_table(entries),
    ]


def make_run_table(fates: Sequence[tuple[Run, str]]) -> Table:
    """Every run that was given, and what became of it in the report."""
    rows = []
    for run, fate in fates:
        changed = "; ".join(f"{key}={value}" for key, value in changed_settings(run).items())
        origins = ", ".join(f"{name}: {path}" for name, path in run.summary.get("started_from", {}).items())
        ended = run.summary.get("stopped", NOTHING)
        rows.append((str(run.path), run.config.scale, fate, ended, origins or NOTHING, changed or NOTHING))
    head = (
        "run",
        "scale",
        "in this report",
        "ended because",
        "started from",
        "differs from the shipped experiment in",
    )
    return Table("What was given", head, tuple(rows), num_labels=len(head))


def _indicator_columns(number: int) -> tuple[Column, ...]:
    return tuple(
        Column(f"indicator{number}/{part}_p{p}", f"{part}_p{p}", f"{word} p{p}", with_std=True)
        for p in (90, 95)
        for part, word in (("attention", "Attention"), ("spearman", "Spearman"))
    )


def _paper_table(title: str, table: str, columns: Sequence[Column], entries: Sequence[Entry]) -> Table:
    """Ours, and the paper's beside it where the paper has the data set."""

    def papers(entry: Entry) -> list[tuple[float, float | None] | None]:
        return [paper_value(table, entry.setting, entry.dataset, column.paper_name) for column in columns]

    with_paper = any(value is not None for entry in entries for value in papers(entry))
    orientation = "" if all(entry.scale == "paper" for entry in entries) else " (orientation)"
    head = ["data", "setting", "seeds"]
    for column in columns:
        head += [column.head, f"paper{orientation}"] if with_paper else [column.head]
    rows = []
    for entry in entries:
        cells = _labels(entry)
        for column, value in zip(columns, papers(entry), strict=True):
            cells.append(_estimate_cell(entry, column))
            if with_paper:
                cells.append(_paper_cell(value, column))
        rows.append(tuple(cells))
    return Table(title, tuple(head), tuple(rows), num_labels=2, notes=_notes(entries, columns[0].with_std))


def _change_table(entries: Sequence[Entry]) -> Table:
    columns = [Column(name, "", reading_label(name)) for name in _CHANGES]
    rows = []
    for entry in entries:
        if entry.changes:
            cells = [_change_cell(entry.changes.get(column.reading), column) for column in columns]
            rows.append((*_labels(entry), *cells))
    notes: tuple[str, ...] = (
        "Final test - starting checkpoint, of the same questions, with 95% bootstrap intervals as above.",
        "An interval that holds 0 is no change. Lift: attention relative to an even share of the passage's.",
    )
    if not rows:
        notes = ("No run here was trained and measured before and after.",)
    head = ("data", "setting", "seeds", *(column.head for column in columns))
    return Table("Changes since the starting checkpoint", head, tuple(rows), num_labels=2, notes=notes)


def _labels(entry: Entry) -> list[str]:
    seeds = ", ".join(str(run.config.seed) for run in entry.runs)
    count = f"{len(entry.runs)}\nseed {seeds}" if entry.is_measured else entry.status
    return [dataset_label(entry.dataset), setting_label(entry, "\n"), count]


def _estimate_cell(entry: Entry, column: Column) -> str:
    found = entry.estimates.get(column.reading)
    if found is None:
        return NOTHING
    return f"{_mean(found.mean, found.std, column)}\n{_interval(found, column)}\nn = {found.n}"


def _paper_cell(value: tuple[float, float | None] | None, column: Column) -> str:
    if value is None:
        return NOTHING
    mean, std = value
    # the paper's EM and F1 are percentages already
    return _mean(mean / column.factor, std, column)


def _change_cell(change: Estimate | None, column: Column) -> str:
    if change is None:
        return NOTHING
    return f"{_number(change.mean, column.decimals, '+')}\n{_interval(change, column)}\nn = {change.n}"


def _number(value: float, decimals: int, sign: str = "") -> str:
    # + 0.0: no "-0.000"
    return f"{round(value, decimals) + 0.0:{sign}.{decimals}f}"


def _mean(mean: float, std: float | None, column: Column) -> str:
    text = _number(mean * column.factor, column.decimals)
    if column.with_std and std is not None and not math.isnan(std):
        text += f" ± {_number(std * column.factor, column.decimals)}"
    return text


def _interval(found: Estimate, column: Column) -> str:
    low, high = (_number(end * column.factor, column.decimals) for end in (found.low, found.high))
    return f"[{low}, {high}]"


def _notes(entries: Sequence[Entry], with_std: bool) -> tuple[str, ...]:
    measured = [entry for entry in entries if entry.is_measured]
    if not measured:
        return ("No finished run.",)
    notes = [
        ("mean ± standard deviation over n questions" if with_std else "mean over n questions")
        + ", those of all seeds together; in brackets its 95% bootstrap interval."
    ]
    if any(len(entry.runs) == 1 for entry in measured):
        notes.append("Rows of one seed: the bootstrap draws questions; it says nothing about other seeds.")
    if any(len(entry.runs) > 1 for entry in measured):
        notes.append(
            "Rows of several seeds: the bootstrap draws seeds, then questions of each (hierarchical)."
        )
    analysed = [entry for entry in measured if with_std and any(run.from_analysis for run in entry.runs)]
    if analysed:
        names = ", ".join(f"{dataset_label(entry.dataset)} {setting_label(entry)}" for entry in analysed)
        notes.append(f"From the runs' analysis/instances.jsonl: {names}.")
    if any(SHORTENED in entry.notes for entry in measured):
        notes.append(f"{SHORTENED}: fewer steps or fewer data than the paper's.")
    if any(OTHER_SOURCES in entry.notes for entry in measured):
        notes.append(
            f"{OTHER_SOURCES}: files or models of other names than the paper's; see the list of runs."
        )
    return tuple(notes)
