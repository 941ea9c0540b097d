"""Files of a teacher's scores for questions and candidate passages, in the formats that trainers read.

A score is a logit: the softmax over a question's candidates is what the teacher would have a retriever learn.
"""

import contextlib
import hashlib
import json
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from datamodules.batches import Passage, Question
from datamodules.choices import Choice
from datamodules.durable_files import write_durably
from datamodules.errors import DataError
from datamodules.passages import KnowledgeBase
from datamodules.records import is_parquet, lines_or_rows
from datamodules.text_files import existing_file
from datamodules.trec import is_run, read_run, run_lines


class ScoreFormat(Choice):
    """Formats of score files."""

    SENTENCE_TRANSFORMERS = "sentence-transformers"
    """A JSON object a line: `query`, `positive`, `negative_1` ..., and `label`, a list of their scores, the
    positive's first (`DistillKLDivLoss`, `MarginMSELoss`)."""
    TEVATRON = "tevatron"
    """A JSON object a line: `query_id`, `query`, `positive_passages` and `negative_passages`, lists of
    `docid`, `title`, `text` and `score`."""
    PYLATE = "pylate"
    """A JSON object a line: `query_id`, `document_ids`, `scores`; the texts in two files beside it."""
    TREC = "trec"
    """A TREC run: `query_id Q0 document_id rank score tag`."""


@dataclass(frozen=True)
class ScoredQuestion:
    """A question with candidates and a teacher's scores of them.

    Attributes:
        question: without its answers where the file is read.
        passages: the candidates; the first is the positive one where a format has such.
        scores: of each.
    """

    question: Question
    passages: tuple[Passage, ...]
    scores: tuple[float, ...]

    def best_first(self) -> "ScoredQuestion":
        """The same in the order of the scores."""
        order = sorted(range(len(self.scores)), key=lambda i: -self.scores[i])
        return ScoredQuestion(
            self.question, tuple(self.passages[i] for i in order), tuple(self.scores[i] for i in order)
        )


@dataclass(frozen=True)
class _Format:
    """How a format is written and read.

    Attributes:
        lines: of the file, from questions whose best passage is first.
        parse: a row of it; None = a row of a TREC run is one passage of a question.
        is_row: whether a JSON object is such a row.
    """

    lines: Callable[[ScoredQuestion], Iterator[str]]
    parse: Callable[[dict[str, Any]], "_Row"] | None
    is_row: Callable[[dict[str, Any]], bool]


@dataclass(frozen=True)
class _Row:
    """A question as a file has it: texts, or ids of texts that are elsewhere."""

    question_id: str
    text: str | None
    passages: Sequence[Passage | str]
    scores: Sequence[Any]


# ---- writing ----


def write_scores(path: Path, format: ScoreFormat, scored: Sequence[ScoredQuestion]) -> int:
    """Writes a score file whole or not at all; for PyLate also its `.queries.jsonl` and `.documents.jsonl`.

    The positive passage, where a format has one, is the one with the highest score.

    Args:
        path: of the file.
        format: of the file.
        scored: at least one question.

    Returns:
        Questions left out: sentence-transformers has as many negatives for each question, so those with fewer
        candidates than the most go.

    Raises:
        DataError: an id is empty, for a TREC run.
    """
    questions = [one.best_first() for one in scored]
    if format is ScoreFormat.SENTENCE_TRANSFORMERS:
        most = max(len(one.passages) for one in questions)
        questions = [one for one in questions if len(one.passages) == most]
    text = "".join(f"{line}\n" for one in questions for line in _FORMATS[format].lines(one))
    if format is ScoreFormat.PYLATE:
        _write_texts(path, questions)
    write_durably(path, text)
    return len(scored) - len(questions)


def text_files_of(path: Path) -> tuple[Path, Path]:
    """Where PyLate's queries and documents lie beside their scores."""
    return path.with_suffix(".queries.jsonl"), path.with_suffix(".documents.jsonl")


def _write_texts(path: Path, questions: Sequence[ScoredQuestion]) -> None:
    queries = [{"query_id": one.question.id, "text": one.question.text} for one in questions]
    texts = {passage.id: passage.full_text for one in questions for passage in one.passages}
    documents = [{"document_id": id, "text": text} for id, text in texts.items()]
    for file, rows in zip(text_files_of(path), (queries, documents), strict=True):
        write_durably(file, "".join(f"{_json(row)}\n" for row in rows))


def _sentence_transformers_lines(scored: ScoredQuestion) -> Iterator[str]:
    positive, *negatives = scored.passages
    yield _json(
        {
            "query": scored.question.text,
            "positive": positive.full_text,
            **{f"negative_{i}": passage.full_text for i, passage in enumerate(negatives, start=1)},
            "label": list(scored.scores),
        }
    )


def _tevatron_lines(scored: ScoredQuestion) -> Iterator[str]:
    passages = [
        {"docid": passage.id, "title": passage.title, "text": passage.text, "score": score}
        for passage, score in zip(scored.passages, scored.scores, strict=True)
    ]
    question = scored.question
    yield _json(
        {
            "query_id": question.id,
            "query": question.text,
            "answers": list(question.answers),
            "positive_passages": passages[:1],
            "negative_passages": passages[1:],
        }
    )


def _pylate_lines(scored: ScoredQuestion) -> Iterator[str]:
    yield _json(
        {
            "query_id": scored.question.id,
            "document_ids": [passage.id for passage in scored.passages],
            "scores": list(scored.scores),
        }
    )


def _trec_lines(scored: ScoredQuestion) -> Iterator[str]:
    ids = [passage.id for passage in scored.passages]
    yield from run_lines(scored.question.id, ids, scored.scores)


