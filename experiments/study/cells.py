"""Cells of the study, and what is kept of each: a file that later calls find."""

import dataclasses
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from datamodules.sealed_files import read_json, write_json
from lightning_modules.metrics.estimates import Estimate

Factors = tuple[tuple[str, str], ...]
"""Names and values, in order."""


@dataclass(frozen=True)
class Cell:
    """One experiment of the study.

    Attributes:
        part: of the study that it belongs to.
        factors: what is varied, by name.
        seed: of what is random in it.
    """

    part: str
    factors: Factors
    seed: int = 0

    @classmethod
    def of(cls, part: str, seed: int = 0, **factors: str) -> "Cell":
        """With its factors as keywords."""
        return cls(part, tuple(factors.items()), seed)

    @property
    def name(self) -> str:
        """Stable, and fit for a file: `prediction/teacher=initial-answer/seed=0`.

        Example:
            >>> Cell.of("prediction", 1, teacher="initial question+likelihood").name
            'prediction/teacher=initial-question+likelihood/seed=1'
        """
        return f"{name_of(self.part, self.factors)}/seed={self.seed}"

    def __getitem__(self, factor: str) -> str:
        return dict(self.factors)[factor]


def name_of(part: str, factors: Factors) -> str:
    """A part and factors as the start of a name that is fit for a file."""
    return "/".join([part, *(f"{name}={_fit(value)}" for name, value in factors)])


def _fit(value: str) -> str:
    return re.sub(r"[^\w.+:-]+", "-", value)


@dataclass
class Result:
    """What a cell gave.

    Attributes:
        cell: whose.
        measures: by name; an interval where there is one.
        questions: values by name and question, where intervals over several cells need them.
        seconds: that it took.
    """

    cell: Cell
    measures: dict[str, Estimate] = field(default_factory=dict)
    questions: dict[str, list[float]] = field(default_factory=dict)
    seconds: float = 0.0

    @property
    def headline(self) -> str:
        """The first measure, for who watches."""
        name, found = next(iter(self.measures.items()), ("nothing", exactly(math.nan)))
        return f"{name} {found.mean:+.3f}"


def exactly(value: float, n: int = 1) -> Estimate:
    """A number without an interval: measured once, computed from so many, or a count among so many."""
    return Estimate(float(value), math.nan, math.nan, n)


class Results:
    """The results of all cells that are finished, a file each.

    Args:
        folder: of the files.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def path(self, cell: Cell) -> Path:
        """Of a cell's file."""
        return self.folder / f"{cell.name.replace('/', '__')}.json"

    def has(self, cell: Cell) -> bool:
        """Whether the cell is finished."""
        return self.path(cell).is_file()

    def add(self, result: Result) -> None:
        """Keeps a result."""
        write_json(self.path(result.cell), dataclasses.asdict(result))

    def all(self) -> list[Result]:
        """Of all finished cells, in the order of their names."""
        return [_read(path) for path in sorted(self.folder.glob("*.json"))]


def _read(path: Path) -> Result:
    found = read_json(path)
    cell = found["cell"]
    return Result(
        Cell(cell["part"], tuple((name, value) for name, value in cell["factors"]), cell["seed"]),
        {name: Estimate(**of) for name, of in found["measures"].items()},
        found["questions"],
        found["seconds"],
    )


def of_part(results: Sequence[Result], part: str) -> list[Result]:
    """Those of a part."""
    return [result for result in results if result.cell.part == part]
