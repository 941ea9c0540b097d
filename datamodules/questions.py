"""Question files of every supported format -> `Question`s."""

import ast
import csv
import json
import random
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from datamodules.answer_matching import dpr_tokens
from datamodules.batches import Question
from datamodules.choices import Choice
from datamodules.errors import DataError
from datamodules.records import PARQUET_ERRORS
from datamodules.text_files import existing_file, format_suffix, json_objects, numbered_lines, parse_json

# Where a question stands ("nq.jsonl, line 3"), for messages, and the question.
_Placed = tuple[str, Question]


class QuestionFormat(Choice):
    """Formats of question files, plain or gzipped.

    Attributes:
        AUTO: by the file's suffix, then by its first line.
        JSONL: one object a line: `question`, `answer` or `answers` (a string or a list), optionally `id`,
            `title`, `topic` and `target`, the canonical answer. NQ-open is published like this, Atlas's
            files are.
        DPR: `question<TAB>['answer', "answer"]` without a header, fields quoted as in CSV where needed:
            `nq-*.qa.csv` and `trivia-*.qa.csv.gz` of the DPR release.
        TRIVIAQA: one JSON object whose `Data` lists the questions: the files of the TriviaQA release. The
            answer's `Value` is the canonical one.
        PARQUET: columns `question` and `answer`, which is a list of strings (NQ-open on the Hugging Face hub)
            or holds `value`, the canonical one, and `aliases` (TriviaQA there); the id is the number of the
            row.
    """

    AUTO = "auto"
    JSONL = "jsonl"
    DPR = "dpr"
    TRIVIAQA = "triviaqa"
    PARQUET = "parquet"


def read_questions(
    path: Path | str,
    format: QuestionFormat | str = QuestionFormat.AUTO,
    limit: int | None = None,
    needs_answers: bool = True,
) -> list[Question]:
    """Reads a question file.

    Surrounding whitespace and repeated answers go; a question without an `id` gets its line number. DPR and
    TriviaQA files may list blank answers beside real ones (nobody can correct a published file): those are
    left out.

    Args:
        path: the file, plain or gzipped.
        format: see `QuestionFormat`.
        limit: read no further than this many questions.
        needs_answers: False = a JSONL question may come without any, which is enough for training on signals
            that need none.

    Raises:
        DataError: no such file, unknown format, a broken line (the message names it), a question or answer
            that is missing or blank, an `id` given twice, no question at all.
    """
    path = existing_file(path, "question file")
    check_limit(limit)
    format = QuestionFormat(format)
    if format is QuestionFormat.AUTO:
        format = _format_of(path)
    placed = _read_jsonl(path, needs_answers) if format is QuestionFormat.JSONL else _READERS[format](path)
    questions = _with_unique_ids(islice(placed, limit))
    if not questions:
        raise DataError(f"{path}: no question in the whole file; give a file with at least one")
    return questions


def check_limit(limit: int | None) -> None:
    """Refuses to read no question at all.

    Raises:
        DataError: the limit is below 1.
    """
    if limit is not None and limit < 1:
        raise DataError(f"the limit of questions is {limit}; give 1 or more, or none")


def split_questions(questions: Sequence[Question], sizes: Sequence[int], seed: int) -> list[list[Question]]:
    """Draws disjoint random splits, each in the order of `questions`.

    Used where a published set has fewer splits than the experiments need.

    Args:
        questions: what to draw from.
        sizes: questions in each split; what they leave over is in none.
        seed: the same seed gives the same splits on every machine.

    Raises:
        DataError: a size below 1, or more asked for than there is.
    """
    if any(size < 1 for size in sizes):
        raise DataError(f"the sizes of the splits are {list(sizes)}; each must be 1 or more")
    if sum(sizes) > len(questions):
        raise DataError(
            f"splits of {list(sizes)} need {sum(sizes)} questions, there are {len(questions)}; ask for fewer"
        )
    shuffled = list(range(len(questions)))
    random.Random(seed).shuffle(shuffled)
    remaining = iter(shuffled)
    return [[questions[i] for i in sorted(islice(remaining, size))] for size in sizes]


