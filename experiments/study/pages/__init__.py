"""The pages of the study, written from the table of all results alone."""

from collections.abc import Callable, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

from datamodules.durable_files import write_durably
from experiments.study import collapse, prediction, stopping, tables, teacher_table
from experiments.study.cells import Result
from experiments.study.derived import derive
from experiments.study.numbers import Numbers
from experiments.study.pages.collapse_page import of_collapse
from experiments.study.pages.prediction_page import of_prediction
from experiments.study.pages.stopping_page import of_stopping
from experiments.study.pages.tables_page import of_tables
from experiments.study.pages.teachers_page import of_teachers
from experiments.study.pages.templates import Rows, fill
from experiments.study.pages.text import rows_over
from experiments.study.results_file import TABLE, Table, read_whole, write_table

ADVICE, SUMMARY, HOW = "advice.template.md", "summary.template.md", "how.template.md"
"""Written by hand, with names of rows for numbers (`templates`): a page of its own; the findings in ten
sentences, which open the README; what was run and what was cut down for the cost, which ends it."""
_ADVICE_PAGE = "advice.md"
README = "README.md"


def write_pages(out: Path, table: Table | None = None) -> None:
    """Computes what several cells say together, and writes the table with it, the pages and the figures.

    Whatever can be refused is made before the first of them is written.

    Args:
        out: folder of the table, of the pages written by hand and of those that are written; tables in
            folders below that they name numbers of must have been rendered.
        table: results of cells; None = those of the table that is there.

    Raises:
        ConfigError: see `fill`; nothing has been written then.
    """
    table = table or read_whole(out / TABLE)
    numbers = derive(table.results)
    written_by_hand = fill_all(out, Rows(table.results, numbers, out))
    with TemporaryDirectory() as drawn:
        pages = pages_of(table.results, numbers, written_by_hand, Path(drawn))
        figures = {path.name: path.read_text(encoding="utf-8") for path in sorted(Path(drawn).iterdir())}
    write_table(table, numbers, out / TABLE)
    for name, text in {**figures, **pages}.items():
        write_durably(out / name, text)


def fill_all(folder: Path, rows: Rows) -> dict[str, str]:
    """Those pages written by hand that are there, with their numbers.

    Raises:
        ConfigError: see `fill`.
    """
    return {name: fill(folder / name, rows) for name in (ADVICE, SUMMARY, HOW) if (folder / name).is_file()}


def pages_of(
    results: Sequence[Result], numbers: Numbers, written_by_hand: dict[str, str], figures: Path
) -> dict[str, str]:
    """The text of each page for which there are results, by the name of its file; draws the figures too.

    Args:
        results: of cells; tables show what is of one of them, figures its curves.
        numbers: that are computed from several, for all else that pages say.
        written_by_hand: from `fill_all`.
        figures: folder that the figures are drawn into.
    """
    writers: dict[str, Callable[[Sequence[Result], Numbers, Path], tuple[list[str], list[str]]]] = {
        prediction.NAME: of_prediction,
        stopping.NAME: of_stopping,
        teacher_table.NAME: of_teachers,
        collapse.NAME: of_collapse,
        tables.NAME: of_tables,
    }
    pages: dict[str, str] = {}
    findings: list[str] = []
    for name, write in writers.items():
        found, page = write(results, numbers, figures)
        if page:
            pages[f"{name}.md"] = _joined(page)
            findings += [f"**{name}** ([all numbers]({name}.md); {rows_over(name)})", "", *found, ""]
    lines = ["# The study", "", _ABOUT, ""]
    if SUMMARY in written_by_hand:
        lines += [written_by_hand[SUMMARY].rstrip(), ""]
    lines += ["## Findings", "", *findings]
    if ADVICE in written_by_hand:
        pages[_ADVICE_PAGE] = written_by_hand[ADVICE]
        lines += [f"What follows for who wants to train a retriever: [advice]({_ADVICE_PAGE}).", ""]
    if HOW in written_by_hand:
        lines += [written_by_hand[HOW]]
    return {**pages, README: _joined(lines)}


def _joined(lines: Sequence[str]) -> str:
    return "\n".join(lines).rstrip() + "\n"


_ABOUT = (
    "Does the pre-flight check know beforehand what a teacher does to a retriever? Written by `python -m "
    "experiments.study` from [results.parquet](results.parquet), which has a row for each cell and measure, "
    "and for each number that is computed from several cells (part `derived`); numbers in square brackets "
    "are 95% intervals."
)
