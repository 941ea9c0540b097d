"""The table of the study: one Parquet file, a row for each cell and measure, and for each derived number."""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from datamodules.durable_files import durably
from experiments.config import ConfigError
from experiments.study.cells import Cell, Result
from experiments.study.numbers import DERIVED, OF, Numbers
from lightning_modules.metrics.estimates import Estimate

TABLE = "results.parquet"
"""Within the folder of the pages: all results."""
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
_IS_DERIVED = pc.field("part") == DERIVED


@dataclass(frozen=True)
class Table:
    """What a table holds beside numbers that are computed from it.

    Attributes:
        results: of cells.
        settings: that they are of.
        second: name of the second reader, which cells call `second` whichever it is; empty = there is none.
    """

    results: Sequence[Result]
    settings: str
    second: str = ""


def read_whole(path: Path) -> Table:
    """What `write_table` wrote, without derived numbers and the seconds that each cell took."""
    noted = pq.read_schema(path).metadata or {}
    return Table(
        read_table(path, keep_undefined=True),
        noted.get(_SETTINGS, b"").decode(),
        noted.get(_SECOND, b"").decode(),
    )


def joined(table: Table, path: Path) -> Table:
    """With the cells that a file has and the table has not; nothing is written.

    In the order and with the precision of the file, so that all that is made of it is what the file gives.

    Raises:
        ConfigError: the file holds results of other settings, or of another second reader.
    """
    there = read_whole(path) if path.is_file() else Table([], table.settings)
    if there.settings != table.settings:
        raise ConfigError(
            f"{path} holds results of other settings, which are not mixed with these; give another --out"
        )
    if table.second and there.second and table.second != there.second:
        raise ConfigError(
            f"{path} holds results of the second reader {there.second}, which are not mixed with those of "
            f"{table.second}; give another --out"
        )
    by_cell = {result.cell: result for result in (*there.results, *map(_as_kept, table.results))}
    ordered = sorted(by_cell.values(), key=lambda result: result.cell.name)
    return Table(ordered, table.settings, table.second or there.second)


def _as_kept(result: Result) -> Result:
    """With values of questions as the file has them: of single precision."""
    kept = {name: np.asarray(values, dtype=np.float32).tolist() for name, values in result.questions.items()}
    return replace(result, questions=kept)


def write_table(table: Table, numbers: Numbers, path: Path) -> None:
    """One Parquet file: a row for each cell and measure, and below them one for each number.

    All at once, so that what is computed from several cells never stands beside others than those.

    Args:
        table: results of cells.
        numbers: that are computed from them.
        path: of the file, which is replaced.
    """
    ordered = sorted(table.results, key=lambda result: result.cell.name)
    rows = [row for result in ordered for row in _rows_of(result)]
    rows += [
        {
            "part": DERIVED,
            "cell": derived.name,
            "factors": json.dumps(dict(derived.factors)),
            "measure": name,
            **_columns_of(found),
        }
        for derived in numbers
        for name, found in derived.measures.items()
    ]
    schema = _SCHEMA.with_metadata({_SETTINGS: table.settings.encode(), _SECOND: table.second.encode()})
    path.parent.mkdir(parents=True, exist_ok=True)
    with durably(path) as partial:
        pq.write_table(pa.Table.from_pylist(rows, schema=schema), partial, compression="zstd")


def read_table(path: Path, keep_undefined: bool = False) -> list[Result]:
    """The results of cells that `write_table` wrote, without the seconds that each took.

    Args:
        path: of the table.
        keep_undefined: whether with measures that are undefined (NaN), which have rows of their own.
    """
    by_cell: dict[str, Result] = {}
    for row in pq.read_table(path, filters=~_IS_DERIVED).to_pylist():
        factors: Mapping[str, str] = json.loads(row["factors"])
        cell = Cell(row["part"], tuple(factors.items()), row["seed"])
        result = by_cell.setdefault(row["cell"], Result(cell))
        if row["n"] or (keep_undefined and row["questions"] is None):
            result.measures[row["measure"]] = _estimate_of(row)
        if row["questions"] is not None:
            result.questions[row["measure"]] = row["questions"]
    return list(by_cell.values())


def read_derived(path: Path) -> Numbers:
    """The numbers that `write_table` wrote below them, in their order."""
    numbers = Numbers()
    for row in pq.read_table(path, filters=_IS_DERIVED).to_pylist():
        factors: dict[str, str] = json.loads(row["factors"])
        numbers.add(factors.pop(OF), {row["measure"]: _estimate_of(row)}, **factors)
    return numbers


def _rows_of(result: Result) -> list[dict[str, Any]]:
    about = {
        "part": result.cell.part,
        "cell": result.cell.name,
        "seed": result.cell.seed,
        "factors": json.dumps(dict(result.cell.factors)),
    }
    unknown = Estimate(math.nan, math.nan, math.nan, 0)
    return [
        about
        | {"measure": name, "questions": result.questions.get(name)}
        | _columns_of(result.measures.get(name, unknown))
        for name in dict.fromkeys([*result.measures, *result.questions])
    ]


def _columns_of(of: Estimate) -> dict[str, Any]:
    found = {"value": of.mean, "low": of.low, "high": of.high}
    return {**{name: None if math.isnan(value) else value for name, value in found.items()}, "n": of.n}


def _estimate_of(row: Mapping[str, Any]) -> Estimate:
    mean, low, high = (math.nan if row[of] is None else row[of] for of in ("value", "low", "high"))
    return Estimate(mean, low, high, row["n"])
