"""Passage files of every supported format -> `Passage`s, one at a time."""

import csv
import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from datamodules import beir, squad
from datamodules.batches import Passage
from datamodules.choices import Choice
from datamodules.errors import DataError
from datamodules.records import (
    RecordIds,
    Records,
    dataset_rows,
    existing_data,
    first_of,
    is_saved_dataset,
    json_lines,
    json_list,
    missing,
    optional_text,
    parquet_rows,
)
from datamodules.text_files import format_suffix, numbered_lines

log = logging.getLogger(__name__)

_ID = ("id", "_id", "docid", "doc_id", "passage_id", "pid")
_TEXT = ("text", "contents", "content", "passage")
_TITLE = ("title",)
_KEYS = (*_ID, *_TEXT, *_TITLE)


class PassageFormat(Choice):
    """Formats of passage files, plain or gzipped.

    A record's text is under "text", "contents" (Pyserini), "content" or "passage", its id under "id", "_id"
    (BEIR), "docid", "doc_id", "passage_id" or "pid", its title, which may be missing, under "title". Ids are
    kept as they are.

    Attributes:
        AUTO: by the file's suffix, then by its first line.
        TSV: tab-separated, with a header that names at least text and id in any order, one passage a line:
            `psgs_w100.tsv` of the DPR release. Fields may be quoted as in CSV.
        JSONL: one object a line, such as Pyserini's collections. Where no object has an id, it is the line
            number.
        JSON: one list of such objects.
        SQUAD: the paragraphs of SQuAD's JSON, with the ids `ARTICLE-PARAGRAPH`, both counted from 0.
        BEIR: JSON lines or Parquet whose rows have an `_id`: `corpus.jsonl`. As its published sets need it, a
            passage without text has its title for it, and those with neither are left out, which a warning
            counts.
        PARQUET: a column for each of the keys above.
        DATASET: a folder that `save_to_disk` of Hugging Face datasets has written, likewise.
    """

    AUTO = "auto"
    TSV = "tsv"
    JSONL = "jsonl"
    JSON = "json"
    SQUAD = "squad"
    BEIR = "beir"
    PARQUET = "parquet"
    DATASET = "dataset"


def read_passages(path: Path | str, format: PassageFormat | str = PassageFormat.AUTO) -> Iterator[Passage]:
    """Yields the passages of a file, holding one line at a time (of JSON and SQuAD the whole file).

    A missing file and an unknown format are noticed at once, the rest while reading.

    Args:
        path: the file, plain or gzipped, or a folder of `PassageFormat.DATASET`.
        format: see `PassageFormat`.

    Raises:
        DataError: no such file, unknown format, a missing column or key, a broken line, empty text or an id
            that only some have (the message names the line), no passage at all.
    """
    path = existing_data(path, "passage file")
    format = PassageFormat(format)
    if format is PassageFormat.AUTO:
        format = _format_of(path)
    return _at_least_one(path, _read(path, format))


def _read(path: Path, format: PassageFormat) -> Iterator[Passage]:
    match format:
        case PassageFormat.TSV:
            return _read_tsv(path)
        case PassageFormat.SQUAD:
            return squad.read_paragraphs(path)
        case PassageFormat.BEIR:
            return _read_beir(path)
        case _:
            return _of_records(path, _RECORDS[format])


def _format_of(path: Path) -> PassageFormat:
    if is_saved_dataset(path):
        return PassageFormat.DATASET
    if format_suffix(path) == ".parquet":
        return PassageFormat.BEIR if beir.is_corpus(path) else PassageFormat.PARQUET
    first = next((line for _, line in numbered_lines(path) if line.strip()), "")
    match format_suffix(path):
        case ".tsv":
            return PassageFormat.TSV
        case ".jsonl":
            return PassageFormat.BEIR if beir.is_corpus(path, first) else PassageFormat.JSONL
    if first.lstrip().startswith("["):
        return PassageFormat.JSON
    if first.lstrip().startswith("{"):
        if squad.begins(first):
            return PassageFormat.SQUAD
        return PassageFormat.BEIR if beir.is_corpus(path, first) else PassageFormat.JSONL
    if "\t" in first:
        return PassageFormat.TSV
    known = ", ".join(choice.value for choice in PassageFormat if choice is not PassageFormat.AUTO)
    raise DataError(
        f"{path}: neither the name nor the first line tells the format; choose one of: {known} "
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
    id_column, text_column = (_column(columns, names, path, header_number) for names in (_ID, _TEXT))
    title_column = columns.index("title") if "title" in columns else None
    for number, line in lines:
        fields = _fields(line, len(columns))
        if len(fields) != len(columns):
            raise DataError(
                f"{path}, line {number}: {len(fields)} tab-separated columns where the header has "
                f"{len(columns)}; a passage must be on one line, without tabs in its text"
            )
        where = f"{path}, line {number}"
        title = "" if title_column is None else fields[title_column]
        yield _passage(where, fields[id_column], title, fields[text_column])


def _column(columns: list[str], names: tuple[str, ...], path: Path, header_number: int) -> int:
    found = next((name for name in names if name in columns), None)
    if found is None:
        raise DataError(
            f"{path}, line {header_number}: the header lacks the column {' or '.join(names)} (found: "
            f"{', '.join(columns)}); the first line must name id and text, and may name title, separated by "
            "tabs"
        )
    return columns.index(found)


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


def _read_beir(path: Path) -> Iterator[Passage]:
    num_empty = 0
    for where, record in beir.rows(path, _KEYS):
        id, title = (optional_text(record, (key,), where) for key in ("_id", "title"))
        text = _text_of(record, where).strip()
        if text or title:
            yield _passage(where, id, title if text else "", text or title)
        else:
            num_empty += 1
    if num_empty:
        log.warning("%s: passages left out, which have neither text nor title: %d", path, num_empty)


_RECORDS: dict[PassageFormat, Records] = {
    PassageFormat.JSONL: json_lines,
    PassageFormat.JSON: json_list,
    PassageFormat.PARQUET: parquet_rows,
    PassageFormat.DATASET: dataset_rows,
}


def _of_records(path: Path, read: Records) -> Iterator[Passage]:
    ids = RecordIds("passage", _ID)
    for where, record in read(path, _KEYS):
        id = ids.of(record, where)
        text = _text_of(record, where)
        yield _passage(where, id, optional_text(record, _TITLE, where), text)


def _text_of(record: dict[str, Any], where: str) -> str:
    text = first_of(record, _TEXT)
    if text is None and not any(key in record for key in _TEXT):
        raise missing(where, "text", record, _TEXT)
    if text is not None and not isinstance(text, str):
        key = next(key for key in _TEXT if record.get(key) is not None)
        raise DataError(f'{where}: "{key}" is {text!r}; give a string')
    return text or ""


def _passage(where: str, id: str, title: str, text: str) -> Passage:
    text = text.strip()
    if not text:
        raise DataError(f"{where}: the passage has no text; fill it in or leave the passage out")
    if not id:
        raise DataError(f"{where}: the passage has no id; fill it in")
    return Passage(id=id, title=title.strip(), text=text)
