"""Records of every kind of file that holds some -> dictionaries, each with the place where it stands."""

import json
from collections.abc import Callable, Collection, Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from datamodules.errors import DataError
from datamodules.text_files import format_suffix, json_items, json_objects, numbered_lines, parse_json

Record = tuple[str, dict[str, Any]]
"""Where it stands ("nq.jsonl, line 3"), for messages, and what it holds."""
Records = Callable[[Path, Collection[str]], Iterator[Record]]
"""Reads records; columnar files give the named keys alone (each record has all that the file has of them)."""

_SPLITS = "dataset_dict.json"
_STATE = "state.json"
_BEIR = "queries.jsonl"


def existing_data(path: Path | str, what: str) -> Path:
    """The path of a file that is there, or of a data set's folder.

    Args:
        path: where to look; `~` is the home folder.
        what: what it holds, for the message ("question file").

    Raises:
        DataError: there is neither.
    """
    path = Path(path).expanduser()
    if path.is_file() or (path / _STATE).is_file():
        return path
    place = f"{what} {path.absolute()}"
    if not path.is_dir():
        raise DataError(f"{place} does not exist; give the path of a readable file")
    if (path / _SPLITS).is_file():
        names = ", ".join(sorted(folder.parent.name for folder in path.glob(f"*/{_STATE}")))
        raise DataError(f"{place} is a data set with the splits {names}; give one of their folders")
    if (path / _BEIR).is_file():
        raise DataError(
            f"{place} is a folder in BEIR's format; give a file of its qrels/ as questions, its corpus.jsonl "
            "as passages"
        )
    raise DataError(
        f"{place} is a folder; give the path of a readable file, or of a folder that save_to_disk of Hugging "
        "Face datasets has written"
    )


def is_saved_dataset(path: Path) -> bool:
    """Whether it is a folder that `save_to_disk` of Hugging Face datasets has written for one split."""
    return (path / _STATE).is_file()


def changed_at(path: Path) -> tuple[int, int]:
    """Size in bytes and time of the last change, in ns, of a file or of all files of a folder."""
    statuses = [file.stat() for file in ([path] if path.is_file() else sorted(path.iterdir()))]
    return sum(status.st_size for status in statuses), max(status.st_mtime_ns for status in statuses)


# ---- kinds of files ----


def json_lines(path: Path, keys: Collection[str] = ()) -> Iterator[Record]:
    """An object a line.

    Raises:
        DataError: see `json_objects`.
    """
    for number, record in json_objects(path):
        yield f"{path}, line {number}", record


def json_list(path: Path, keys: Collection[str] = ()) -> Iterator[Record]:
    """One list of objects.

    Raises:
        DataError: see `json_items`, or one is no object.
    """
    for number, record in json_items(path):
        if not isinstance(record, dict):
            raise DataError(
                f"{path}: not one JSON list of objects, its item {number} is a JSON {type(record).__name__}; "
                "choose another format"
            )
        yield f"{path}, object {number}", record


def whole_json(path: Path) -> Any:
    """What a JSON file holds.

    Raises:
        DataError: it is broken.
    """
    text = "\n".join(line for _, line in numbered_lines(path))
    return parse_json(text, str(path), "is the file whole?")


def objects_under(whole: Any, key: str) -> list[dict[str, Any]] | None:
    """The list of objects that an object holds under a key; None where it is none."""
    listed = whole.get(key) if isinstance(whole, dict) else None
    is_list = isinstance(listed, list) and all(isinstance(item, dict) for item in listed)
    return listed if is_list else None


def parquet_rows(path: Path, keys: Collection[str]) -> Iterator[Record]:
    """Rows of a parquet file.

    Raises:
        DataError: it cannot be read.
    """
    try:
        with pq.ParquetFile(path) as file:
            names = [name for name in file.schema_arrow.names if name in keys] or file.schema_arrow.names
            yield from _rows(path, file.iter_batches(batch_size=1024, columns=names))
    except PARQUET_ERRORS as error:
        raise _no_parquet(path, error) from error


def _no_parquet(path: Path, error: Exception) -> DataError:
    return DataError(f"{path}: cannot be read as parquet ({error}); is the file whole?")


PARQUET_ERRORS = (pa.ArrowException, OSError, ValueError, OverflowError, MemoryError)
"""What pyarrow raises where a file is damaged: a text that is not UTF-8, say, or a size beyond all memory."""


def is_parquet(path: Path) -> bool:
    """Whether a file's name says that it is Parquet."""
    return format_suffix(path) == ".parquet"