def _format_of(path: Path) -> QuestionFormat:
    match format_suffix(path):
        case ".jsonl":
            return QuestionFormat.JSONL
        case ".csv" | ".tsv":
            return QuestionFormat.DPR
        case ".parquet":
            return QuestionFormat.PARQUET
    first = next((line.strip() for _, line in numbered_lines(path) if line.strip()), "")
    if "\t" in first and not first.startswith("{"):
        return QuestionFormat.DPR
    if first.startswith("[") or not first.startswith("{"):
        known = ", ".join(choice.value for choice in QuestionFormat if choice is not QuestionFormat.AUTO)
        raise DataError(
            f"{path}: neither the name nor the first line tells the format; choose one of: {known} "
            "(a JSON list is none of them: write one object a line)"
        )
    return QuestionFormat.JSONL if _is_jsonl_record(first) else QuestionFormat.TRIVIAQA


def _is_jsonl_record(line: str) -> bool:
    try:
        return "Data" not in json.loads(line)
    except RecursionError:  # reading it will say so
        return True
    except ValueError:
        # A line that ends inside a question's object is a broken line, not a TriviaQA file.
        return '"question"' in line


def _read_jsonl(path: Path, needs_answers: bool = True) -> Iterator[_Placed]:
    for number, record in json_objects(path):
        where = f"{path}, line {number}"
        given = [record[key] for key in ("answer", "answers") if record.get(key) is not None]
        if not given and needs_answers:
            raise DataError(f'{where}: no answer; add "answer" or "answers" (a string or a list)')
        answers = [answer for value in given for answer in _listed(value, where)]
        if any(_is_blank(answer) for answer in answers):
            raise DataError(f"{where}: a blank answer in {answers}; fill it in or take it out")
        yield (
            where,
            Question(
                id=_optional_text(record, "id", where) or str(number),
                text=_question_text(record.get("question"), where),
                answers=_distinct(answers, where) if given else (),
                title=_optional_text(record, "title", where),
                topic=_optional_text(record, "topic", where),
                canonical_answer=_optional_text(record, "target", where),
            ),
        )


def _read_dpr(path: Path) -> Iterator[_Placed]:
    for number, row in _csv_rows(path):
        where = f"{path}, line {number}"
        if len(row) != 2 or "\t" in row[0]:
            raise DataError(
                f"{where}: {len(row)} tab-separated columns where DPR has two, question<TAB>['answer']; "
                "correct the line (is a quotation mark opened and never closed?)"
            )
        try:
            listed = ast.literal_eval(row[1].strip())
        except (ValueError, SyntaxError, TypeError, RecursionError, MemoryError) as error:  # nested too deep
            raise DataError(
                f"{where}: {row[1][:300]!r} is no list of answers; write ['answer', 'answer']"
            ) from error
        answers = [answer for answer in _listed(listed, where) if not _is_blank(answer)]
        yield where, Question(str(number), _question_text(row[0], where), _distinct(answers, where))


def _csv_rows(path: Path) -> Iterator[tuple[int, list[str]]]:
    """Yields (number of the row's first line, fields) of the rows that are not blank."""
    rows = csv.reader((f"{line}\n" for _, line in numbered_lines(path)), delimiter="\t")
    first_line = 1
    try:
        for row in rows:
            if any(field.strip() for field in row):
                yield first_line, row
            first_line = rows.line_num + 1
    except csv.Error as error:
        raise DataError(
            f"{path}, line {first_line}: not CSV ({error}); is a quotation mark opened and never closed?"
        ) from error


def _read_triviaqa(path: Path) -> Iterator[_Placed]:
    for position, record in enumerate(_triviaqa_records(path)):
        where = f"{path}, Data[{position}]"
        answer = record.get("Answer")
        if not isinstance(answer, dict):
            raise DataError(f"{where}: no answer (TriviaQA publishes its test set without); use train or dev")
        value = answer.get("Value", [])
        answers = [*_listed(value, where), *_listed(answer.get("Aliases", []), where)]
        yield (
            where,
            Question(
                id=_optional_text(record, "QuestionId", where) or str(position),
                text=_question_text(record.get("Question"), where),
                answers=_distinct((answer for answer in answers if not _is_blank(answer)), where),
                canonical_answer=_canonical(value),
            ),
        )


