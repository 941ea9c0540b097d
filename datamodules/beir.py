"""BEIR's layout: queries, a corpus, and judgements of what is relevant (Thakur et al., 2021).

A folder holds `queries.jsonl`, `corpus.jsonl` and `qrels/SPLIT.tsv`, plain or gzipped; or, as on the Hugging
Face hub, Parquet files in folders of these names. Each row of the first two has an `_id`.
"""

import json
import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path

from datamodules.errors import DataError
from datamodules.records import Record, column_names, first_of, is_parquet, lines_or_rows, parquet_rows
from datamodules.text_files import numbered_lines
from datamodules.trec import Qrels

QUERIES, CORPUS, QRELS = "queries", "corpus", "qrels"
_ID = "_id"
_JUDGED = ("query-id", "corpus-id")
_HEADER = (*_JUDGED, "score")
_RELEVANCE = re.compile(r"-?[0-9]{1,9}")


def files_of(folder: Path, part: str, split: str = "test") -> list[Path]:
    """The files of a part of the set: one of text, or any number of Parquet.

    Args:
        folder: of the set.
        part: `QUERIES`, `CORPUS` or `QRELS`.
        split: of the judgements, where they are text.

    Raises:
        DataError: there is none.
    """
    found = _files_of(folder, part, split)
    if not found:
        raise DataError(
            f"{folder}: it holds neither {_text_file(part, split)} nor {part}/*.parquet; a set of BEIR holds "
            "one"
        )
    return found


def folder_of(path: Path) -> Path:
    """The folder that holds the queries of a file of judgements: its own, or the one above, as BEIR has it.

    Raises:
        DataError: they are in neither.
    """
    for folder in (path.parent, path.absolute().parent.parent):
        if _files_of(folder, QUERIES):
            return folder
    raise DataError(
        f"{path}: there is no {_text_file(QUERIES)} beside it or in the folder above, where BEIR has it; put "
        "it there"
    )


def is_corpus(path: Path, first_line: str = "") -> bool:
    """Whether the first row of a file has an `_id` (JSON lines), or all have (Parquet)."""
    if is_parquet(path):
        return _ID in column_names(path)
    with suppress(ValueError, RecursionError):  # reading it will say what is broken
        row = json.loads(first_line)
        return isinstance(row, dict) and _ID in row
    return False


def is_judgements(path: Path, first_line: str = "") -> bool:
    """Whether a file begins as judgements do (text), or has their columns (Parquet)."""
    if is_parquet(path):
        return set(_JUDGED) <= set(column_names(path))
    return tuple(first_line.strip().split("\t")) == _HEADER


def rows(path: Path, keys: Collection[str] = ()) -> Iterator[Record]:
    """Rows of queries or of a corpus.

    Raises:
        DataError: the file cannot be read, or a row has no `_id`.
    """
    for where, record in lines_or_rows(path, keys):
        if record.get(_ID) in (None, ""):
            raise DataError(f'{where}: no "{_ID}"; every row of a set of BEIR has one')
        yield where, record


def read_qrels(paths: Sequence[Path]) -> Qrels:
    """The judgements of some files: relevance by query id and passage id.

    Raises:
        DataError: a line that is no judgement, or no passage that is judged relevant (a score above 0).
    """
    qrels: dict[str, dict[str, int]] = {}
    for path in paths:
        for query, passage, relevance in _judged_rows(path) if is_parquet(path) else _judged_lines(path):
            qrels.setdefault(query, {})[passage] = relevance
    if not any(relevant_in(judged) for judged in qrels.values()):
        raise DataError(f"{paths[0]}: no passage is judged relevant (score above 0); give other judgements")
    return qrels


def relevant_in(judged: Mapping[str, int]) -> frozenset[str]:
    """Ids of the passages that are judged relevant to a query."""
    return frozenset(passage for passage, relevance in judged.items() if relevance > 0)


def _judged_rows(path: Path) -> Iterator[tuple[str, str, int]]:
    for where, record in parquet_rows(path, _HEADER):
        query, passage = (first_of(record, (key,)) for key in _JUDGED)
        relevance = record.get("score", 1)  # NanoBEIR's sets, where all are relevant, have none
        if query is None or passage is None or not isinstance(relevance, int):
            raise DataError(f"{where}: {record} is no judgement, {', '.join(_HEADER)}")
        yield str(query), str(passage), relevance


def _judged_lines(path: Path) -> Iterator[tuple[str, str, int]]:
    for number, line in numbered_lines(path):
        if not line.strip() or (number == 1 and is_judgements(path, line)):
            continue
        fields = line.split("\t")
        if len(fields) != len(_HEADER) or not _RELEVANCE.fullmatch(fields[2].strip()):
            raise DataError(
                f"{path}, line {number}: {fields} is no judgement; write a query's id, a passage's id and a "
                "whole number, separated by tabs"
            )
        yield fields[0], fields[1], int(fields[2])


def _files_of(folder: Path, part: str, split: str = "") -> list[Path]:
    text = folder / _text_file(part, split)
    for path in (text, text.with_name(f"{text.name}.gz")):
        if path.is_file():
            return [path]
    return sorted((folder / part).glob("*.parquet"))


def _text_file(part: str, split: str = "") -> str:
    return f"{part}/{split}.tsv" if part == QRELS else f"{part}.jsonl"
