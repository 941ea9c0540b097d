"""The parts of the study: a name, its cells, and what runs one of them."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from experiments.study import prediction
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
}
"""All parts that run cells, by name, in the order in which they run."""
