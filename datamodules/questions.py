"""Question files of every supported format -> `Question`s."""

import ast
import csv
import json
import random
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any

from datamodules import beir, squad
from datamodules.answer_matching import dpr_tokens
from datamodules.batches import Question
from datamodules.choices import Choice
from datamodules.errors import DataError
from datamodules.records import (
    Record,
    RecordIds,
    dataset_rows,
    existing_data,
    first_of,
    is_saved_dataset,
    json_lines,
    json_list,
    missing,
    objects_under,
    optional_text,
    parquet_rows,
    whole_json,
)
from datamodules.text_files import first_line, format_suffix, numbered_lines
from datamodules.trec import Qrels

# Where a question stands ("nq.jsonl, line 3"), for messages, and the question.
_Placed = tuple[str, Question]

_ID = ("id", "_id", "qid", "query_id", "question_id")
_QUESTION = ("question", "query", "text")
_ANSWERS = ("answer", "answers", "golden_answers")
_OTHERS = ("title", "topic", "target")
_GOLD_PASSAGES = "positive_ctxs"
_KEYS = (*_ID, *_QUESTION, *_ANSWERS, *_OTHERS)


class QuestionFormat(Choice):
    """Formats of question files, plain or gzipped.

    A record's question is under "question", "query" or "text", its answers (a string, a list, or SQuAD's and
    TriviaQA's structures on the Hugging Face hub) under "answer", "answers" or "golden_answers", its id under
    "id", "_id", "qid", "query_id" or "question_id"; it may have a "title", that of the passage that answers
    it (else of the first of DPR's "positive_ctxs"), a "topic" and a "target", the canonical answer. Ids are
    kept as they are; where no record has one, it is the number of its line or row.

    Attributes:
        AUTO: by the file's suffix, then by its first line.
        JSONL: one object a line. NQ-open is published like this, Atlas's and FlashRAG's files are.
        JSON: one list of such objects, as DPR's training files are.
        DPR: `question<TAB>['answer', "answer"]` without a header, fields quoted as in CSV where needed:
            `nq-*.qa.csv` and `trivia-*.qa.csv.gz` of the DPR release.
        TRIVIAQA: one JSON object whose `Data` lists the questions: the files of the TriviaQA release. The
            answer's `Value` is the canonical one.
        SQUAD: SQuAD's JSON; questions without an answer (`is_impossible`) are left out.
        QRELS: BEIR's `qrels/SPLIT.tsv`, or judgements in Parquet: the queries, read from beside or above it,
            with the passages judged relevant to each, see `datamodules.beir`.
        PARQUET: a column for each of the keys above: NQ-open and TriviaQA on the Hugging Face hub.
        DATASET: a folder that `save_to_disk` of Hugging Face datasets has written, likewise.
    """

    AUTO = "auto"
    JSONL = "jsonl"
    JSON = "json"
    DPR = "dpr"
    TRIVIAQA = "triviaqa"
    SQUAD = "squad"
    QRELS = "qrels"
    PARQUET = "parquet"
    DATASET = "dataset"


def read_questions(
    path: Path | str,
    format: QuestionFormat | str = QuestionFormat.AUTO,
    limit: int | None = None,
    needs_answers: bool = True,
) -> list[Question]:
    """Reads a question file.

    Surrounding whitespace and repeated answers go; where no question has an id, it is the number of its line.
    DPR and TriviaQA files may list blank answers beside real ones (nobody can correct a published file):
    those are left out.

    Args:
        path: the file, plain or gzipped, or a folder of `QuestionFormat.DATASET`.
        format: see `QuestionFormat`.
        limit: read no further than this many questions.
        needs_answers: False = a question may come without any, which is enough for training on signals that
            need none. Those of `QuestionFormat.QRELS` need none either way: judgements stand in for them.

    Raises:
        DataError: no such file, unknown format, a broken line (the message names it), a question or answer
            that is missing or blank, an id given twice or to some only, no question at all.
    """
    path = existing_data(path, "question file")
    check_limit(limit)
    format = QuestionFormat(format)
    if format is QuestionFormat.AUTO:
        format = _format_of(path)
    placed = _READERS[format](path, needs_answers)
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


HELD_OUT = "held_out"
"""In place of a file's name: questions taken out of the training file."""
_HELD_OUT_SHARE, _MOST_HELD_OUT = 5, 1000


