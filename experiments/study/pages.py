"""The pages of the study, written from the table of all results alone."""

from collections.abc import Sequence
from pathlib import Path

from experiments.study.cells import Result


def write_pages(results: Sequence[Result], out: Path) -> None:
    """Writes the pages into a folder."""
    (out / "README.md").write_text(f"{len(results)}\n")
