"""Score files: what others' trainers read, and what is read of others' files."""

import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from datamodules.errors import DataError
from datamodules.score_files import (
    ScoredQuestion,
    ScoreFormat,
    read_scores,
    text_files_of,
    write_scores,
)
from datamodules.trec import read_run
from tests.tiny_models import toy_knowledge_base, toy_passages, toy_questions

SCORED = [
    ScoredQuestion(toy_questions()[0], tuple(toy_passages()[i] for i in (3, 0, 12)), (-2.5, -0.25, -1.5)),
    ScoredQuestion(toy_questions()[1], tuple(toy_passages()[i] for i in (1, 13, 5)), (-0.125, -3.0, -4.0)),
]


def rows(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


@pytest.mark.parametrize("format", ScoreFormat)
def test_what_is_written_is_read_again(tmp_path, format):
    path = tmp_path / "scores.jsonl"
    assert write_scores(path, format, SCORED) == 0
    found = read_scores(path, toy_questions(), toy_knowledge_base(tmp_path))
    for one, expected in zip(found, (one.best_first() for one in SCORED), strict=True):
        assert one.question.text == expected.question.text
        assert one.scores == expected.scores
        assert [p.full_text for p in one.passages] == [p.full_text for p in expected.passages]


def test_sentence_transformers_has_a_column_a_passage_and_the_scores_in_their_order(tmp_path):
    path = tmp_path / "scores.jsonl"
    short = ScoredQuestion(toy_questions()[2], tuple(toy_passages()[:2]), (0.0, -1.0))
    assert write_scores(path, ScoreFormat.SENTENCE_TRANSFORMERS, [*SCORED, short]) == 1
    first, second = rows(path)
    assert list(first) == ["query", "positive", "negative_1", "negative_2", "label"]
    assert first["positive"] == toy_passages()[0].full_text
    assert first["label"] == [-0.25, -1.5, -2.5]
    assert second["query"] == toy_questions()[1].text


def test_tevatron_and_pylate_and_trec_rows(tmp_path):
    path = tmp_path / "scores.jsonl"
    write_scores(path, ScoreFormat.TEVATRON, SCORED)
    row = rows(path)[0]
    assert [p["docid"] for p in row["positive_passages"]] == ["c0"]
    assert [(p["docid"], p["score"]) for p in row["negative_passages"]] == [("r0", -1.5), ("c3", -2.5)]
    write_scores(path, ScoreFormat.PYLATE, SCORED)
    assert rows(path)[0] == {
        "query_id": "q0",
        "document_ids": ["c0", "r0", "c3"],
        "scores": [-0.25, -1.5, -2.5],
    }
    queries, documents = map(rows, text_files_of(path))
    assert queries[1] == {"query_id": "q1", "text": toy_questions()[1].text}
    assert len(documents) == 6
    assert set(documents[0]) == {"document_id", "text"}
    write_scores(path, ScoreFormat.TREC, SCORED)
    assert path.read_text().splitlines()[1] == "q0 Q0 r0 2 -1.500000 attention-distillation"
    assert read_run(path)["q1"] == [("c1", -0.125), ("r1", -3.0), ("c5", -4.0)]


def test_parquet_of_a_hub_is_read_and_a_question_may_come_twice(tmp_path):
    knowledge_base = toy_knowledge_base(tmp_path)
    columns = {"query_id": [0, 0], "document_ids": [["c0", "c1"], ["c2"]], "scores": [[1.0, 0.5], [2.0]]}
    pq.write_table(pa.table(columns), tmp_path / "train.parquet")
    questions = [type(q)(id="0", text=q.text, answers=q.answers) for q in toy_questions()[:1]]
    found = read_scores(tmp_path / "train.parquet", questions, knowledge_base)
    assert [one.question.id for one in found] == ["0", "0+"]
    assert found[1].passages == (toy_passages()[2],)


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ({"question": "a"}, "line 1: its keys question are of no known format"),
        ({"query": "a", "positive": "b", "negative": "c", "label": [1.0]}, "1 scores for 2 passages"),
        ({"query": "a", "positive": "b", "label": [float("nan")]}, "not all finite"),
        ({"query": "a", "positive": "b", "negative_x": "c", "label": [1, 2]}, "negative_x is none of"),
        ({"query_id": "q0", "document_ids": ["nowhere"], "scores": [1]}, "no passage has the id 'nowhere'"),
        ({"query_id": "nobody", "document_ids": ["c0"], "scores": [1]}, "no training question has the id"),
        ({"query_id": 1, "query": "a", "positive_passages": [{"docid": 1}]}, "is missing"),
        ("q0 Q0 c0 1 high tag", "not a line of a TREC run"),
        ("", "no scores in the whole file"),
    ],
)
def test_broken_files_are_refused_with_their_place(tmp_path, line, said):
    path = tmp_path / "scores.jsonl"
    path.write_text(line if isinstance(line, str) else json.dumps(line) + "\n")
    with pytest.raises(DataError, match=said):
        read_scores(path, toy_questions(), toy_knowledge_base(tmp_path))
