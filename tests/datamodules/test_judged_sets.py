"""Test collections of BEIR's layout, as text and as Parquet, and what is said where one is not whole."""

import gzip
import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from datamodules.batches import Passage, Question
from datamodules.downloads import DownloadError
from datamodules.errors import DataError
from datamodules.judged_sets import read_judged_set
from datamodules.passage_files import read_passages
from datamodules.questions import read_questions
from tests.model_hub import serve_models

CORPUS = [
    {"_id": "d1", "title": "Paris", "text": "Paris is in France."},
    {"_id": "d2", "title": "Only a title", "text": ""},
    {"_id": "d3", "title": "", "text": ""},
]
QUERIES = [
    {"_id": "1", "text": "where is paris"},
    {"_id": "2", "text": "unjudged"},
    {"_id": "3", "text": "no"},
]
QRELS = [("1", "d1", 2), ("1", "d2", 0), ("3", "d2", 0)]


def write_set(folder):
    folder.mkdir()
    (folder / "qrels").mkdir()
    for name, rows in (("corpus", CORPUS), ("queries", QUERIES)):
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    lines = ["query-id\tcorpus-id\tscore", *("\t".join(map(str, row)) for row in QRELS)]
    (folder / "qrels" / "test.tsv").write_text("\n".join(lines) + "\n")
    return folder


def write_parquet_set(folder):
    qrels = [{"query-id": of, "corpus-id": id} for of, id, score in QRELS if score]
    for name, rows in (("corpus", CORPUS), ("queries", QUERIES), ("qrels", qrels)):
        (folder / name).mkdir(parents=True)
        pq.write_table(pa.Table.from_pylist(rows), folder / name / "train-00000-of-00001.parquet")
    return folder


@pytest.mark.parametrize("write", [write_set, write_parquet_set])
def test_questions_passages_and_judgements(tmp_path, write, caplog):
    found = read_judged_set(write(tmp_path / "scifact"))
    assert found.name == "scifact"
    assert found.questions == [Question("1", "where is paris", (), positives=frozenset({"d1"}))]
    assert found.qrels["1"]["d1"] > 0
    assert list(found.passages()) == [
        Passage("d1", "Paris", "Paris is in France."),
        Passage("d2", "", "Only a title"),
    ]
    assert "passages left out, which have neither text nor title: 1" in caplog.text


@pytest.mark.parametrize(
    ("write", "of", "corpus"),
    [
        (write_set, "qrels/test.tsv", "corpus.jsonl"),
        (write_parquet_set, "qrels/train-00000-of-00001.parquet", "corpus/train-00000-of-00001.parquet"),
    ],
)
def test_the_same_files_are_read_for_training(tmp_path, write, of, corpus):
    found = read_judged_set(write(tmp_path / "scifact"))
    assert read_questions(found.folder / of) == found.questions
    assert list(read_passages(found.folder / corpus)) == list(found.passages())


def test_a_score_of_zero_is_no_relevance_in_parquet_either(tmp_path):
    folder = write_parquet_set(tmp_path / "set")
    [path] = (folder / "qrels").iterdir()
    judged = {"query-id": ["1", "1"], "corpus-id": ["d1", "d2"], "score": [1, 0]}
    pq.write_table(pa.table(judged), path)
    found = read_judged_set(folder)
    assert found.qrels == {"1": {"d1": 1, "d2": 0}}
    pq.write_table(pa.table({**judged, "score": ["1", "0"]}), path)
    with pytest.raises(DataError, match=r"row 1: .* is no judgement"):
        read_judged_set(folder)


def test_gzipped_parts_and_broken_ones(tmp_path):
    folder = write_set(tmp_path / "set")
    corpus = folder / "corpus.jsonl"
    (folder / "corpus.jsonl.gz").write_bytes(gzip.compress(corpus.read_bytes()))
    corpus.unlink()
    assert len(list(read_judged_set(folder).passages())) == 2
    with pytest.raises(DataError, match=r"neither qrels/dev.tsv nor qrels/\*.parquet"):
        read_judged_set(folder, split="dev")
    (folder / "qrels" / "test.tsv").write_text("query-id\tcorpus-id\tscore\n1\td1\tyes\n")
    with pytest.raises(DataError, match=r"line 2: .* is no judgement"):
        read_judged_set(folder)
    (folder / "queries.jsonl").write_text('{"text": "a"}\n')
    (folder / "qrels" / "test.tsv").write_text("1\td1\t1\n")
    with pytest.raises(DataError, match='line 1: no "_id"'):
        read_judged_set(folder)
    with pytest.raises(DataError, match="no such folder; give one that holds"):
        read_judged_set("nowhere")


def test_a_set_that_the_hub_does_not_give_says_how_to_bring_it(tmp_path, monkeypatch):
    with serve_models(str(tmp_path), monkeypatch), pytest.raises(DownloadError) as raised:
        read_judged_set("NanoNQ")
    assert "hf download --repo-type dataset zeta-alpha-ai/NanoNQ --local-dir NanoNQ" in str(raised.value)


def test_a_set_of_the_hub_is_fetched_once(tmp_path, monkeypatch):
    folder = write_parquet_set(tmp_path / "set")
    files = {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*.parquet")}
    with serve_models(str(tmp_path / "cache"), monkeypatch) as hub:
        hub.add("datasets/zeta-alpha-ai/NanoNQ", "a" * 40, {**files, "README.md": b"not asked for"})
        for _ in range(2):
            found = read_judged_set("NanoNQ")
            assert (found.name, found.questions) == ("NanoNQ", read_judged_set(folder).questions)
            assert len(list(found.passages())) == 2
    assert sorted(hub.sent) == sorted(f"datasets/zeta-alpha-ai/NanoNQ/{name}" for name in files)
