"""Test collections: questions, passages and judgements of what is relevant, laid out as BEIR does."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from datamodules import beir
from datamodules.batches import Passage, Question
from datamodules.downloads import DownloadError
from datamodules.errors import DataError
from datamodules.passage_files import PassageFormat, read_passages
from datamodules.questions import read_judged_questions
from datamodules.quiet_logs import only_errors_of
from datamodules.trec import Qrels

NANO = "Nano"
"""What the names of NanoBEIR's sets begin with: NanoNQ, NanoSciFact, ... (50 questions each)."""
_NANO_OWNER = "zeta-alpha-ai"


@dataclass(frozen=True)
class JudgedSet:
    """A test collection.

    Attributes:
        name: of the set.
        folder: of its files.
        questions: those with a relevant passage.
        qrels: what is relevant to them.
    """

    name: str
    folder: Path
    questions: list[Question]
    qrels: Qrels

    def passages(self) -> Iterator[Passage]:
        """The corpus, see `PassageFormat.BEIR`.

        Raises:
            DataError: a broken row.
        """
        for path in beir.files_of(self.folder, beir.CORPUS):
            yield from read_passages(path, PassageFormat.BEIR)


def read_judged_set(name: str | Path, split: str = "test") -> JudgedSet:
    """A folder of BEIR's layout, or one of NanoBEIR's sets on the hub.

    Args:
        name: folder, see `datamodules.beir`; or such as "NanoNQ".
        split: of the judgements, where they are TSV.

    Raises:
        DownloadError: the hub does not give the set.
        DataError: no such folder, a file is missing or broken, or nothing is judged relevant.
    """
    folder = Path(name).expanduser()
    if not folder.is_dir():
        if not str(name).startswith(NANO):
            raise DataError(
                f"{name}: there is no such folder; give one that holds corpus.jsonl, queries.jsonl and "
                "qrels/test.tsv (BEIR's layout), or a set of NanoBEIR such as NanoNQ"
            )
        folder = _fetch(str(name))
    qrels = beir.read_qrels(beir.files_of(folder, beir.QRELS, split))
    questions = read_judged_questions(folder, qrels)
    return JudgedSet(Path(name).name, folder, questions, {asked.id: qrels[asked.id] for asked in questions})


def _fetch(name: str) -> Path:
    from huggingface_hub import snapshot_download  # late: costs a second where it is not needed

    repository = f"{_NANO_OWNER}/{name}"
    try:
        with only_errors_of("huggingface_hub"):
            return Path(snapshot_download(repository, repo_type="dataset", allow_patterns="*.parquet"))
    except Exception as error:  # the hub's, its HTTP client's and the disk's have no base in common
        raise DownloadError(
            f"{name}: not on this machine, and the Hugging Face hub did not give {repository}. Without "
            f"network, download it elsewhere (`hf download --repo-type dataset {repository} --local-dir "
            f"{name}`) and name that folder. ({' '.join(str(error).split())[:300]})"
        ) from error
