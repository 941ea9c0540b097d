"""The paper's tables with our numbers, the changes since the start, and the list of runs."""

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass

from experiments.show.decisions import describe_decision
from experiments.show.document import Table
from experiments.show.report_rows import (
    OTHER_SOURCES,
    SHORTENED,
    Entry,
    PooledEstimate,
    changed_settings,
    paired_differences,
    shared_seeds,
)
from experiments.show.report_runs import Run, paper_value
from lightning_modules.metrics.measures import BM25, Prominence, all_measures, measure_labels

NO_VALUE = "–"
MISSING = "missing"
DATA_MEANING = "the data set of the test questions"
_ORIENTATION = " (orientation)"
_VALIDATED = "validation: start / kept / last"
_MOST_PAIRS = 10
_OVER_QUESTIONS = "over questions alone"

_SETTINGS = {
    "checkpoint": "Initial checkpoint",
    "offshelf": "Off-the-shelf",
    "step1": "Step 1",
    "step2": "Step 2 (fine-tuned)",
    "atlas_large": "Atlas-large",
    "perplexity": "Perplexity distillation",
}
_DATASETS = {"nq": "NQ", "triviaqa": "TriviaQA", "vital": "Vital QA"}
_LABELS = measure_labels()
_SCALES = {
    "paper": "Paper scale",
    "embedded": "Embedded scale: small models; not comparable with the paper",
    "own": "Data of one's own: not comparable with the paper",
}


# ---- labels ----


def scale_label(scale: str) -> str:
    return _SCALES.get(scale, f"Scale {scale!r}: not comparable with the paper")


def dataset_label(dataset: str) -> str:
    return _DATASETS.get(dataset, dataset)


def setting_label(entry: Entry, separator: str = ", ") -> str:
    """The setting, and after the separator what sets its runs apart."""
    return separator.join([_SETTINGS.get(entry.setting, entry.setting), *entry.notes])


def metric_label(name: str) -> str:
    """`indicator1/spearman_p90` -> `Indicator 1 Spearman p90`."""
    return _LABELS[name]


# ---- columns ----


@dataclass(frozen=True)
class Column:
    """A metric, its name in a table of the paper, and how it is written."""

    metric: str
    paper_name: str
    head: str
    factor: float = 1.0
    decimals: int = 3
    with_std: bool = False


_ANSWERS = (
    Column("em", "em", f"{metric_label('em')} (%)", 100.0, 2),
    Column("f1", "f1", f"{metric_label('f1')} (%)", 100.0, 2),
    Column("hr_at_5", "hr5", metric_label("hr_at_5")),
)
_CHANGES = tuple(
    measure.name
    for measure in all_measures()
    if measure.has_questions and measure.prominence is Prominence.EVERYWHERE and not measure.follows_length
)


def _indicator_columns(number: int) -> tuple[Column, ...]:
    """The table's title names the indicator, its columns need not."""
    names = [f"{part}_p{percentile}" for percentile in (90, 95) for part in ("attention", "spearman")]
    heads = [metric_label(f"indicator{number}/{name}").removeprefix(f"Indicator {number} ") for name in names]
    return tuple(
        Column(f"indicator{number}/{name}", name, head, with_std=True)
        for name, head in zip(names, heads, strict=True)
    )


def _meanings(columns: Sequence[Column]) -> dict[str, str]:
    """What each column holds, by its head."""
    known = {measure.name: measure.meaning for measure in all_measures()}
    return {column.head: known[column.metric] for column in columns} | {
        "data": DATA_MEANING,
        "setting": "what was run, a setting of the paper or an experiment; below it what sets its runs apart",
        "difference": "the two rows whose difference is shown: the first minus the second",
        "paper": "the paper's own number",
        f"paper{_ORIENTATION}": "the paper's own number, of larger models and data: no target for these runs",
        "seeds": "how many runs that differ in their seed alone, and their seeds",
        _VALIDATED: "what the best checkpoint is chosen by, at the start, of the weights that were kept and "
        "tested, and in the last validation; means over seeds. Weights that no validation chose have none",
    }


# ---- tables ----