def hold_out(questions: Sequence[Question], splits: Sequence[str], seed: int) -> dict[str, list[Question]]:
    """Takes a fifth of the questions, at most 1,000, for each of some splits.

    A question that is asked more than once is in one split, in all of its places.

    Args:
        questions: of one file.
        splits: their names.
        seed: the same seed gives the same splits on every machine.

    Returns:
        Those splits, and what is left as `train`, each in the order of `questions`.

    Raises:
        DataError: there are fewer than five different questions.
    """
    distinct = list(dict.fromkeys(question.words for question in questions))
    size = min(_MOST_HELD_OUT, len(distinct) // _HELD_OUT_SHARE)
    if not size:
        raise DataError(
            f"{HELD_OUT} needs at least {_HELD_OUT_SHARE} different questions, there are {len(distinct)}; "
            "give validation and test files of their own"
        )
    random.Random(seed).shuffle(distinct)
    split_of = dict.fromkeys(distinct, "train")
    for number, split in enumerate(splits):
        split_of |= dict.fromkeys(distinct[number * size : (number + 1) * size], split)
    return {
        split: [question for question in questions if split_of[question.words] == split]
        for split in ("train", *splits)
    }


def _format_of(path: Path) -> QuestionFormat:
    if is_saved_dataset(path):
        return QuestionFormat.DATASET
    match format_suffix(path):
        case ".jsonl":
            return QuestionFormat.JSONL
        case ".csv" | ".tsv":
            return QuestionFormat.QRELS if beir.is_judgements(path, first_line(path)) else QuestionFormat.DPR
        case ".parquet":
            return QuestionFormat.QRELS if beir.is_judgements(path) else QuestionFormat.PARQUET
    first = first_line(path)
    if first.startswith("["):
        return QuestionFormat.JSON
    if "\t" in first and not first.startswith("{"):
        return QuestionFormat.QRELS if beir.is_judgements(path, first) else QuestionFormat.DPR
    if not first.startswith("{"):
        known = ", ".join(choice.value for choice in QuestionFormat if choice is not QuestionFormat.AUTO)
        raise DataError(
            f"{path}: neither the name nor the first line tells the format; choose one of: {known}"
        )
    return _format_of_objects(path, first)


def _format_of_objects(path: Path, first: str) -> QuestionFormat:
    """Of a file that begins with an object: one a line, or one alone."""
    try:
        whole = json.loads(first)
    except RecursionError:  # reading it will say so
        return QuestionFormat.JSONL
    except ValueError:
        # a line that ends inside a question's object is a broken line, no release of one object
        if any(f'"{key}"' in first for key in _QUESTION):
            return QuestionFormat.JSONL
        whole = whole_json(path)
        return QuestionFormat.SQUAD if "data" in whole else QuestionFormat.TRIVIAQA
    if "Data" in whole:
        return QuestionFormat.TRIVIAQA
    return QuestionFormat.SQUAD if isinstance(whole.get("data"), list) else QuestionFormat.JSONL


def _of_records(records: Iterable[Record], needs_answers: bool) -> Iterator[_Placed]:
    ids = RecordIds("question", _ID)
    for where, record in records:
        id = ids.of(record, where)
        given = [record[key] for key in _ANSWERS if record.get(key) is not None]
        if not given and needs_answers:
            raise missing(where, "answer", record, _ANSWERS)
        answers = [answer for value in given for answer in _listed(value, where)]
        if any(_is_blank(answer) for answer in answers) and not any(isinstance(v, dict) for v in given):
            raise DataError(f"{where}: a blank answer in {answers}; fill it in or take it out")
        yield (
            where,
            Question(
                id=id,
                text=_question_of(record, where),
                answers=_distinct((a for a in answers if not _is_blank(a)), where) if given else (),
                title=title_of(record, where),
                topic=optional_text(record, ("topic",), where),
                canonical_answer=_canonical_of(record, where),
            ),
        )


def _question_of(record: dict[str, Any], where: str) -> str:
    if not any(key in record for key in _QUESTION):
        raise missing(where, "question", record, _QUESTION)
    return _question_text(first_of(record, _QUESTION), where)


def title_of(record: dict[str, Any], where: str) -> str:
    """The title of the passage that answers a record's question; "" where it names none.

    Args:
        record: of a question file.
        where: it stands, for messages.

    Raises:
        DataError: the title is no text.
    """
    title = optional_text(record, ("title",), where)
    gold = record.get(_GOLD_PASSAGES)
    if title or not gold:
        return title
    # gold passages of other forms are somebody else's
    named = isinstance(gold, list) and isinstance(gold[0], dict) and isinstance(gold[0].get("title"), str)
    return gold[0]["title"].strip() if named else ""


def _canonical_of(record: dict[str, Any], where: str) -> str:
    answer = first_of(record, _ANSWERS)
    if isinstance(answer, dict):
        return _canonical(answer.get("value"))
    return optional_text(record, ("target",), where)


def _read_jsonl(path: Path, needs_answers: bool) -> Iterator[_Placed]:
    return _of_records(json_lines(path), needs_answers)


def _read_json(path: Path, needs_answers: bool) -> Iterator[_Placed]:
    return _of_records(json_list(path), needs_answers)


def _read_parquet(path: Path, needs_answers: bool) -> Iterator[_Placed]:
    return _of_records(parquet_rows(path, _KEYS), needs_answers)


def _read_dataset(path: Path, needs_answers: bool) -> Iterator[_Placed]:
    return _of_records(dataset_rows(path, _KEYS), needs_answers)


def _read_squad(path: Path, needs_answers: bool) -> Iterator[_Placed]:
    return _of_records(squad.read_asked(path), needs_answers)


def _read_qrels(path: Path, needs_answers: bool) -> Iterator[_Placed]:
    return _judged(beir.folder_of(path), beir.read_qrels([path]))


def read_judged_questions(folder: Path, qrels: Qrels) -> list[Question]:
    """The queries of a set of BEIR for which a passage is judged relevant, in the order of the judgements.

    Args:
        folder: of the set.
        qrels: see `beir.read_qrels`.

    Raises:
        DataError: a file is missing or broken, or does not hold a query that is judged.
    """
    return _with_unique_ids(_judged(folder, qrels))


def _judged(folder: Path, qrels: Qrels) -> Iterator[_Placed]:
    positives = {query: relevant for query, of in qrels.items() if (relevant := beir.relevant_in(of))}
    found: dict[str, _Placed] = {}
    files = beir.files_of(folder, beir.QUERIES)
    records = (record for path in files for record in beir.rows(path, _KEYS))
    for where, question in _of_records(records, needs_answers=False):
        if question.id in positives:
            found[question.id] = where, replace(question, positives=positives[question.id])
    for query in positives:
        if query not in found:
            raise DataError(f"{files[0]} holds no query {query!r}, which is judged; add it")
        yield found[query]


def _read_dpr(path: Path, needs_answers: bool) -> Iterator[_Placed]:
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
    began_at = 1
    try:
        for row in rows:
            if any(field.strip() for field in row):
                yield began_at, row
            began_at = rows.line_num + 1
    except csv.Error as error:
        raise DataError(
            f"{path}, line {began_at}: not CSV ({error}); is a quotation mark opened and never closed?"
        ) from error


def _read_triviaqa(path: Path, needs_answers: bool) -> Iterator[_Placed]:
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
                id=optional_text(record, ("QuestionId",), where) or str(position),
                text=_question_text(record.get("Question"), where),
                answers=_distinct((answer for answer in answers if not _is_blank(answer)), where),
                canonical_answer=_canonical(value),
            ),
        )


