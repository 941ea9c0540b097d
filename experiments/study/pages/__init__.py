"""The pages of the study, written from the table of all results alone."""

import re
from collections.abc import Callable, Sequence
from pathlib import Path

from experiments.config import ConfigError
from experiments.study import collapse, prediction, stopping, tables, teacher_table
from experiments.study.cells import Result
from experiments.study.pages.collapse_page import of_collapse
from experiments.study.pages.prediction_page import of_prediction
from experiments.study.pages.stopping_page import of_stopping
from experiments.study.pages.tables_page import of_tables
from experiments.study.pages.teachers_page import of_teachers

ADVICE = "advice.md"
"""Written by hand; each cell that it cites, `(cell: NAME)`, must be in the table."""
SUMMARY = "summary.md"
"""Written by hand likewise: the findings in ten sentences."""
_HOW = "how.md"
"""Written by hand: what was run, and what was cut down for the cost."""


def write_pages(results: Sequence[Result], out: Path) -> None:
    """Writes the pages for which there are results into a folder.

    Raises:
        ConfigError: the advice, or the summary, cites a cell that is not there.
    """
    out.mkdir(parents=True, exist_ok=True)
    for cites in (ADVICE, SUMMARY):
        check_advice(results, out / cites)
    writers: dict[str, Callable[[Sequence[Result], Path], tuple[list[str], list[str]]]] = {
        prediction.NAME: of_prediction,
        stopping.NAME: of_stopping,
        teacher_table.NAME: of_teachers,
        collapse.NAME: of_collapse,
        tables.NAME: of_tables,
    }
    findings: list[str] = []
    for name, write in writers.items():
        found, page = write(results, out)
        if not page:
            continue
        (out / f"{name}.md").write_text("\n".join(page).rstrip() + "\n", encoding="utf-8")
        findings += [f"**{name}** ([all numbers]({name}.md))", "", *found, ""]
    how = out / _HOW
    lines = ["# The study", "", _ABOUT, ""]
    summary = out / SUMMARY
    if summary.is_file():
        lines += [summary.read_text(encoding="utf-8").rstrip(), ""]
    lines += ["## Findings", "", *findings]
    if (out / ADVICE).is_file():
        lines += [f"What follows for who wants to train a retriever: [advice]({ADVICE}).", ""]
    if how.is_file():
        lines += [how.read_text(encoding="utf-8").rstrip()]
    (out / "README.md").write_text("\n".join(lines).rstrip() + "\n", encoding="utf-8")


_ABOUT = (
    "Does the pre-flight check know beforehand what a teacher does to a retriever? Written by `python -m "
    "experiments.study` from [results.parquet](results.parquet), which has a row for each cell and measure; "
    "numbers in square brackets are 95% intervals."
)


def check_advice(results: Sequence[Result], path: Path) -> None:
    """Refuses advice that cites a cell which the table does not hold.

    Raises:
        ConfigError: names the first of them.
    """
    if not path.is_file():
        return
    cells = {result.cell.name for result in results}
    for cited in re.findall(r"`([a-z]+/[^`]*seed=\d+)`", path.read_text(encoding="utf-8")):
        if cited not in cells:
            raise ConfigError(
                f"{path} cites {cited}, which is no cell of the table; run it, or correct the page"
            )
