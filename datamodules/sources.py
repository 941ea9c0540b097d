"""Where the paper's questions and passages are published, and how many of them there are.

The sizes of the splits are the paper's ("What Makes Attention Distillation Work?", its table of data
sets), which are those of DPR (Karpukhin et al., 2020). Addresses of DPR's files: facebookresearch/DPR,
`dpr/data/download_data.py`.
"""

from dataclasses import dataclass
from pathlib import Path

from datamodules.choices import Choice

_DPR_URL = "https://dl.fbaipublicfiles.com/dpr"
_HUB_URL = "https://huggingface.co/datasets"
_MAX_QUESTION_BYTES = 100_000_000


class QuestionSource(Choice):
    """Where the published question files come from.

    Attributes:
        DPR: the files of the DPR release.
        HUB: the Hugging Face sets that DPR's were drawn from, split with a fixed seed into as many questions
            as DPR's: the test split is the same, the border between train and validation is another.
    """

    DPR = "dpr"
    HUB = "hub"


@dataclass(frozen=True)
class PublishedFile:
    """A file with an address of its own.

    Attributes:
        name: in the data folder.
        url: its address.
        checksum: where somebody has published one, "md5:..." or "sha256:...".
        max_bytes: that it can have: its size where that is published.
    """

    name: str
    url: str
    checksum: str | None = None
    max_bytes: int = _MAX_QUESTION_BYTES


@dataclass(frozen=True)
class HubFile:
    """A parquet file in a data set repository of the Hugging Face hub.

    Attributes:
        repository: "owner/name".
        revision: commit that the file is taken from.
        path: inside the repository.
        checksum: where somebody has published one, "sha256:...".
    """

    repository: str
    revision: str
    path: str
    checksum: str | None = None

    @property
    def name(self) -> str:
        """In the data folder."""
        return f"{self.repository.rpartition('/')[2]}/{self.path}"

    @property
    def url(self) -> str:
        """Its address."""
        return f"{_HUB_URL}/{self.repository}/resolve/{self.revision}/{self.path}"


@dataclass(frozen=True)
class QuestionSplit:
    """A split of a question set, from either source.

    Attributes:
        dataset: "nq" or "triviaqa".
        name: "train", "validation" or "test".
        dpr: DPR's file, under whose name the split is asked for.
        hub: file of the hub that holds it, perhaps among other splits.
        hub_sizes: sizes of the splits that `hub` is divided into, all of it together.
        hub_index: which of them this one is.
    """

    dataset: str
    name: str
    dpr: PublishedFile
    hub: HubFile
    hub_sizes: tuple[int, ...]
    hub_index: int = 0

    @property
    def num_questions(self) -> int:
        """As the paper says."""
        return self.hub_sizes[self.hub_index]

    def file(self, source: QuestionSource | str) -> PublishedFile | HubFile:
        """What to download for the split."""
        return self.dpr if QuestionSource(source) is QuestionSource.DPR else self.hub


@dataclass(frozen=True)
class PassageSet:
    """A published knowledge base.

    Attributes:
        file: where it is.
        num_passages: how many it holds, with the running numbers from 1 as ids.
    """

    file: PublishedFile
    num_passages: int


def _question_file(name: str) -> PublishedFile:
    return PublishedFile(name, f"{_DPR_URL}/data/retriever/{name}")


# Of nq_open's files at the revision below, as several public repositories that read them there have them.
_NQ_SHA256 = {
    "train": "25d3a544324f900b31ebc05a3a5686bdd5b9b42738133500675c3f20eee7d83a",
    "validation": "b074bed0bccb56fa1551a8ac1c9c51ce89bc11c7fbb6a9c713b2c33a98531e12",
}


def _nq_file(split: str) -> HubFile:
    return HubFile(
        "google-research-datasets/nq_open",
        "5dd9790a83002ad084ddeb7c420dc716852c6f28",
        f"nq_open/{split}-00000-of-00001.parquet",
        f"sha256:{_NQ_SHA256[split]}",
    )


def _triviaqa_file(split: str) -> HubFile:
    # "unfiltered" has the 87,622 and 11,313 questions that DPR's files have; "rc" repeats a question for each
    # page of evidence (138,384 and 17,944).
    return HubFile(
        "mandarjoshi/trivia_qa",
        "0f7faf33a3908546c6fd5b73a660e0f8ff173c2f",
        f"unfiltered.nocontext/{split}-00000-of-00001.parquet",
    )


# The seed of the hub's splits; not the run's, so that all runs see the same questions.
SPLIT_SEED = 0

_NQ_SIZES = (79_168, 8_757)
_TRIVIAQA_SIZES = (78_785, 8_837)

QUESTION_SPLITS = (
    QuestionSplit("nq", "train", _question_file("nq-train.qa.csv"), _nq_file("train"), _NQ_SIZES, 0),
    QuestionSplit("nq", "validation", _question_file("nq-dev.qa.csv"), _nq_file("train"), _NQ_SIZES, 1),
    QuestionSplit("nq", "test", _question_file("nq-test.qa.csv"), _nq_file("validation"), (3_610,)),
    QuestionSplit(
        "triviaqa",
        "train",
        _question_file("trivia-train.qa.csv.gz"),
        _triviaqa_file("train"),
        _TRIVIAQA_SIZES,
        0,
    ),
    QuestionSplit(
        "triviaqa",
        "validation",
        _question_file("trivia-dev.qa.csv.gz"),
        _triviaqa_file("train"),
        _TRIVIAQA_SIZES,
        1,
    ),
    QuestionSplit(
        "triviaqa",
        "test",
        _question_file("trivia-test.qa.csv.gz"),
        _triviaqa_file("validation"),
        (11_313,),
    ),
)

PASSAGE_SETS = (
    PassageSet(
        PublishedFile(
            "psgs_w100.tsv.gz",
            f"{_DPR_URL}/wikipedia_split/psgs_w100.tsv.gz",
            # as allenai/ir_datasets has it, ir_datasets/etc/downloads.json, "dpr-w100"
            "md5:612fe66e0b6b41ee28f806140226c563",
            max_bytes=4_694_541_059,
        ),
        num_passages=21_015_324,
    ),
)


# Titles of the passages that answer questions. Their sizes are not published; training files have
# some hundred megabytes.
GOLD_TITLES = {
    "nq": PublishedFile("nq-dev_gold_info.json.gz", f"{_DPR_URL}/data/nq_gold_info/nq-dev_gold_info.json.gz"),
    "triviaqa": PublishedFile(
        "biencoder-trivia-dev.json.gz",
        f"{_DPR_URL}/data/retriever/biencoder-trivia-dev.json.gz",
        max_bytes=1_000_000_000,
    ),
}
"""By data set, for the questions of DPR's validation split."""


def gold_titles(path: Path | str) -> tuple[str, PublishedFile] | None:
    """Data set and file of the gold titles that are published under a file's name, packed or not."""
    return next(((dataset, file) for dataset, file in GOLD_TITLES.items() if _same_name(path, file)), None)


def question_split(path: Path | str) -> QuestionSplit | None:
    """The split that is published under a file's name, packed or not."""
    return next((split for split in QUESTION_SPLITS if _same_name(path, split.dpr)), None)


def passage_set(path: Path | str) -> PassageSet | None:
    """The passages that are published under a file's name, packed or not."""
    return next((passages for passages in PASSAGE_SETS if _same_name(path, passages.file)), None)


def _same_name(path: Path | str, file: PublishedFile) -> bool:
    return Path(path).name.removesuffix(".gz") == file.name.removesuffix(".gz")