def _triviaqa_records(path: Path) -> list[dict[str, Any]]:
    text = "\n".join(line for _, line in numbered_lines(path))
    release = parse_json(text, str(path), "is the file whole?")
    records = release.get("Data") if isinstance(release, dict) else None
    if not isinstance(records, list) or not all(isinstance(record, dict) for record in records):
        raise DataError(
            f'{path}: no list of questions under "Data", as TriviaQA has it; choose another format'
        )
    return records


def _read_parquet(path: Path) -> Iterator[_Placed]:
    try:
        with pq.ParquetFile(path) as file:
            columns = file.schema_arrow
            rows = file.read(columns=["question", "answer"]).to_pylist()
    except PARQUET_ERRORS as error:
        raise DataError(f"{path}: cannot be read as parquet ({error}); is the file whole?") from error
    if missing := {"question", "answer"} - set(columns.names):
        raise DataError(f"{path}: no column {', '.join(sorted(missing))} (found: {', '.join(columns.names)})")
    is_structured = pa.types.is_struct(columns.field("answer").type)
    for number, row in enumerate(rows, start=1):
        where = f"{path}, row {number}"
        # the aliases normalised by TriviaQA are the same answers once more, to EM, F1 and Hit Rate
        answer = (row["answer"] or {}) if is_structured else row["answer"]
        parts = [answer.get(key) for key in ("value", "aliases")] if is_structured else [answer]
        answers = [answer for part in parts for answer in _listed(part, where) if not _is_blank(answer)]
        yield (
            where,
            Question(
                id=str(number),
                text=_question_text(row["question"], where),
                answers=_distinct(answers, where),
                canonical_answer=_canonical(answer.get("value")) if is_structured else "",
            ),
        )


_READERS: dict[QuestionFormat, Callable[[Path], Iterator[_Placed]]] = {
    QuestionFormat.JSONL: _read_jsonl,
    QuestionFormat.DPR: _read_dpr,
    QuestionFormat.TRIVIAQA: _read_triviaqa,
    QuestionFormat.PARQUET: _read_parquet,
}


def _with_unique_ids(placed: Iterable[_Placed]) -> list[Question]:
    places: dict[str, str] = {}
    questions = []
    for where, question in placed:
        if question.id in places:
            raise DataError(
                f"{where}: id {question.id!r} is taken by {places[question.id]} "
                "(a question without one has its line number); give each its own"
            )
        places[question.id] = where
        questions.append(question)
    return questions


def _question_text(value: object, where: str) -> str:
    if not isinstance(value, str) or not value.strip():
        raise DataError(f"{where}: no question (found {value!r}); fill it in or take the line out")
    return " ".join(value.split())


def _listed(value: object, where: str) -> list[str]:
    """An answer or several, as a list."""
    listed = [value] if isinstance(value, str) else value
    if not isinstance(listed, list | tuple) or not all(isinstance(answer, str) for answer in listed):
        raise DataError(
            f"{where}: answers must be a string or a list of strings, found {value!r}; quote each"
        )
    return list(listed)


def _canonical(value: object) -> str:
    """TriviaQA's `value`, as Atlas trains on it (preprocessing/prepare_qa.py): not in capitals throughout."""
    answer = value.strip() if isinstance(value, str) and not _is_blank(value) else ""
    return answer.title() if answer.isupper() else answer


def _is_blank(answer: str) -> bool:
    # An answer without tokens, if only "\u200b", is found in every passage under DPR's rule.
    return not dpr_tokens(answer)


def _distinct(answers: Iterable[str], where: str) -> tuple[str, ...]:
    distinct = tuple(dict.fromkeys(answer.strip() for answer in answers))
    if not distinct:
        raise DataError(f"{where}: the list of answers is empty; add at least one or take the question out")
    return distinct


def _optional_text(record: dict[str, Any], key: str, where: str) -> str:
    value = record.get(key)
    if value is None:
        return ""
    if isinstance(value, bool) or not isinstance(value, str | int):
        raise DataError(f'{where}: "{key}" is {value!r}; give a string or leave it out')
    return str(value).strip()
