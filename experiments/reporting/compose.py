"""Runs -> what a report says, in reading order."""

import itertools
from collections.abc import Iterator

from experiments.reporting.conclusions import describe_changes
from experiments.reporting.document import Block, Bullets, Heading, Paragraph
from experiments.reporting.entries import Entry, Runs
from experiments.reporting.figures import draw_figures
from experiments.reporting.labels import scale_label
from experiments.reporting.tables import make_run_table, make_tables

TITLE = "Attention distillation: runs compared"


def count_runs(number: int) -> str:
    """`1 run`, `2 runs`."""
    return f"{number} run" if number == 1 else f"{number} runs"


def compose_report(runs: Runs) -> list[Block]:
    """Readings in words, then for each scale tables and figures, then the list of runs."""
    num_finished = sum(run.is_finished for run, _ in runs.fates)
    num_counted = sum(len(entry.runs) for entry in runs.entries)
    blocks: list[Block] = [
        Heading(1, TITLE),
        Paragraph(
            f"{count_runs(len(runs.fates))}, {num_finished} finished, {num_counted} of them in the tables; "
            "the list at the end says which."
        ),
        Heading(2, "Reading"),
    ]
    by_scale = [list(group) for _, group in itertools.groupby(runs.entries, key=lambda entry: entry.scale)]
    for entries in by_scale:
        if len(by_scale) > 1:
            blocks.append(Heading(3, scale_label(entries[0].scale)))
        blocks.append(Bullets(tuple(describe_changes(entries))))
    for entries in by_scale:
        blocks += _compose_scale(entries)
    return [*blocks, Heading(2, "All runs"), make_run_table(runs.fates)]


def _compose_scale(entries: list[Entry]) -> Iterator[Block]:
    yield Heading(2, scale_label(entries[0].scale))
    yield from make_tables(entries)
    for _, of_dataset in itertools.groupby(entries, key=lambda entry: entry.dataset):
        yield from draw_figures(list(of_dataset))
