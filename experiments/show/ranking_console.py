"""Retrievers compared on test collections: on the terminal, and as files."""

import itertools
import math
import re
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console

from datamodules.durable_files import write_durably
from datamodules.sealed_files import write_json
from datamodules.trec import qrels_lines, run_lines
from experiments.ranking import Comparison
from experiments.show.console import console_table, new_console
from lightning_modules.metrics.estimates import Estimate


def print_comparison(comparison: Comparison, console: Console | None = None) -> None:
    """A table of the retrievers, and what each differs by from the first."""
    console = console or new_console()
    measures = list(comparison.values)
    columns = ["", *measures]
    rows = [
        [name, *(f"{comparison.estimates(measure)[row].mean:.3f}" for measure in measures)]
        for row, name in enumerate(comparison.names)
    ]
    counted = f"{comparison.num_questions:,} questions, {comparison.num_passages:,} passages"
    caption = "relevant: holds an answer; judged: what one of these retrievers ranks among its first 100"
    title = f"{comparison.collection} ({counted})"
    console.print(console_table(title, columns, rows, caption if comparison.is_pooled else None))
    for row, name in enumerate(comparison.names[1:], start=1):
        console.print(f"{name}, less {comparison.names[0]} [95%]:", markup=False)
        for measure in measures:
            change = comparison.changes(measure)[row]
            interval = f"[{change.low:+.3f}, {change.high:+.3f}]"
            is_clear = change.low > 0 or change.high < 0
            console.print(
                f"  {measure:12} {change.mean:+.3f} {interval}{'' if is_clear else '  not significant'}",
                markup=False,
            )


def save_comparisons(comparisons: Sequence[Comparison], folder: Path) -> None:
    """Writes `results.json`, and for each collection the qrels and a run of each retriever.

    Raises:
        DataError: an id is empty.
    """
    files = {}
    places = _file_names([comparison.collection for comparison in comparisons])
    for comparison, place in zip(comparisons, places, strict=True):
        files[f"{place}.qrels.trec"] = qrels_lines(comparison.qrels)
        for name, ranking in zip(_file_names(comparison.names), comparison.rankings, strict=True):
            files[f"{place}.{name}.run.trec"] = (
                line
                for question_id, ranked in ranking.items()
                for line in run_lines(question_id, *map(list, zip(*ranked, strict=True)))
            )
    texts = {name: "".join(f"{line}\n" for line in lines) for name, lines in files.items()}
    for name, text in texts.items():
        write_durably(folder / name, text)
    write_json(folder / "results.json", {"collections": [_result(comparison) for comparison in comparisons]})


def _result(comparison: Comparison) -> dict[str, object]:
    def numbers(estimates: Sequence[Estimate]) -> list[dict[str, float | None]]:
        return [{name: _finite(getattr(of, name)) for name in ("mean", "low", "high")} for of in estimates]

    return {
        "collection": comparison.collection,
        "num_questions": comparison.num_questions,
        "num_passages": comparison.num_passages,
        "judgements": "pooled, holds an answer" if comparison.is_pooled else "of the collection",
        "retrievers": comparison.names,
        "means": {measure: numbers(comparison.estimates(measure)) for measure in comparison.values},
        "less_the_first": {measure: numbers(comparison.changes(measure)) for measure in comparison.values},
    }


def _finite(value: float) -> float | None:
    """JSON has no NaN, which the interval of a single question is."""
    return value if math.isfinite(value) else None


def _file_names(names: Sequence[str]) -> list[str]:
    """One for each name, with a number behind it where an earlier one has it."""
    found: list[str] = []
    for name in names:
        plain = re.sub(r"[^\w.-]+", "-", name).strip("-")
        numbered = (plain if copy == 1 else f"{plain}-{copy}" for copy in itertools.count(1))
        found.append(next(free for free in numbered if free not in found))
    return found
