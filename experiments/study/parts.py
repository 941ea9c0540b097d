"""The parts of the study: a name, its cells, and what runs one of them."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from experiments.study import collapse, prediction, tables, teacher_table
from experiments.study.cells import Cell, Result
from experiments.study.material import Material
from experiments.study.readers import Readings


@dataclass(frozen=True)
class Part:
    """A question that the study asks.

    Attributes:
        cells: for some seeds.
        run: gives the result of one.
        meaning: in a line.
    """

    cells: Callable[[Sequence[int]], list[Cell]]
    run: Callable[[Cell, Material, Readings], Result]
    meaning: str


PARTS: dict[str, Part] = {
    prediction.NAME: Part(
        prediction.cells, prediction.run, "does the check know beforehand what a teacher does?"
    ),
    teacher_table.NAME: Part(
        teacher_table.cells, teacher_table.run, "what is known of each signal of each reader?"
    ),
    collapse.NAME: Part(collapse.cells, collapse.run, "when does the paper's signal ruin a retriever?"),
    tables.NAME: Part(tables.cells, tables.run, "is the order of the paper's Table 1 there?"),
}
"""All parts that run cells, by name, in the order in which they run."""