def make_tables(entries: Sequence[Entry]) -> list[Table]:
    """Tables 1 to 4, the changes since the start and the differences between rows, of one scale."""
    entries = [entry for entry in entries if entry.status != MISSING]
    title = "answer-related tokens (Indicator 1)"
    return [
        _paper_table("Table 1: answers and retrieval, test questions", "table1", _ANSWERS, entries),
        _paper_table(f"Tables 2 and 3: {title}", "table3", _indicator_columns(1), entries),
        _paper_table(
            "Table 4: question-related tokens (Indicator 2)", "table4", _indicator_columns(2), entries
        ),
        _change_table(entries),
        *difference_tables(entries),
    ]


def not_run(entries: Sequence[Entry]) -> str:
    """The settings of the paper that no run has, in a sentence; "" where there are none."""
    names = [f"{dataset_label(e.dataset)} {setting_label(e)}" for e in entries if e.status == MISSING]
    return f"Settings of the paper that no run here has: {', '.join(names)}." if names else ""


def make_run_table(statuses: Sequence[tuple[Run, str]]) -> Table:
    """Every run that was given, and its status in the report."""
    rows = []
    for run, status in statuses:
        changed = "; ".join(f"{key}={value}" for key, value in changed_settings(run.as_asked).items())
        origins = ", ".join(f"{name}: {path}" for name, path in run.summary.get("started_from", {}).items())
        decided = "; ".join(map(describe_decision, run.summary.get("decisions", [])))
        cells = (run.config.scale, status, run.summary.get("stopped"), decided, origins, changed)
        rows.append((str(run.path), *(cell or NO_VALUE for cell in cells)))
    meanings = {
        "run": "its folder",
        "scale": "what its numbers may be compared with, as the experiment says",
        "status in this report": "whether its numbers are in the tables above, or why not",
        "ended because": "why it ended",
        "decisions": "what was decided while it trained, and by which numbers",
        "started from": "the earlier runs whose retriever or reader it began with",
        "differs from the shipped experiment in": "the settings that were changed, with their values",
    }
    return Table("Runs given", tuple(meanings), tuple(rows), num_labels=len(meanings), meanings=meanings)


def _paper_table(title: str, table: str, columns: Sequence[Column], entries: Sequence[Entry]) -> Table:
    """Ours, and the paper's beside it where the paper has the data set."""

    def papers(entry: Entry) -> list[tuple[float, float | None] | None]:
        return [paper_value(table, entry.setting, entry.dataset, column.paper_name) for column in columns]

    with_paper = any(value is not None for entry in entries for value in papers(entry))
    orientation = "" if all(entry.scale == "paper" for entry in entries) else _ORIENTATION
    head = ["data", "setting", "seeds"]
    for column in columns:
        head += [column.head, f"paper{orientation}"] if with_paper else [column.head]
    shows_validations = table == "table1" and any(_validated(entry) for entry in entries)
    head += [_VALIDATED] if shows_validations else []
    rows = []
    for entry in entries:
        cells = _labels(entry, is_first=table == "table1")
        for column, value in zip(columns, papers(entry), strict=True):
            cells.append(_estimate_cell(entry, column))
            if with_paper:
                cells.append(_paper_cell(value, column))
        rows.append((*cells, _validated(entry) or NO_VALUE) if shows_validations else tuple(cells))
    of_bm25 = _bm25_rows(entries, columns, with_paper)
    rows += [(*row, NO_VALUE) for row in of_bm25] if shows_validations else of_bm25
    notes = _notes(entries, columns[0].with_std)
    return Table(title, tuple(head), tuple(rows), num_labels=2, notes=notes, meanings=_meanings(columns))


def _validated(entry: Entry) -> str:
    """What the best checkpoint was chosen by: at the start, of what was kept, and in the last validation."""
    runs = [run for run in entry.runs if run.summary.get("trained")]
    curves = [run.monitored for run in runs]
    if not curves or not all(curves):
        return ""
    kept = [_validated_when_kept(run) for run in runs]
    ends = ([curve[min(curve)] for curve in curves], kept, [curve[max(curve)] for curve in curves])
    means = (sum(values) / len(values) for values in ends)
    lines = [" / ".join(NO_VALUE if math.isnan(mean) else _number(mean, 3) for mean in means)]
    kept_start = [run.kept_start for run in runs]
    not_chosen = [run.summary.get("best_step") is None and not run.kept_start for run in runs]
    for said, of_runs in (
        ("no checkpoint beat the start", kept_start),
        ("no checkpoint was chosen by a validation", not_chosen),
    ):
        if any(of_runs):
            lines.append(said + (f" in {sum(of_runs)} of {len(runs)} runs" if len(runs) > 1 else ""))
    return "\n".join(lines)


