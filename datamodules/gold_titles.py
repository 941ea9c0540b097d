"""Titles of the passages that answer questions, from files beside those of the questions."""

from collections.abc import Iterator
from pathlib import Path

from datamodules.batches import Question
from datamodules.errors import DataError
from datamodules.questions import title_of
from datamodules.records import Record, json_list, objects_under, whole_json
from datamodules.text_files import existing_file, first_line

_QUESTION_KEYS = ("question", "question_tokens")
"""NQ's own spelling of a question is another than that of DPR's files."""


def read_gold_titles(path: Path | str) -> dict[str, str]:
    """By `Question.words` the title of the passage that answers a question.

    DPR's files of questions name none. Two of its others do: `nq-*_gold_info.json` and the training files,
    such as `biencoder-trivia-dev.json`.

    Args:
        path: one of these files, plain or gzipped: a list of objects, or one object with such a list as
            "data", each with a "question" and a "title", or the gold passages as "positive_ctxs".

    Raises:
        DataError: no such file, a broken one, or one that names no title.
    """
    path = existing_file(path, "file of gold titles")
    titles: dict[str, str] = {}
    for where, record in _records(path):
        title = title_of(record, where)
        for asked in (record.get(key) for key in _QUESTION_KEYS):
            if title and isinstance(asked, str):
                titles.setdefault(Question("", asked, ()).words, title)
    if not titles:
        raise DataError(
            f'{path}: names no title; give a file with a "question" and a "title" or "positive_ctxs" in each '
            "object, or set data.gold_titles=null"
        )
    return titles


def _records(path: Path) -> Iterator[Record]:
    if first_line(path).startswith("["):
        yield from json_list(path)
        return
    listed = objects_under(whole_json(path), "data")
    if listed is None:
        raise DataError(
            f'{path}: neither a list of objects nor an object with such a list as "data"; give a file of '
            "gold passages as DPR publishes them, or set data.gold_titles=null"
        )
    for number, record in enumerate(listed):
        yield f"{path}, data[{number}]", record
