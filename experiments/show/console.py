"""What commands print: one look of all tables, the end of a run, and the control for passage length."""

import textwrap
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from experiments.runs import RunFolder
from experiments.show.decisions import describe_decision, describe_kept
from lightning_modules.metrics.measures import PASSAGE_WORDS, Prominence, all_measures, hit_rate_measure

if TYPE_CHECKING:
    from lightning_modules.length_control import LengthControl

WIDTH = 100
"""Columns of the terminal that tables are made for."""
CURVES = "http://localhost:6006/?smoothing=0#custom_scalars&_smoothingWeight=0"
"""TensorBoard's charts without the smoothing of 0.6 that they begin with, which hides what few points say:
the first part is for its tab *Time series*, the second for *Scalars* and *Custom scalars*."""
_HEAD_WIDTH = 20

_PARTS = (
    ("imports and checks", "imports"),
    ("load models and data", "load"),
    ("encode passages, build index", "refresh_index"),
    ("training: find fixed candidates", "find_candidates"),
    ("training: retrieve", "retrieve"),
    ("training: read (teacher)", "read"),
    ("training: encode", "encode"),
    ("training: target and loss", "teach"),
    ("training: backward", "backward"),
    ("evaluation: read", "read_evaluation"),
    ("evaluation: generate answers", "generate"),
)


def new_console() -> Console:
    """Standard output, as wide as the tables."""
    return Console(width=WIDTH, highlight=False)


def console_table(
    title: str,
    columns: Sequence[str],
    rows: Sequence[Sequence[str]],
    caption: str | None = None,
    bold: Sequence[int] = (),
    is_dense: bool = False,
) -> Table:
    """A table whose first column holds words, which may wrap, and whose other columns hold numbers.

    Args:
        title: above it.
        columns: their heads; long ones take several lines.
        rows: plain text; an empty row is a line between the rows around it.
        caption: below it.
        bold: positions of rows to print in bold.
        is_dense: whether columns stand one space apart, as many of them need.
    """
    table = Table(
        title=Text(title),
        caption=Text(caption) if caption else None,
        box=box.SIMPLE_HEAD,
        pad_edge=False,
        padding=(0, 0) if is_dense else (0, 1),
    )
    for number, column in enumerate(columns):
        head = Text("\n".join(textwrap.fill(line, _HEAD_WIDTH) for line in column.split("\n")))
        table.add_column(head, justify="right" if number else "left", no_wrap=number > 0)
    for number, row in enumerate(rows):
        if row:
            table.add_row(*map(Text, row), style="bold" if number in bold else None)
        else:
            table.add_section()
    return table


# ---- a run ----


def print_summary(summary: dict[str, Any], run: RunFolder, console: Console | None = None) -> None:
    """The metrics before and after, where the time went, and how to look at the curves."""
    console = console or new_console()
    console.print(_metrics(summary))
    console.print(_times(summary["times_s"]))
    if summary["read_once"] is not None:
        console.print(_describe_reading(summary["read_once"]), markup=False)
    console.print(f"ended because: {summary['stopped']}", markup=False)
    if summary.get("skipped"):
        ids = list(dict.fromkeys(one for made in summary["skipped"] for one in made["questions"]))
        shown = ", ".join(ids[:10]) + (f" and {len(ids) - 10} more" if len(ids) > 10 else "")
        steps = len(summary["skipped"])
        console.print(f"steps skipped, their numbers being broken: {steps} (questions {shown})", markup=False)
    for decision in summary["decisions"]:
        console.print(f"decided at {describe_decision(decision)}", markup=False)
    if summary["trained"]:
        console.print(describe_kept(summary), markup=False)
    console.print(f"index refreshed at steps: {summary['index_refreshes']}", markup=False)
    console.print(f"summary: {run.summary}", soft_wrap=True, markup=False)
    console.print(f"curves:  tensorboard --logdir {run.path}, then {CURVES}", soft_wrap=True, markup=False)


def _metrics(summary: dict[str, Any]) -> Table:
    columns = ["", "before", "after"] if summary["trained"] else ["", "before"]
    rows = []
    for measure in all_measures():
        groups = (summary, summary["bm25"], summary["indicators"], summary["teacher"])
        found = next((group[measure.name] for group in groups if measure.name in group), None)
        if found is not None and measure.prominence is Prominence.EVERYWHERE:
            values = [found[when] for when in columns[1:]]
            rows.append([measure.label, *(_number(value, measure.decimals) for value in values)])
    title = f"{summary['name']}, held-out test questions (seed {summary['seed']})"
    return console_table(title, columns, rows)


def _number(value: float | None, decimals: int) -> str:
    return "-" if value is None else f"{value:.{decimals}f}"


def _times(spent_s: dict[str, float]) -> Table:
    rows = [[label, f"{spent_s[part]:.0f}"] for label, part in _PARTS if part in spent_s]
    listed = sum(spent_s.get(part, 0.0) for _, part in _PARTS)
    rows.append(["everything else", f"{max(0.0, spent_s['total'] - listed):.0f}"])
    rows.append(["total", f"{spent_s['total']:.0f}"])
    return console_table("time spent", ["", "seconds"], rows)


def _describe_reading(read_once: dict[str, Any]) -> str:
    """What a frozen reader had to read, or why it reads everything anew."""
    if "why_not" in read_once:
        return f"nothing that the reader gives is kept: {read_once['why_not']}"
    return f"the reader read {read_once['read']:,} pairs, found {read_once['found']:,} kept"


# ---- the control for passage length ----


def print_control(control: "LengthControl", k: int, console: Console | None = None) -> None:
    """A table of both retrievers, what was gained, and how much of it is passage length.

    Args:
        control: of a run.
        k: number of passages that its Hit Rate looks at.
        console: where to; None = standard output.
    """
    console = console or new_console()
    hit_rate, length = hit_rate_measure(k).label, PASSAGE_WORDS.label
    rows: list[list[str]] = []
    for name, found in (("start", control.start), ("trained", control.trained)):
        for bonus in (found.plain, found.chosen):
            gold = "-" if bonus.gold_found is None else f"{bonus.gold_found:.3f}"
            rows.append([name, f"{bonus.size:.3f}", f"{bonus.hit_rate:.3f}", f"{bonus.words:.0f}", gold])
    rows += [[], ["all passages", "", "", f"{control.corpus_words:.0f}", ""]]
    columns = ("retriever", "bonus for length", hit_rate, length, "gold passages found")
    console.print(console_table("test questions", columns, rows))
    for text, value in (
        (f"the run gained in {hit_rate}", control.gain),
        ("a bonus for length alone would have gained", control.by_length),
        ("gained beyond length", control.beyond_length),
    ):
        interval = f"[{value.low:+.3f}, {value.high:+.3f}]"
        console.print(f"{text}: {value.mean:+.3f} {interval}", markup=False)
    if control.starts_short:
        explained = "explained by removing a preference for short passages"
    else:
        explained = "explained by a preference for long passages"
    console.print(
        f"{length}: {control.start.plain.words:.0f} at the start, {control.corpus_words:.0f} over all "
        f"passages; what a bonus for length gains is {explained}"
    )
    if not control.beyond_length.low > 0:
        console.print(f"the gain beyond length is not significant: the whole gain may be {explained}")
