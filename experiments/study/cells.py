"""Cells of the study, and what is kept of each: a file that later calls find."""

import dataclasses
import json
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from datamodules.durable_files import durably
from datamodules.sealed_files import read_json, write_json
from experiments.config import ConfigError
from lightning_modules.metrics.estimates import Estimate

_SCHEMA = pa.schema(
    [
        ("part", pa.string()),
        ("cell", pa.string()),
        ("seed", pa.int32()),
        ("factors", pa.string()),
        ("measure", pa.string()),
        ("value", pa.float64()),
        ("low", pa.float64()),
        ("high", pa.float64()),
        ("n", pa.int32()),
        ("questions", pa.list_(pa.float32())),
    ]
)
_SETTINGS, _SECOND = b"settings", b"second_reader"


@dataclass(frozen=True)
class Cell:
    """One experiment of the study.

    Attributes:
        part: of the study that it belongs to.
        factors: what is varied, by name.
        seed: of what is random in it.
    """

    part: str
    factors: tuple[tuple[str, str], ...]
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
        parts = [self.part, *(f"{name}={_fit(value)}" for name, value in self.factors), f"seed={self.seed}"]
        return "/".join(parts)

    def __getitem__(self, factor: str) -> str:
        return dict(self.factors)[factor]


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

    def rows(self) -> list[dict[str, Any]]:
        """As rows of the table of all results."""
        about = {
            "part": self.cell.part,
            "cell": self.cell.name,
            "seed": self.cell.seed,
            "factors": json.dumps(dict(self.cell.factors)),
        }
        names = dict.fromkeys([*self.measures, *self.questions])
        unknown = Estimate(math.nan, math.nan, math.nan, 0)
        return [
            about
            | {"measure": name, "questions": self.questions.get(name)}
            | _row(self.measures.get(name, unknown))
            for name in names
        ]


def _row(of: Estimate) -> dict[str, Any]:
    found = {"value": of.mean, "low": of.low, "high": of.high}
    return {**{name: None if math.isnan(value) else value for name, value in found.items()}, "n": of.n}


def exactly(value: float) -> Estimate:
    """A number without an interval."""
    return Estimate(float(value), math.nan, math.nan, 1)


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


def write_table(results: Iterable[Result], path: Path, settings: str, second: str = "") -> None:
    """All results as one Parquet file, a row for each cell and measure; cells that are in it alone stay.

    Args:
        results: of the cells.
        path: of the file.
        settings: that they are of.
        second: name of the second reader, which cells call `second` whichever it is; empty = there is none,
            and the file's stays.

    Raises:
        ConfigError: the file holds results of other settings, or of another second reader.
    """
    by_cell = {result.cell: result for result in results}
    if path.is_file():
        noted = pq.read_schema(path).metadata or {}
        if noted.get(_SETTINGS, b"").decode() != settings:
            raise ConfigError(
                f"{path} holds results of other settings, which are not mixed with these; give another --out"
            )
        its_second = noted.get(_SECOND, b"").decode()
        if second and its_second and second != its_second:
            raise ConfigError(
                f"{path} holds results of the second reader {its_second}, which are not mixed with those of "
                f"{second}; give another --out"
            )
        second = second or its_second
        by_cell = {result.cell: result for result in read_table(path)} | by_cell
    ordered = sorted(by_cell.values(), key=lambda result: result.cell.name)
    rows = [row for result in ordered for row in result.rows()]
    path.parent.mkdir(parents=True, exist_ok=True)
    schema = _SCHEMA.with_metadata({_SETTINGS: settings.encode(), _SECOND: second.encode()})
    with durably(path) as partial:
        pq.write_table(pa.Table.from_pylist(rows, schema=schema), partial, compression="zstd")


def read_table(path: Path) -> list[Result]:
    """The results that `write_table` wrote, without the seconds that each took."""
    by_cell: dict[str, Result] = {}
    for row in pq.read_table(path).to_pylist():
        factors: Mapping[str, str] = json.loads(row["factors"])
        cell = Cell(row["part"], tuple(factors.items()), row["seed"])
        result = by_cell.setdefault(row["cell"], Result(cell))
        if row["n"]:
            mean, low, high = (math.nan if row[of] is None else row[of] for of in ("value", "low", "high"))
            result.measures[row["measure"]] = Estimate(mean, low, high, row["n"])
        if row["questions"] is not None:
            result.questions[row["measure"]] = row["questions"]
    return list(by_cell.values())


def of_part(results: Sequence[Result], part: str) -> list[Result]:
    """Those of a part."""
    return [result for result in results if result.cell.part == part]
