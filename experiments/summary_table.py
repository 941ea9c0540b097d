"""What a run prints at its end."""

from typing import Any

from rich.console import Console
from rich.table import Table

from experiments.runs import RunFolder

_ROWS = (
    ("Hit Rate@1", "hr_at_1"),
    ("Hit Rate@5", "hr_at_5"),
    ("Hit Rate@20", "hr_at_20"),
    ("words a passage (first K)", "passage_words"),
    ("exact match", "em"),
    ("F1", "f1"),
    ("KL(p_ATTN || p_RETR)", "kl"),
    ("EMDR2 loss", "emdr2"),
    ("Indicator 1 Spearman p90", "indicator1/spearman_p90"),
    ("Indicator 1 attention p90", "indicator1/attention_p90"),
    ("Indicator 1 lift p90", "indicator1/lift_p90"),
    ("Indicator 2 Spearman p90", "indicator2/spearman_p90"),
    ("Indicator 2 attention p90", "indicator2/attention_p90"),
    ("Indicator 2 lift p90", "indicator2/lift_p90"),
    ("teacher AUC", "teacher/auc"),
)

_PARTS = (
    ("load models and data", "load"),
    ("encode passages, build index", "refresh_index"),
    ("training: retrieve", "retrieve"),
    ("training: read (teacher)", "read"),
    ("training: encode with gradient", "encode"),
    ("evaluation: read", "read_evaluation"),
    ("evaluation: generate answers", "generate"),
)


def print_summary(summary: dict[str, Any], run: RunFolder, console: Console | None = None) -> None:
    """The readings before and after, where the time went, and how to look at the curves."""
    console = console or Console(width=100)
    trained = summary["best_step"] is not None or any(
        part in summary["stopped"] for part in ("all", "last weights are kept")
    )
    table = Table(title=f"{summary['name']}, held-out test questions (seed {summary['seed']})")
    table.add_column("")
    table.add_column("before", justify="right")
    if trained:
        table.add_column("after", justify="right")
    for label, name in _ROWS:
        reading = summary.get(name) or summary["indicators"].get(name) or summary["teacher"].get(name)
        if reading is not None:
            shown = [reading["before"], reading["after"]] if trained else [reading["before"]]
            table.add_row(label, *(_number(value) for value in shown))
    console.print(table)
    times = Table(title="time spent")
    times.add_column("")
    times.add_column("seconds", justify="right")
    spent = summary["times_s"]
    for label, part in _PARTS:
        if part in spent:
            times.add_row(label, f"{spent[part]:.0f}")
    listed = sum(spent.get(part, 0.0) for _, part in _PARTS)
    times.add_row("everything else", f"{max(0.0, spent['total'] - listed):.0f}")
    times.add_row("total", f"{spent['total']:.0f}")
    console.print(times)
    console.print(f"ended because: {summary['stopped']}")
    if summary["best_step"] is not None:
        console.print(f"best checkpoint: step {summary['best_step']}")
    console.print(f"index refreshed at steps: {summary['index_refreshes']}")
    console.print(f"summary: {run.summary}", soft_wrap=True)
    console.print(f"curves:  tensorboard --logdir {run.path}", soft_wrap=True)


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"
