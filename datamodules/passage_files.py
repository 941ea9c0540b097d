"""Passage files of every supported format -> `Passage`s, one at a time."""

import csv
from collections.abc import Iterator
from pathlib import Path

from datamodules.batches import Passage
from datamodules.choices import Choice
from datamodules.errors import DataError
from datamodules.text_files import existing_file, format_suffix, json_objects, numbered_lines

_COLUMNS = ("id", "text", "title")


class PassageFormat(Choice):
    """Formats of passage files, plain or gzipped.

    Attributes:
        AUTO: by the file's suffix, then by its first line.
        TSV: tab-separated, with a header that names at least id, text and title in any order, one passage a
            line: `psgs_w100.tsv` of the DPR release. Fields may be quoted as in CSV.
        JSONL: one object a line: `text`, optionally `id` (default: the line number) and `title`.
    """

    AUTO = "auto"
    TSV = "tsv"
    JSONL = "jsonl"


def read_passages(path: Path | str, format: PassageFormat | str = PassageFormat.AUTO) -> Iterator[Passage]:
    """Yields the passages of a file, holding one line at a time.

    A missing file and an unknown format are noticed at once, the rest while reading.

    Args:
        path: the file, plain or gzipped.
        format: see `PassageFormat`.

    Raises:
        DataError: no such file, unknown format, a missing column, a broken line or empty text (the message
            names the line), no passage at all.
    """
    path = existing_file(path, "passage file")
    format = PassageFormat(format)
    if format is PassageFormat.AUTO:
        format = _format_of(path)
    return _at_least_one(path, _read_tsv(path) if format is PassageFormat.TSV else _read_jsonl(path))


def _format_of(path: Path) -> PassageFormat:
    match format_suffix(path):
        case ".tsv":
            return PassageFormat.TSV
        case ".jsonl":
            return PassageFormat.JSONL
    first = next((line for _, line in numbered_lines(path) if line.strip()), "")
    if first.lstrip().startswith("{"):
        return PassageFormat.JSONL
    if "\t" in first:
        return PassageFormat.TSV
    raise DataError(
        f"{path}: neither the name nor the first line tells the format; choose one of: tsv, jsonl "
        "(columns are separated by tabs)"
    )


def _at_least_one(path: Path, passages: Iterator[Passage]) -> Iterator[Passage]:
    first = next(passages, None)
    if first is None:
        raise DataError(f"{path}: no passage in the whole file; give a file with at least one")
    yield first
    yield from passages


def _read_tsv(path: Path) -> Iterator[Passage]:
    lines = ((number, line) for number, line in numbered_lines(path) if line.strip(" "))
    header_number, header = next(lines, (1, ""))
    columns = [column.strip().strip('"').lower() for column in header.split("\t")]
    missing = [column for column in _COLUMNS if column not in columns]
    if missing:
        raise DataError(
            f"{path}, line {header_number}: the header lacks the column {', '.join(missing)} "
            f"(found: {', '.join(columns)}); the first line must name id, text and title, separated by tabs"
        )
    id_column, text_column, title_column = (columns.index(column) for column in _COLUMNS)
    for number, line in lines:
        fields = _fields(line, len(columns))
        if len(fields) != len(columns):
            raise DataError(
                f"{path}, line {number}: {len(fields)} tab-separated columns where the header has "
                f"{len(columns)}; a passage must be on one line, without tabs in its text"
            )
        yield _passage(path, number, fields[id_column], fields[title_column], fields[text_column])


def _fields(line: str, num_columns: int) -> list[str]:
    """Splits one line, quoted or not.

    Released files come both ways: psgs_w100.tsv is quoted as CSV, others hold bare text in which a quotation
    mark is just that, even at its start. Reading line by line keeps a lone mark from swallowing the file.
    """
    bare = line.split("\t")
    if '"' not in line:
        return bare
    try:
        quoted = next(csv.reader([line], delimiter="\t", strict=True))
    except csv.Error:
        return bare
    return quoted if len(quoted) == num_columns else bare


def _read_jsonl(path: Path) -> Iterator[Passage]:
    for number, record in json_objects(path):
        values = {key: _text_of(record.get(key), key, f"{path}, line {number}") for key in _COLUMNS}
        yield _passage(path, number, values["id"] or str(number), values["title"], values["text"])


def _text_of(value: object, key: str, where: str) -> str:
    if value is None:
        return ""
    if key == "id" and isinstance(value, int) and not isinstance(value, bool):
        return str(value)
    if not isinstance(value, str):
        raise DataError(f'{where}: "{key}" is {value!r}; give a string')
    return value


def _passage(path: Path, number: int, id: str, title: str, text: str) -> Passage:
    text = text.strip()
    if not text:
        raise DataError(f"{path}, line {number}: the passage has no text; fill it in or take the line out")
    if not id:
        raise DataError(f"{path}, line {number}: the passage has no id; fill it in")
    return Passage(id=id, title=title.strip(), text=text)
