"""Retrieval numbers that others have published, for the sides of paper-scale runs."""

from collections.abc import Sequence
from pathlib import Path

from omegaconf import OmegaConf

from experiments.show.document import Table
from experiments.show.report_rows import Entry
from experiments.show.report_tables import NO_VALUE, dataset_label

PUBLISHED = Path(__file__).parents[1] / "paper" / "published.yaml"
_KS = (5, 20, 100)


def make_published_table(entries: Sequence[Entry]) -> Table | None:
    """What others report on the data sets of paper-scale runs; None where there is no such run."""
    known = OmegaConf.to_container(OmegaConf.load(PUBLISHED))
    assert isinstance(known, dict)
    datasets = dict.fromkeys(entry.dataset for entry in entries if entry.scale == "paper")
    rows = [
        (
            dataset_label(dataset),
            row["retriever"],
            *(f"{row[f'top{k}'] / 100:.3f}" if f"top{k}" in row else NO_VALUE for k in _KS),
            row["source"],
        )
        for dataset in datasets
        for row in known.get(dataset, [])
    ]
    if not rows:
        return None
    notes = (
        "The paper starts Contriever at a Hit Rate@5 of 0.391 on NQ and 0.516 on TriviaQA, where 0.478 and "
        "0.594 are published: its gains are from a lower start.",
    )
    head = ("data", "retriever", *(f"Hit Rate@{k}" for k in _KS), "source")
    return Table("Published retrievers on the same test questions", head, tuple(rows), 2, notes)
