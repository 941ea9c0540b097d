"""BEIR's judgements: which passages are relevant to which query (Thakur et al., 2021)."""

from pathlib import Path

from datamodules.errors import DataError
from datamodules.text_files import numbered_lines

_HEADER = ("query-id", "corpus-id", "score")
_QUERIES = "queries.jsonl"


def begins(line: str) -> bool:
    """Whether it is the header of BEIR's judgements."""
    return tuple(line.strip().split("\t")) == _HEADER


def read_judgements(path: Path) -> dict[str, frozenset[str]]:
    """Query id -> ids of the passages judged relevant (score above 0), in the order of the file's queries.

    Raises:
        DataError: a line that is no judgement, or no relevant passage in the whole file.
    """
    lines = ((number, line.split("\t")) for number, line in numbered_lines(path) if line.strip())
    _, header = next(lines, (1, []))
    if tuple(header) != _HEADER:
        raise DataError(f"{path}: the first line must be {' '.join(_HEADER)}, separated by tabs")
    relevant: dict[str, set[str]] = {}
    for number, fields in lines:
        if len(fields) != len(_HEADER) or not fields[2].strip().lstrip("-").isdigit():
            raise DataError(
                f"{path}, line {number}: {fields} is no judgement; write a query's id, a passage's id and a "
                "whole number, separated by tabs"
            )
        query, passage, score = fields
        if int(score) > 0:
            relevant.setdefault(query, set()).add(passage)
    if not relevant:
        raise DataError(f"{path}: no passage is judged relevant (score above 0); give other judgements")
    return {query: frozenset(passages) for query, passages in relevant.items()}


def queries_of(path: Path) -> Path:
    """The queries of a file of judgements: beside it, or in the folder above, as BEIR has them.

    Raises:
        DataError: they are in neither.
    """
    for folder in (path.parent, path.absolute().parent.parent):
        for name in (_QUERIES, f"{_QUERIES}.gz"):
            if (folder / name).is_file():
                return folder / name
    raise DataError(
        f"{path}: there is no {_QUERIES} beside it or in the folder above, where BEIR has it; put it there"
    )