def column_names(path: Path) -> list[str]:
    """Of a parquet file.

    Raises:
        DataError: it cannot be read.
    """
    try:
        return list(pq.read_schema(path).names)
    except PARQUET_ERRORS as error:
        raise _no_parquet(path, error) from error


def lines_or_rows(path: Path, keys: Collection[str] = ()) -> Iterator[Record]:
    """Of JSON lines or Parquet, by the file's name.

    Raises:
        DataError: as `json_lines` and `parquet_rows`.
    """
    return parquet_rows(path, keys) if is_parquet(path) else json_lines(path)


def dataset_rows(path: Path, keys: Collection[str]) -> Iterator[Record]:
    """Rows of a folder that `save_to_disk` of Hugging Face datasets has written, in its order.

    Raises:
        DataError: it cannot be read, or its rows are chosen by a file of indices (old versions wrote such).
    """
    try:
        state = json.loads((path / _STATE).read_text())
        if state.get("_indices_data_files"):
            raise DataError(
                f"{path}: its rows are chosen by a file of indices; save it anew after flatten_indices()"
            )
        files = [path / file["filename"] for file in state["_data_files"]]
        yield from _rows(path, (batch for file in files for batch in _batches(file, keys)))
    except (*PARQUET_ERRORS, KeyError, TypeError, AttributeError, RecursionError) as error:
        if isinstance(error, DataError):
            raise
        raise DataError(
            f"{path}: cannot be read as a saved data set ({error}); is the folder whole?"
        ) from error


def _batches(file: Path, keys: Collection[str]) -> Iterator[pa.RecordBatch]:
    with pa.memory_map(str(file)) as mapped, pa.ipc.open_stream(mapped) as batches:
        for batch in batches:
            batch.validate(full=True)  # places beyond the file's end would crash the process
            names = [name for name in batch.schema.names if name in keys] or batch.schema.names
            yield batch.select(names)


def _rows(path: Path, batches: Iterator[pa.RecordBatch]) -> Iterator[Record]:
    number = 0
    for batch in batches:
        for start in range(0, batch.num_rows, 1024):  # as Python objects they take much more memory
            for record in batch.slice(start, 1024).to_pylist():
                number += 1
                yield f"{path}, row {number}", record


# ---- keys ----


def first_of(record: dict[str, Any], keys: Collection[str]) -> Any:
    """The value of the first key that has one; None where none has."""
    return next((record[key] for key in keys if record.get(key) is not None), None)


def missing(where: str, what: str, record: dict[str, Any], keys: Collection[str]) -> DataError:
    """The error for a record without any of the keys that could hold something, such as "no question"."""
    expected = " or ".join(f'"{key}"' for key in keys)
    found = ", ".join(f'"{key}"' for key in record) or "none"
    return DataError(f"{where}: no {what}: it has the keys {found}; expected {expected}")


def number_of(where: str) -> str:
    """The line or row where a record stands, which is the id of one that has none."""
    return where.rpartition(" ")[2]


class RecordIds:
    """Ids of the records of a file: their own, or where none has one, where they stand.

    Numbers in place of some ids could be the ids of others.

    Args:
        kind: what a record is called in messages.
        keys: of the id.
    """

    def __init__(self, kind: str, keys: Collection[str]) -> None:
        self._kind, self._keys = kind, keys
        self._first_has_id: bool | None = None

    def of(self, record: dict[str, Any], where: str) -> str:
        """The id of the next record.

        Raises:
            DataError: it has an id and the first one none, or none and the first one has one.
        """
        given = optional_text(record, self._keys, where)
        if self._first_has_id is None:
            self._first_has_id = bool(given)
        elif bool(given) != self._first_has_id:
            raise DataError(
                f"{where}: the {self._kind} has {'an' if given else 'no'} id, and the first one has "
                f"{'one' if self._first_has_id else 'none'}; give all of them ids, or none"
            )
        return given or number_of(where)


def optional_text(record: dict[str, Any], keys: Collection[str], where: str) -> str:
    """Text or a whole number under the first of some keys that has a value, as text; "" where none has.

    Raises:
        DataError: it is something else.
    """
    value = first_of(record, keys)
    if value is None:
        return ""
    if isinstance(value, bool) or not isinstance(value, str | int):
        key = next(key for key in keys if record.get(key) is not None)
        raise DataError(f'{where}: "{key}" is {value!r}; give a string or leave it out')
    return str(value).strip()