def _validated_when_kept(run: Run) -> float:
    """Of the weights that were kept and tested; NaN where no validation chose them."""
    curve, step = run.monitored, run.summary.get("best_step")
    if run.kept_start:
        return curve[min(curve)]
    return math.nan if step is None else curve.get(step, math.nan)


def _bm25_rows(
    entries: Sequence[Entry], columns: Sequence[Column], with_paper: bool
) -> list[tuple[str, ...]]:
    """What BM25 finds for the same questions; none in tables without Hit Rates.

    One row for each data set, and where rows search other passages one for each result, which then says
    whose it is.
    """
    found: dict[str, dict[tuple[str, ...], list[Entry]]] = {}
    for entry in entries:
        for run in entry.runs:
            cells = []
            for column in columns:
                value = run.summary.get("bm25", {}).get(f"{BM25}{column.metric}")
                cells.append(NO_VALUE if value is None else _mean(value["after"], None, column))
                cells += [NO_VALUE] * with_paper
            if any(cell != NO_VALUE for cell in cells):
                found.setdefault(entry.dataset, {}).setdefault(tuple(cells), []).append(entry)
    return [
        (
            dataset_label(dataset),
            "\n".join(["BM25", *(_shared_labels(of) if len(results) > 1 else [])]),
            NO_VALUE,
            *cells,
        )
        for dataset, results in found.items()
        for cells, of in results.items()
    ]


def _shared_labels(entries: Sequence[Entry]) -> list[str]:
    """The settings of some rows, and what they all note."""
    settings = dict.fromkeys(_SETTINGS.get(entry.setting, entry.setting) for entry in entries)
    shared = [note for note in entries[0].notes if all(note in entry.notes for entry in entries)]
    return [", ".join(settings), *shared]


def _change_table(entries: Sequence[Entry]) -> Table:
    measured = {name for entry in entries for name in entry.changes}
    columns = [Column(name, "", metric_label(name)) for name in _CHANGES if name in measured]
    rows = []
    for entry in entries:
        if entry.changes:
            cells = [_change_cell(entry.changes.get(column.metric), column) for column in columns]
            rows.append((*_labels(entry, is_first=False), *cells))
    notes: tuple[str, ...] = (
        "Final test - starting checkpoint, on the same questions, with 95% bootstrap intervals as above.",
        "A change is significant where its interval excludes 0. Lift: attention relative to an even share of "
        "the passage's attention.",
    )
    if not rows:
        notes = ("No run here was trained and measured before and after.",)
    head = ("data", "setting", "seeds", *(column.head for column in columns))
    title = "Changes since the starting checkpoint"
    return Table(title, head, tuple(rows), num_labels=2, notes=notes, meanings=_meanings(columns))


def difference_tables(entries: Sequence[Entry]) -> list[Table]:
    """The differences between rows of the same data, question by question; empty where there are no two."""
    measured = sorted(
        (entry for entry in entries if entry.is_measured),
        key=lambda entry: min(run.place for run in entry.runs),
    )
    pairs = [(a, b) for a, b in itertools.combinations(measured, 2) if a.dataset == b.dataset]
    found = [(a, b, paired_differences(a, b)) for a, b in pairs[:_MOST_PAIRS]]
    names = {name for *_, differences in found for name in differences}
    columns = [Column(name, "", metric_label(name)) for name in _CHANGES if name in names]
    rows = []
    for a, b, differences in found:
        if differences:
            label = f"{setting_label(a, chr(10))}\nminus {setting_label(b, chr(10))}"
            cells = [_change_cell(differences.get(column.metric), column) for column in columns]
            rows.append((dataset_label(a.dataset), label, _seeds_compared(a, b), *cells))
    if not rows:
        return []
    notes = [
        "First row - second row on the same test questions, with 95% bootstrap intervals. Each seed that "
        "both have is compared with itself, others are left out; where they share none, the means over seeds "
        "are compared. The bootstrap draws seeds, and questions once for all of them; intervals "
        f"{_OVER_QUESTIONS} leave out other seeds. A difference is significant where its interval excludes 0."
    ]
    if len(pairs) > _MOST_PAIRS:
        notes.append(f"The first {_MOST_PAIRS} of {len(pairs)} pairs; name two folders to compare others.")
    head = ("data", "difference", "seeds", *(column.head for column in columns))
    meanings = _meanings(columns) | {"seeds": "the seeds that both rows have, each compared with itself"}
    return [
        Table("Paired differences", head, tuple(rows), num_labels=2, notes=tuple(notes), meanings=meanings)
    ]


