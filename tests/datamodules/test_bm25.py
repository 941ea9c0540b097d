"""BM25 against its formula written out, and the files that it is kept in."""

import math
import re
import sys

import numpy as np
import pytest

from datamodules.batches import Passage
from datamodules.bm25 import BM25Index
from datamodules.errors import DataError
from datamodules.passages import build_knowledge_base
from tests.tiny_models import toy_knowledge_base, toy_passages

K1, B = 1.5, 0.75
STOP_WORDS = {"is", "a", "and", "of", "the", "to"}
"""Those of Lucene's English ones that the toy corpus holds."""


def words_of(text):
    return [word for word in re.findall(r"\b\w\w+\b", text.lower()) if word not in STOP_WORDS]


def written_out(query, passages):
    """Robertson's BM25 as Lucene has it, word by word."""
    documents = [words_of(f"{passage.title} {passage.text}") for passage in passages]
    average = sum(map(len, documents)) / len(documents)
    scores = []
    for document in documents:
        score = 0.0
        for word in words_of(query):
            count, containing = document.count(word), sum(word in other for other in documents)
            rarity = math.log(1 + (len(documents) - containing + 0.5) / (containing + 0.5))
            score += rarity * count / (count + K1 * (1 - B + B * len(document) / average))
        scores.append(score)
    return np.array(scores)


@pytest.fixture
def knowledge_base(tmp_path):
    return toy_knowledge_base(tmp_path)


def test_scores_are_those_of_the_formula(knowledge_base):
    queries = ["What is the capital of Peru?", "rivers of Norway run to the sea", "Lima"]
    scores, rows = BM25Index.build(knowledge_base).search(queries, len(knowledge_base))
    for query, of_query, found in zip(queries, scores, rows, strict=True):
        expected = written_out(query, toy_passages())
        np.testing.assert_allclose(of_query, expected[found], rtol=1e-5, atol=1e-6)
        assert (np.diff(of_query) <= 0).all()
        assert sorted(found.tolist()) == list(range(len(knowledge_base)))


def test_given_passages_are_scored(knowledge_base):
    queries, rows = ["What is the capital of Peru?", "the of"], np.array([[2, 14, 0], [5, 2, 9]])
    scores = BM25Index.build(knowledge_base).scores(queries, rows)
    expected = written_out(queries[0], toy_passages())[rows[0]]
    np.testing.assert_allclose(scores[0], expected, rtol=1e-5, atol=1e-6)
    assert scores[0, 0] > scores[0, 2] > 0
    assert scores[1].tolist() == [0.0, 0.0, 0.0], "stop words alone"


def test_the_best_passage_answers(knowledge_base):
    _, rows = BM25Index.build(knowledge_base).search(["what is the capital of Peru", "Lima"], 1)
    assert [knowledge_base[int(row)].id for row in rows[:, 0]] == ["c2", "c2"]


@pytest.mark.parametrize("text", ["", "the of", "xyzzy"])
def test_a_question_without_a_known_word_still_finds_k(knowledge_base, text):
    scores, rows = BM25Index.build(knowledge_base).search([text], 3)
    assert scores.tolist() == [[0.0, 0.0, 0.0]]
    assert len(set(rows[0].tolist())) == 3


def test_of_passages_that_score_the_same_the_earlier_one_comes_first(tmp_path):
    """What an argpartition leaves to the processor: 40 passages that tie, and 20 that share no word."""
    texts = ["Lima is in Peru" if number % 3 else "rivers run to the sea" for number in range(60)]
    passages = [Passage(str(number), "", text) for number, text in enumerate(texts)]
    index = BM25Index.build(build_knowledge_base(passages, tmp_path / "same.arrow"))
    tied = [number for number in range(60) if number % 3]
    others = [number for number in range(60) if not number % 3]
    for k in (1, 7, 39, 40, 41, 60):
        scores, [rows] = index.search(["Lima"], k)
        assert rows.tolist() == (tied + others)[:k]
        assert scores.dtype == np.float32
    among = np.array([50, 3, 40, 0, 20])
    assert index.search(["Lima"], 4, among)[1].tolist() == [[50, 40, 20, 3]], "as they are given"


@pytest.mark.parametrize("k", [0, 25])
def test_an_impossible_k_is_refused(knowledge_base, k):
    with pytest.raises(ValueError, match=f"k is {k}; it must be between 1 and the 24 passages"):
        BM25Index.build(knowledge_base).search(["Lima"], k)


def test_it_is_built_once_and_mapped_from_then_on(knowledge_base, tmp_path):
    seen = []
    made = BM25Index.cached(knowledge_base, tmp_path / "bm25", seen.append)
    again = BM25Index.cached(knowledge_base, tmp_path / "bm25", seen.append)
    assert sum(seen) == len(knowledge_base)
    assert isinstance(again._index.scores["data"], np.memmap)
    for found, expected in zip(
        again.search(["capital Peru"], 5), made.search(["capital Peru"], 5), strict=True
    ):
        assert np.array_equal(found, expected)
    assert [path.name[0] for path in (tmp_path / "bm25").iterdir()] != ["."]


def test_another_knowledge_base_has_another_index(knowledge_base, tmp_path):
    other = build_knowledge_base([Passage("x", "Lima", "Lima is in Peru")], tmp_path / "other.arrow")
    assert len(BM25Index.cached(knowledge_base, tmp_path / "bm25")) == 24
    assert len(BM25Index.cached(other, tmp_path / "bm25")) == 1
    assert len(list((tmp_path / "bm25").iterdir())) == 2


def test_a_damaged_index_is_built_anew(knowledge_base, tmp_path):
    BM25Index.cached(knowledge_base, tmp_path / "bm25")
    (folder,) = (tmp_path / "bm25").iterdir()
    next(folder.glob("data*")).write_bytes(b"torn")
    with pytest.raises(DataError, match="not a BM25 index"):
        BM25Index.load(folder)
    assert BM25Index.cached(knowledge_base, tmp_path / "bm25").search(["Lima"], 1)[1].tolist() == [[2]]


def test_a_folder_that_cannot_be_written_is_one_message(knowledge_base, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(DataError, match="cannot be written"):
        BM25Index.cached(knowledge_base, tmp_path / "file")


def test_without_its_package_the_message_says_how_to_get_it(knowledge_base, monkeypatch):
    monkeypatch.setitem(sys.modules, "bm25s", None)
    with pytest.raises(DataError, match="pip install bm25s"):
        BM25Index.build(knowledge_base)
