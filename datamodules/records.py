"""Rows of JSON-lines and Parquet files alike."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from datamodules.errors import DataError
from datamodules.text_files import format_suffix, json_objects

PARQUET_ERRORS = (pa.ArrowException, OSError, ValueError, OverflowError, MemoryError)
"""What pyarrow raises where a file is damaged: a text that is not UTF-8, say, or a size beyond all memory."""


def is_parquet(path: Path) -> bool:
    """Whether a file's name says that it is Parquet."""
    return format_suffix(path) == ".parquet"


def numbered_records(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    """Yields (number from 1, row); the number is the line's in JSON lines.

    Raises:
        DataError: the file cannot be read, or a line is not one JSON object.
    """
    if not is_parquet(path):
        yield from json_objects(path)
        return
    try:
        with pq.ParquetFile(path) as file:
            batches = (batch.to_pylist() for batch in file.iter_batches())
            yield from enumerate((record for batch in batches for record in batch), start=1)
    except PARQUET_ERRORS as error:
        raise DataError(f"{path}: not a Parquet file ({error})") from error