def _seeds_compared(first: Entry, second: Entry) -> str:
    """The seeds that both rows have, and whether the interval leaves out how far seeds differ."""
    seeds = shared_seeds(first, second)
    said = f"{len(seeds)}\nseed {', '.join(map(str, seeds))}" if seeds else "none in both"
    return said if len(seeds) > 1 else f"{said}\n{_OVER_QUESTIONS}"


def _labels(entry: Entry, is_first: bool) -> list[str]:
    """Data, setting and seeds; models and further settings stand in the first table alone."""
    details = entry.details if is_first else ()
    seeds = ", ".join(str(run.config.seed) for run in entry.runs)
    count = f"{len(entry.runs)}\nseed {seeds}" if entry.is_measured else entry.status
    return [dataset_label(entry.dataset), "\n".join([setting_label(entry, "\n"), *details]), count]


def _estimate_cell(entry: Entry, column: Column) -> str:
    found = entry.estimates.get(column.metric)
    if found is None:
        return NO_VALUE
    return f"{_mean(found.mean, found.std, column)}\n{_interval(found, column)}\nn = {found.n}"


def _paper_cell(value: tuple[float, float | None] | None, column: Column) -> str:
    if value is None:
        return NO_VALUE
    mean, std = value
    # the paper's EM and F1 are percentages already
    return _mean(mean / column.factor, std, column)


def _change_cell(change: PooledEstimate | None, column: Column) -> str:
    if change is None:
        return NO_VALUE
    return f"{_number(change.mean, column.decimals, '+')}\n{_interval(change, column)}\nn = {change.n}"


def _number(value: float, decimals: int, sign: str = "") -> str:
    # + 0.0: no "-0.000"
    return f"{round(value, decimals) + 0.0:{sign}.{decimals}f}"


def _mean(mean: float, std: float | None, column: Column) -> str:
    text = _number(mean * column.factor, column.decimals)
    if column.with_std and std is not None and not math.isnan(std):
        text += f" ± {_number(std * column.factor, column.decimals)}"
    return text


def _interval(found: PooledEstimate, column: Column) -> str:
    low, high = (_number(end * column.factor, column.decimals) for end in (found.low, found.high))
    return f"[{low}, {high}]"


def _notes(entries: Sequence[Entry], with_std: bool) -> tuple[str, ...]:
    measured = [entry for entry in entries if entry.is_measured]
    if not measured:
        return ("No finished run.",)
    notes = [
        ("mean ± standard deviation over n questions" if with_std else "mean over n questions")
        + ", those of all seeds together; in brackets the mean's 95% bootstrap interval."
    ]
    if any(len(entry.runs) == 1 for entry in measured):
        notes.append("Rows of one seed: the bootstrap draws questions; intervals leave out other seeds.")
    if any(len(entry.runs) > 1 for entry in measured):
        notes.append("Rows of several seeds: the bootstrap draws seeds, and questions once for all of them.")
    analysed = [entry for entry in measured if with_std and any(run.from_analysis for run in entry.runs)]
    if analysed:
        names = ", ".join(f"{dataset_label(entry.dataset)} {setting_label(entry)}" for entry in analysed)
        notes.append(f"From the runs' analysis/instances.jsonl: {names}.")
    if any(SHORTENED in entry.notes for entry in measured):
        notes.append(f"{SHORTENED}: fewer steps or fewer data than the paper's.")
    if any(OTHER_SOURCES in entry.notes for entry in measured):
        notes.append(
            f"{OTHER_SOURCES}: files or models with other names than the paper's; see the list of runs."
        )
    return tuple(notes)
