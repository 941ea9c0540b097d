"""The table of the study: one Parquet file, a row for each cell and measure, and for each derived number."""

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

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


def write_table(results: Iterable[Result], path: Path, settings: str, second: str = "") -> None:
    """All results as one Parquet file, a row for each cell and measure; cells that are in it alone stay.

    So do its derived numbers, those of the last rendering, until `write_derived` replaces them.

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
    rows = [row for result in ordered for row in _rows_of(result)]
    path.parent.mkdir(parents=True, exist_ok=True)
    schema = _SCHEMA.with_metadata({_SETTINGS: settings.encode(), _SECOND: second.encode()})
    derived = [pq.read_table(path, filters=_IS_DERIVED)] if path.is_file() else []
    _write([pa.Table.from_pylist(rows, schema=schema), *derived], path)


def write_derived(numbers: Numbers, path: Path) -> None:
    """Puts a row for each number into the table, in place of all such rows that it had; cells stay."""
    rows = [
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
    cells = pq.read_table(path, filters=~_IS_DERIVED)
    _write([cells, pa.Table.from_pylist(rows, schema=_SCHEMA)], path)


def _write(tables: Sequence[pa.Table], path: Path) -> None:
    """One below the other, with the metadata of the first."""
    schema = _SCHEMA.with_metadata(tables[0].schema.metadata)
    with durably(path) as partial:
        pq.write_table(
            pa.concat_tables([table.cast(schema) for table in tables]), partial, compression="zstd"
        )


def read_table(path: Path) -> list[Result]:
    """The results of cells that `write_table` wrote, without the seconds that each took."""
    by_cell: dict[str, Result] = {}
    for row in pq.read_table(path, filters=~_IS_DERIVED).to_pylist():
        factors: Mapping[str, str] = json.loads(row["factors"])
        cell = Cell(row["part"], tuple(factors.items()), row["seed"])
        result = by_cell.setdefault(row["cell"], Result(cell))
        if row["n"]:
            result.measures[row["measure"]] = _estimate_of(row)
        if row["questions"] is not None:
            result.questions[row["measure"]] = row["questions"]
    return list(by_cell.values())


def read_derived(path: Path) -> Numbers:
    """The numbers that `write_derived` wrote, in their order."""
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
