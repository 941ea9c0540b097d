"""The registry of published files."""

import re

import pytest

from datamodules.sources import PASSAGE_SETS, QUESTION_SPLITS, HubFile, passage_set, question_split

# tables.yaml of the paper: splits
SIZES = {
    ("nq", "train"): 79_168,
    ("nq", "validation"): 8_757,
    ("nq", "test"): 3_610,
    ("triviaqa", "train"): 78_785,
    ("triviaqa", "validation"): 8_837,
    ("triviaqa", "test"): 11_313,
}


def test_sizes_are_the_papers():
    assert {(split.dataset, split.name): split.num_questions for split in QUESTION_SPLITS} == SIZES
    assert [passages.num_passages for passages in PASSAGE_SETS] == [21_015_324]


def test_the_hubs_splits_use_up_its_files():
    """`num_examples` of the data sets' cards on the hub."""
    sizes = {split.hub.path: sum(split.hub_sizes) for split in QUESTION_SPLITS}
    assert sorted(sizes.values()) == [3_610, 11_313, 87_622, 87_925]


def test_splits_of_one_hub_file_are_disjoint():
    parts = [(split.hub, split.hub_index) for split in QUESTION_SPLITS]
    assert len(set(parts)) == len(parts)


def test_addresses():
    assert [split.dpr.url for split in QUESTION_SPLITS[2:4]] == [
        "https://dl.fbaipublicfiles.com/dpr/data/retriever/nq-test.qa.csv",
        "https://dl.fbaipublicfiles.com/dpr/data/retriever/trivia-train.qa.csv.gz",
    ]
    assert PASSAGE_SETS[0].file.url == "https://dl.fbaipublicfiles.com/dpr/wikipedia_split/psgs_w100.tsv.gz"
    hub = QUESTION_SPLITS[0].hub
    assert hub.name == "nq_open/nq_open/train-00000-of-00001.parquet"
    assert hub.url == (
        "https://huggingface.co/datasets/google-research-datasets/nq_open/resolve/"
        "5dd9790a83002ad084ddeb7c420dc716852c6f28/nq_open/train-00000-of-00001.parquet"
    )


@pytest.mark.parametrize("split", QUESTION_SPLITS, ids=lambda split: split.dpr.name)
def test_what_comes_from_the_hub_is_pinned(split):
    assert isinstance(split.file("hub"), HubFile)
    assert re.fullmatch("[0-9a-f]{40}", split.hub.revision)
    assert split.file("dpr") is split.dpr
    assert split.dataset != "nq" or re.fullmatch("sha256:[0-9a-f]{64}", split.hub.checksum)


@pytest.mark.parametrize(
    "name", ["trivia-dev.qa.csv.gz", "trivia-dev.qa.csv", "/some/folder/trivia-dev.qa.csv"]
)
def test_a_split_is_known_by_its_name(name):
    assert question_split(name).name == "validation"


def test_passages_are_known_by_their_name():
    assert passage_set("psgs_w100.tsv") is passage_set("here/psgs_w100.tsv.gz") is PASSAGE_SETS[0]


@pytest.mark.parametrize("name", ["nq.jsonl", "my-nq-train.qa.csv", "vital"])
def test_other_names_are_not_published(name):
    assert question_split(name) is None
    assert passage_set(name) is None