def _json(record: dict[str, Any]) -> str:
    return json.dumps(record, ensure_ascii=False)


# ---- reading ----


def read_scores(
    path: Path | str, questions: Sequence[Question], knowledge_base: KnowledgeBase
) -> list[ScoredQuestion]:
    """Reads a score file of anybody's: a `ScoreFormat`, told by its first row, as lines or as Parquet.

    Args:
        path: the file.
        questions: those that formats with ids mean.
        knowledge_base: with the passages that formats with ids mean.

    Raises:
        DataError: no such file, an unknown format, a broken row (the message names it), an id of no question
            or passage.
    """
    path = existing_file(path, "score file")
    rows = list(_run_rows(path) if not is_parquet(path) and is_run(path) else _json_rows(path))
    if not rows:
        raise DataError(f"{path}: no scores in the whole file; give a file with at least one question")
    wanted = [passage for _, row in rows for passage in row.passages if isinstance(passage, str)]
    found = knowledge_base.find(wanted) if wanted else {}
    known = {question.id: question for question in questions}
    scored: dict[str, ScoredQuestion] = {}
    for where, row in rows:
        passages = tuple(found[of] if isinstance(of, str) else of for of in row.passages)
        question = _question_of(row, known, where)
        while question.id in scored:  # asked again, about other passages
            question = replace(question, id=f"{question.id}+")
        scored[question.id] = ScoredQuestion(question, passages, _checked(row, where))
    return list(scored.values())


def _question_of(row: _Row, known: Mapping[str, Question], where: str) -> Question:
    if row.text is not None:
        return Question(row.question_id, row.text, ())
    if row.question_id not in known:
        raise DataError(
            f"{where}: no training question has the id {row.question_id!r}; name their file in data.train"
        )
    return known[row.question_id]


def _checked(row: _Row, where: str) -> tuple[float, ...]:
    if len(row.scores) != len(row.passages):
        raise DataError(
            f"{where}: {len(row.scores)} scores for {len(row.passages)} passages; there must be one for each"
        )
    if not all(_is_number(score) for score in row.scores):
        raise DataError(f"{where}: the scores {str(row.scores)[:300]} are not all finite numbers")
    return tuple(float(score) for score in row.scores)


def _is_number(score: Any) -> bool:
    """Whether it is a finite one; JSON also has whole ones of any length."""
    try:
        return isinstance(score, int | float) and not isinstance(score, bool) and math.isfinite(score)
    except OverflowError:
        return False


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise TypeError(f"{str(value)[:100]} is no text")
    return value


def _json_rows(path: Path) -> Iterator[tuple[str, _Row]]:
    format: _Format | None = None
    for where, record in lines_or_rows(path):
        if format is None:
            format = next((known for known in _FORMATS.values() if known.is_row(record)), None)
        if format is None or format.parse is None:
            raise DataError(
                f"{where}: its keys {', '.join(record)} are of no known format of scores: "
                f"{', '.join(ScoreFormat)}"
            )
        try:
            row = format.parse(record)
        except (KeyError, TypeError, ValueError, RecursionError) as error:
            missing = f"{error} is missing" if isinstance(error, KeyError) else str(error)
            raise DataError(f"{where}: broken ({missing})") from error
        yield where, row


def _sentence_transformers_row(record: dict[str, Any]) -> _Row:
    negatives = sorted(
        (key for key in record if key.startswith("negative") and record[key] is not None), key=_number
    )
    texts = [record["positive"], *(record[key] for key in negatives)]
    passages = [Passage(_hash(text), "", text) for text in map(_text, texts)]
    query = _text(record["query"])
    return _Row(_hash(query), query, passages, list(record["label"]))


def _number(key: str) -> int:
    digits = key.removeprefix("negative").removeprefix("_")
    with contextlib.suppress(ValueError):
        return int(digits or 0)
    raise ValueError(f"the key {key} is none of negative, negative_1, negative_2 ...")


def _hash(text: str) -> str:
    """An id for a text that has none."""
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _tevatron_row(record: dict[str, Any]) -> _Row:
    given = [*record["positive_passages"], *record["negative_passages"]]
    passages = [
        Passage(str(one["docid"]), _text(one.get("title") or ""), _text(one["text"])) for one in given
    ]
    return _Row(str(record["query_id"]), _text(record["query"]), passages, [one["score"] for one in given])


def _pylate_row(record: dict[str, Any]) -> _Row:
    ids, scores = (
        json.loads(record[key]) if isinstance(record[key], str) else record[key]
        for key in ("document_ids", "scores")
    )
    return _Row(str(record["query_id"]), None, [str(id) for id in ids], list(scores))


def _run_rows(path: Path) -> Iterator[tuple[str, _Row]]:
    for question_id, found in read_run(path).items():
        ids, scores = zip(*found, strict=True)
        yield f"{path}, question {question_id}", _Row(question_id, None, ids, scores)


_FORMATS = {
    ScoreFormat.SENTENCE_TRANSFORMERS: _Format(
        _sentence_transformers_lines,
        _sentence_transformers_row,
        lambda record: {"query", "positive", "label"} <= record.keys(),
    ),
    ScoreFormat.TEVATRON: _Format(
        _tevatron_lines, _tevatron_row, lambda record: {"query", "positive_passages"} <= record.keys()
    ),
    ScoreFormat.PYLATE: _Format(
        _pylate_lines, _pylate_row, lambda record: {"document_ids", "scores"} <= record.keys()
    ),
    ScoreFormat.TREC: _Format(_trec_lines, None, lambda record: False),
}
