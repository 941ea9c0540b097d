"""SQuAD's JSON: articles with paragraphs, and the questions that each paragraph answers."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from datamodules.batches import Passage
from datamodules.errors import DataError
from datamodules.records import objects_under, whole_json


def begins(line: str) -> bool:
    """Whether a file whose first line this is may be SQuAD's: one object with "data" (or just opened)."""
    opened = "".join(line.split())
    return opened == "{" or opened.startswith(('{"data":', '{"version":'))


def read_paragraphs(path: Path) -> Iterator[Passage]:
    """Every paragraph, with its article's title.

    Raises:
        DataError: not SQuAD's JSON, or a paragraph without text.
    """
    for where, number, title, paragraph in _paragraphs(path):
        text = paragraph.get("context")
        if not isinstance(text, str) or not text.strip():
            raise DataError(f"{where}: the paragraph has no context; fill it in or leave the paragraph out")
        yield Passage(number, title, text.strip())


def read_asked(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """Every question that has an answer: where it stands, and `id`, `question`, `answers`, `title`.

    SQuAD 2's unanswerable questions (`is_impossible`) are left out: nothing about them can be judged.

    Raises:
        DataError: not SQuAD's JSON.
    """
    for where, _, title, paragraph in _paragraphs(path):
        for position, asked in enumerate(_list_of(paragraph, "qas", where)):
            if not asked.get("is_impossible"):
                place = f"{where}.qas[{position}]"
                answers = [answer.get("text") for answer in _list_of(asked, "answers", place)]
                found = {key: asked.get(key) for key in ("id", "question")}
                yield place, {**found, "answers": answers, "title": title}


def _paragraphs(path: Path) -> Iterator[tuple[str, str, str, dict[str, Any]]]:
    """(where, id, title of the article, paragraph)"""
    release = whole_json(path)
    if not isinstance(release, dict):
        raise DataError(f'{path}: not SQuAD\'s JSON, which is one object with "data"; choose another format')
    for number, article in enumerate(_list_of(release, "data", str(path))):
        place = f"{path}, data[{number}]"
        for position, paragraph in enumerate(_list_of(article, "paragraphs", place)):
            where = f"{place}.paragraphs[{position}]"
            yield where, f"{number}-{position}", str(article.get("title", "")), paragraph


def _list_of(record: dict[str, Any], key: str, where: str) -> list[dict[str, Any]]:
    value = objects_under(record, key)
    if value is None:
        raise DataError(f'{where}: no list of objects under "{key}", as SQuAD has it; choose another format')
    return value
