"""Published files in small: fetched from a real server, refused when they hold something else."""

import contextlib
import gzip
import hashlib
from dataclasses import replace

import huggingface_hub.constants
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from datamodules.batches import Passage
from datamodules.checksums import record_file
from datamodules.errors import DataError
from datamodules.passages import knowledge_base_from_file
from datamodules.published import fetch, missing_files, present_path, read_split, verified_passages
from datamodules.sources import HubFile, PassageSet, PublishedFile, QuestionSplit
from tests.file_server import serve_files

QUESTIONS = "".join(f"who is number {i}?\t['{i}']\n" for i in range(6)).encode()


def hub_file(revision="0" * 40):
    return HubFile("some-owner/some-set", revision, "plain/train-00000-of-00001.parquet")


def split(url="http://unused", sizes=(6,), index=0):
    return QuestionSplit("nq", "train", PublishedFile("nq-train.csv", f"{url}/nq"), hub_file(), sizes, index)


@pytest.fixture
def server():
    with serve_files(nq=QUESTIONS, psgs=gzip.compress(b"id\ttext\ttitle\n1\tx\tX\n")) as served:
        yield served


@contextlib.contextmanager
def silent(name):
    yield lambda done, total: None


# ---- fetching ----


def test_missing_files_are_fetched_once(server, tmp_path):
    shown = []

    @contextlib.contextmanager
    def show(name):
        yield lambda done, total: shown.append((name, done, total))

    file = split(server.url).dpr
    fetch([file, file], tmp_path, show)
    fetch([file], tmp_path, show)
    assert present_path(file, tmp_path) == tmp_path / "nq-train.csv"
    assert len(server.ranges) == 1
    assert shown == [("nq-train.csv", len(QUESTIONS), len(QUESTIONS))]


@pytest.mark.parametrize(
    ("published", "there"),
    [("psgs.tsv.gz", "psgs.tsv"), ("psgs.tsv", "psgs.tsv.gz"), ("psgs.tsv", "psgs.tsv")],
)
def test_a_file_is_there_packed_or_not(tmp_path, published, there):
    (tmp_path / there).write_text("")
    assert present_path(PublishedFile(published, "http://unused"), tmp_path) == tmp_path / there


def test_a_file_that_has_changed_since_its_download(server, tmp_path):
    file = split(server.url).dpr
    fetch([file], tmp_path, silent)
    (tmp_path / file.name).write_bytes(QUESTIONS[:-3])
    with pytest.raises(DataError, match=r"nq-train\.csv: .* bytes, .* when it was downloaded"):
        missing_files([file], tmp_path)


def test_all_missing_files_are_named_where_one_cannot_be_had(server, tmp_path):
    there, gone = split(server.url).dpr, PublishedFile("gone.csv", f"{server.url}/gone")
    with pytest.raises(DataError) as refused:
        fetch([there, gone, hub_file()], tmp_path, silent)
    message = str(refused.value)
    assert "/gone: the server answers 404" in message
    assert f"download these 2 files elsewhere and put them into {tmp_path}/:" in message
    assert f"gone.csv from {gone.url}, some-set/plain/train-00000-of-00001.parquet from https://" in message
    assert sorted(path.name for path in tmp_path.iterdir()) == ["nq-train.csv", "nq-train.csv.sha256"]


def test_another_checksum_names_file_and_sums(server, tmp_path):
    file = replace(split(server.url).dpr, checksum="md5:0123")
    with pytest.raises(DataError, match=f"its md5 is {hashlib.md5(QUESTIONS).hexdigest()}, .* is 0123; what"):
        fetch([file], tmp_path, silent)
    assert not list(tmp_path.iterdir())


def test_a_hub_that_is_not_reachable(tmp_path, monkeypatch):
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    file = hub_file()
    with pytest.raises(DataError) as refused:
        fetch([file], tmp_path, silent)
    assert str(refused.value).endswith(
        f"download this file elsewhere and put it into {tmp_path}/: {file.name} from {file.url}"
    )
    assert not list(tmp_path.iterdir())


def test_a_file_of_the_hub_that_is_in_its_cache(tmp_path, monkeypatch):
    """As the hub lays its cache out: a snapshot for each commit."""
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    file = hub_file("a" * 40)
    cached = tmp_path / "cache" / "datasets--some-owner--some-set" / "snapshots" / file.revision / file.path
    cached.parent.mkdir(parents=True)
    cached.write_bytes(b"parquet")
    fetch([file], tmp_path / "data", silent)
    copied = tmp_path / "data" / file.name
    assert copied.read_bytes() == b"parquet"
    assert record_file(copied).is_file()
    copied.unlink()
    cached.write_bytes(b"another")
    published = replace(file, checksum=f"sha256:{hashlib.sha256(b'parquet').hexdigest()}")
    with pytest.raises(
        DataError, match=r"train-00000-of-00001\.parquet: its sha256 is .* delete it and start"
    ):
        fetch([published], tmp_path / "data", silent)
    assert not copied.exists()


