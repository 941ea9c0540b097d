"""Retrieval numbers that others have published, for the sides of paper-scale runs."""

from collections.abc import Sequence
from pathlib import Path

from omegaconf import OmegaConf

from experiments.show.document import Table
from experiments.show.report_rows import Entry
from experiments.show.report_tables import DATA_MEANING, NO_VALUE, dataset_label
from lightning_modules.metrics.measures import hit_rate_measure

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
    hit_rates = [hit_rate_measure(k) for k in _KS]
    meanings = {
        "data": DATA_MEANING,
        "retriever": "what was searched with",
        **{hit_rate.label: hit_rate.meaning for hit_rate in hit_rates},
        "source": "where the numbers were published",
    }
    title = "Published retrievers on the same test questions"
    return Table(title, tuple(meanings), tuple(rows), num_labels=2, notes=notes, meanings=meanings)
