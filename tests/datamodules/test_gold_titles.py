import gzip
import json

import pytest

from datamodules.batches import Question
from datamodules.errors import DataError
from datamodules.gold_titles import read_gold_titles

GOLD_INFO = {
    "data": [
        {"question": "where is it", "title": "Rome", "context": "...", "example_id": 5},
        {"question": "who sang it ?", "question_tokens": "Who sang  it?", "title": "Ann"},
        {"question": "where is it", "title": "Another"},
        {"question": "why", "title": ""},
    ]
}
TRAINING = [
    {"question": "Who sang it?", "positive_ctxs": [{"title": "Ann", "text": "..."}, {"title": "Other"}]},
    {"question": "where is it", "answers": ["Rome"], "positive_ctxs": [{"title": "Rome"}]},
    {"question": "why", "positive_ctxs": []},
    {"question": "whose", "positive_ctxs": ["a text of another form"]},
]


@pytest.mark.parametrize("content", [GOLD_INFO, TRAINING])
@pytest.mark.parametrize("compress", [bytes, gzip.compress])
def test_titles_by_the_words_of_the_question(tmp_path, content, compress):
    path = tmp_path / "gold.json.gz"
    path.write_bytes(compress(json.dumps(content, indent=2).encode()))
    titles = read_gold_titles(path)
    asked = ("who  sang it?", "Where is it", "why", "whose")
    assert [titles.get(Question("", text, ()).words) for text in asked] == ["Ann", "Rome", None, None]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"rows": []}, "neither a list of objects nor"),
        ({"data": [1]}, "neither a list of objects nor"),
        (5, "neither a list of objects nor"),
        ([{"question": "why", "positive_ctxs": {"title": "x"}}], "names no title"),
        ({"data": []}, r"names no title.*data\.gold_titles=null"),
        ([{"question": "why", "title": 5.5}], '"title" is 5.5'),
    ],
)
def test_a_file_that_is_none(tmp_path, content, message):
    path = tmp_path / "gold.json"
    path.write_text(json.dumps(content))
    with pytest.raises(DataError, match=message):
        read_gold_titles(path)


def test_no_file(tmp_path):
    with pytest.raises(DataError, match=r"file of gold titles .* does not exist"):
        read_gold_titles(tmp_path / "gold.json")