def _triviaqa_records(path: Path) -> list[dict[str, Any]]:
    release = whole_json(path)
    records = objects_under(release, "Data")
    if records is None:
        raise DataError(
            f'{path}: no list of questions under "Data", as TriviaQA has it; choose another format'
        )
    return records


_READERS: dict[QuestionFormat, Callable[[Path, bool], Iterator[_Placed]]] = {
    QuestionFormat.JSONL: _read_jsonl,
    QuestionFormat.JSON: _read_json,
    QuestionFormat.DPR: _read_dpr,
    QuestionFormat.TRIVIAQA: _read_triviaqa,
    QuestionFormat.SQUAD: _read_squad,
    QuestionFormat.QRELS: _read_qrels,
    QuestionFormat.PARQUET: _read_parquet,
    QuestionFormat.DATASET: _read_dataset,
}


def _with_unique_ids(placed: Iterable[_Placed]) -> list[Question]:
    places: dict[str, str] = {}
    questions = []
    for where, question in placed:
        if question.id in places:
            raise DataError(
                f"{where}: id {question.id!r} is taken by {places[question.id]}; give each its own"
            )
        places[question.id] = where
        questions.append(question)
    return questions


def _question_text(value: object, where: str) -> str:
    if not isinstance(value, str) or not value.strip():
        raise DataError(f"{where}: no question (found {value!r}); fill it in or leave the question out")
    return " ".join(value.split())


def _listed(value: object, where: str) -> list[str]:
    """An answer or several, as a list."""
    if isinstance(value, dict) and "text" in value:  # SQuAD on the hub
        value = value["text"]
    elif isinstance(value, dict) and "value" in value:  # TriviaQA there
        # the aliases normalised by TriviaQA are the same answers once more, to EM, F1 and Hit Rate
        value = [answer for answer in (value["value"], *(value.get("aliases") or ())) if answer is not None]
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