# ---- reading questions ----


@pytest.fixture
def questions_file(tmp_path):
    path = tmp_path / "nq-train.csv"
    path.write_bytes(QUESTIONS)
    return path


def test_a_split_of_the_published_size(questions_file):
    assert len(read_split(questions_file, split(), "dpr")) == 6
    assert len(read_split(questions_file, split(), "dpr", limit=2)) == 2
    assert len(read_split(questions_file, split(sizes=(7,)), "dpr", limit=6)) == 6, "read no further"


@pytest.mark.parametrize(("size", "limit"), [(5, None), (7, None), (5, 6), (8, 7), (8, 8)])
def test_a_split_of_another_size(questions_file, size, limit):
    expected = min(size, limit or size)
    with pytest.raises(DataError) as refused:
        read_split(questions_file, split(sizes=(size,)), "dpr", limit)
    for part in (f"6 questions where the published file has {expected}", "download it again", "rename it"):
        assert part in str(refused.value)
    assert "data.verify_sizes=false" in str(refused.value)
    assert len(read_split(questions_file, split(sizes=(size,)), "dpr", limit, verify_size=False)) == 6


@pytest.fixture
def hub_path(tmp_path):
    path = tmp_path / "train.parquet"
    columns = {"question": [f"who is {i}?" for i in range(10)], "answer": [[str(i)] for i in range(10)]}
    pq.write_table(pa.table(columns), path)
    return path


def test_splits_of_the_hub_are_disjoint_and_stay_the_same(hub_path):
    train, validation = (read_split(hub_path, split(sizes=(7, 3), index=i), "hub") for i in (0, 1))
    assert (len(train), len(validation)) == (7, 3)
    assert {question.text for question in train + validation} == {f"who is {i}?" for i in range(10)}
    assert [question.id for question in validation] == ["1", "7", "10"], "on every machine"
    assert read_split(hub_path, split(sizes=(7, 3)), "hub", limit=2) == train[:2]


def test_a_file_of_the_hub_that_is_one_split_keeps_its_order(hub_path):
    found = read_split(hub_path, split(sizes=(10,)), "hub")
    assert [question.id for question in found] == [str(i) for i in range(1, 11)]


def test_a_file_of_the_hub_of_another_size(hub_path):
    with pytest.raises(DataError, match="10 questions where the published file has 11"):
        read_split(hub_path, split(sizes=(8, 3)), "hub")
    with pytest.raises(DataError, match="the limit of questions is 0"):
        read_split(hub_path, split(sizes=(7, 3)), "hub", limit=0)


# ---- reading passages ----

PSGS = PassageSet(PublishedFile("psgs_w100.tsv.gz", "http://unused"), 3)


def passages(*ids):
    return [Passage(id, "Title", "text") for id in ids]


def test_the_published_passages_pass(tmp_path):
    path = tmp_path / "psgs_w100.tsv"
    assert list(verified_passages(path, passages("1", "2", "3"), PSGS)) == passages("1", "2", "3")


@pytest.mark.parametrize(
    ("ids", "message"),
    [
        (("1", "2"), "2 passages where the published file has 3"),
        (("1", "2", "3", "4"), "4 passages where the published file has 3"),
        (("1", "3"), "passage 2: its id is '3'"),
        (("1", "1", "2"), "passage 2: its id is '1'"),
        (("one", "2", "3"), "passage 1: its id is 'one'; .* run from 1 to 3 without a gap"),
        (("01", "2", "3"), "passage 1: its id is '01'"),
    ],
)
def test_other_passages_are_refused(tmp_path, ids, message):
    with pytest.raises(DataError, match=message):
        list(verified_passages(tmp_path / "psgs_w100.tsv", passages(*ids), PSGS))


def test_a_knowledge_base_that_was_built_unverified_is_verified(tmp_path):
    path = tmp_path / "psgs_w100.tsv"
    path.write_text("id\ttext\ttitle\n1\tx\tX\n2\ty\tY\n")
    assert len(knowledge_base_from_file(path, tmp_path / "cache")) == 2
    with pytest.raises(DataError, match="2 passages where the published file has 3"):
        knowledge_base_from_file(path, tmp_path / "cache", published=PSGS)
    knowledge_base = knowledge_base_from_file(
        path, tmp_path / "cache", published=replace(PSGS, num_passages=2)
    )
    assert len(knowledge_base) == 2
    assert len(list((tmp_path / "cache").iterdir())) == 1, "nothing half-written"
