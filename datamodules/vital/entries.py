"""Lines of the Vital QA files, and the corpus articles that they ask about."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from datamodules import embedded
from datamodules.text_files import existing_file, numbered_lines

KEYS = ("question", "answer", "title", "topic")


@dataclass(frozen=True)
class Article:
    """A passage of the embedded corpus, with its topic."""

    text: str
    topic: str


@dataclass(frozen=True)
class Entry:
    """A well-formed line of a Vital QA file.

    Attributes:
        file: name of the file, for messages.
        line: number of the line in it, from 1.
        question, answers, title, topic: as in the file.
    """

    file: str
    line: int
    question: str
    answers: tuple[str, ...]
    title: str
    topic: str


@dataclass(frozen=True)
class Fault:
    """What is wrong, and where: a line of a file, or the whole set (`line` 0)."""

    file: str
    line: int
    message: str

    def __str__(self) -> str:
        return (
            f"{self.file}, line {self.line}: {self.message}" if self.line else f"{self.file}: {self.message}"
        )


def fault_of(entry: Entry, message: str) -> Fault:
    """A fault in the line of `entry`."""
    return Fault(entry.file, entry.line, message)


def read_entries(path: Path) -> tuple[list[Entry], list[Fault]]:
    """The well-formed lines of a file, and a fault for each of the others.

    Raises:
        DataError: there is no such file, or it is not UTF-8.
    """
    entries, faults = [], []
    for number, line in numbered_lines(existing_file(path, "Vital QA file")):
        try:
            record = json.loads(line)
        except (ValueError, RecursionError) as error:
            faults.append(Fault(path.name, number, f"not JSON: {error}"))
            continue
        message = format_fault(record)
        if message:
            faults.append(Fault(path.name, number, message))
        else:
            answers = tuple(record["answer"])
            question, title, topic = (record[key] for key in ("question", "title", "topic"))
            entries.append(Entry(path.name, number, question, answers, title, topic))
    return entries, faults


def format_fault(record: Any) -> str:
    """What is wrong with the form of a line's JSON value; "" where nothing is."""
    if not isinstance(record, dict):
        return f"a JSON {type(record).__name__} instead of an object"
    if tuple(record) != KEYS:
        return f"the keys are {', '.join(record)}; they must be {', '.join(KEYS)}, in this order"
    for key in ("question", "title", "topic"):
        if not _is_text(record[key]):
            return f'"{key}" must be text without blanks around it, not {record[key]!r}'
    answers = record["answer"]
    if not isinstance(answers, list) or not answers or not all(map(_is_text, answers)):
        return f'"answer" must be a list of texts without blanks around them, not {answers!r}'
    return ""


def read_articles() -> Mapping[str, Article]:
    """Title -> article of the embedded corpus, for the passages that `read_vital_passages` yields.

    Raises:
        DataError: the package with the corpus is not installed.
    """
    topics = json.loads(embedded.corpus_file().read_text(encoding="utf-8"))
    return {
        passage.title: Article(passage.text, topics[passage.title]["topic"])
        for passage in embedded.read_vital_passages()
    }


def _is_text(value: Any) -> bool:
    return isinstance(value, str) and bool(value) and value == value.strip()
