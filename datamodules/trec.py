"""TREC files: runs, which say what was found, and qrels, which say what is relevant."""

import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from urllib.parse import quote, unquote

from datamodules.errors import DataError
from datamodules.text_files import existing_file, numbered_lines

RUN_TAG = "attention-distillation"
"""Last column of runs."""
_RUN_LINE = "`query_id Q0 document_id rank score tag`"

Qrels = Mapping[str, Mapping[str, int]]
"""Relevance by question and passage."""


def run_lines(question_id: str, passage_ids: Sequence[str], scores: Sequence[float]) -> Iterator[str]:
    """The lines of a run for a question, best first.

    Raises:
        DataError: an id is empty.
    """
    for rank, (passage_id, score) in enumerate(zip(passage_ids, scores, strict=True), start=1):
        yield f"{_written(question_id)} Q0 {_written(passage_id)} {rank} {score:.6f} {RUN_TAG}"


def qrels_lines(qrels: Qrels) -> Iterator[str]:
    """The lines of a qrels file, `query_id 0 document_id relevance`.

    Raises:
        DataError: as `run_lines`.
    """
    for question_id, judged in qrels.items():
        for passage_id, relevance in judged.items():
            yield f"{_written(question_id)} 0 {_written(passage_id)} {relevance}"


def read_run(path: Path | str) -> dict[str, list[tuple[str, float]]]:
    """The passages of each question with their scores, best first; of equal ones the first line's.

    Raises:
        DataError: no such file, or a broken line.
    """
    path = existing_file(path, "TREC run")
    found: dict[str, list[tuple[str, float]]] = {}
    for number, line in numbered_lines(path):
        if not line.strip():
            continue
        try:
            question_id, _, passage_id, _, score, _ = line.split()
            found.setdefault(_read(question_id), []).append((_read(passage_id), _finite(score)))
        except ValueError as error:
            raise DataError(f"{path}, line {number}: not a line of a TREC run, {_RUN_LINE}") from error
    for scored in found.values():
        scored.sort(key=lambda pair: -pair[1])
    return found


def is_run(path: Path) -> bool:
    """Whether the first line of a file is one of a run."""
    first = next((line for _, line in numbered_lines(path) if line.strip()), "")
    return len(first.split()) == 6 and not first.lstrip().startswith("{")


def _finite(score: str) -> float:
    if not math.isfinite(float(score)):  # which has no place in an order
        raise ValueError(f"{score} is no score")
    return float(score)


def _written(id: str) -> str:
    """An id as it stands in a file: its white space, which separates columns, as in addresses (`a%20b`)."""
    if not id:
        raise DataError("an empty id cannot stand in a TREC file; give each question and passage one")
    if not _has_space(id):
        return id
    return "".join(quote(letter) if letter.isspace() or letter == "%" else letter for letter in id)


def _read(id: str) -> str:
    """An id that `_written` wrote; any other as it stands."""
    plain = unquote(id)
    return plain if _has_space(plain) else id


def _has_space(text: str) -> bool:
    return any(letter.isspace() for letter in text)
