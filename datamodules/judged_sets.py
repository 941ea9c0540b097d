"""Questions, passages and judgements of what is relevant, laid out as BEIR does."""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from datamodules.batches import Passage, Question
from datamodules.downloads import DownloadError
from datamodules.errors import DataError
from datamodules.quiet_logs import only_errors_of
from datamodules.records import numbered_records
from datamodules.text_files import numbered_lines
from datamodules.trec import Qrels

NANO = "Nano"
"""What the names of NanoBEIR's sets begin with: NanoNQ, NanoSciFact, ... (50 questions each)."""
_NANO_OWNER = "zeta-alpha-ai"
_NUMBER = re.compile(r"-?[0-9]{1,9}")
_CORPUS, _QUERIES, _QRELS = "corpus", "queries", "qrels"


@dataclass(frozen=True)
class JudgedSet:
    """A test collection.

    Attributes:
        name: of the set.
        folder: of its files.
        questions: those with a relevant passage, without answers.
        qrels: what is relevant to them.
    """

    name: str
    folder: Path
    questions: list[Question]
    qrels: Qrels

    def passages(self) -> Iterator[Passage]:
        """The corpus; a passage without text has its title for it, and one with neither is left out.

        Raises:
            DataError: a broken row.
        """
        for path in _files(self.folder, _CORPUS):
            for number, record in numbered_records(path):
                title, text = (str(record.get(key) or "").strip() for key in ("title", "text"))
                if text or title:
                    yield Passage(_id(record, path, number), title if text else "", text or title)


def read_judged_set(name: str | Path, split: str = "test") -> JudgedSet:
    """A folder of BEIR's layout, or one of NanoBEIR's sets on the hub.

    Args:
        name: folder with `corpus.jsonl`, `queries.jsonl` and `qrels/test.tsv`, plain or gzipped, or with
            Parquet files in folders of these names; or such as "NanoNQ".
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
    qrels: dict[str, dict[str, int]] = {}
    for question_id, passage_id, relevance in _judgements(folder, split):
        qrels.setdefault(question_id, {})[passage_id] = relevance
    relevant = {of: judged for of, judged in qrels.items() if any(value > 0 for value in judged.values())}
    questions = [
        Question(of, str(record.get("text") or "").strip(), ())
        for path in _files(folder, _QUERIES)
        for number, record in numbered_records(path)
        if (of := _id(record, path, number)) in relevant
    ]
    if not questions:
        raise DataError(f"{folder}: none of its questions has a relevant passage in {_QRELS}")
    return JudgedSet(Path(name).name, folder, questions, {of.id: relevant[of.id] for of in questions})


def _judgements(folder: Path, split: str) -> Iterator[tuple[str, str, int]]:
    for path in _files(folder, _QRELS, f"{_QRELS}/{split}.tsv"):
        if path.suffix == ".parquet":
            for number, record in numbered_records(path):
                try:
                    yield str(record["query-id"]), str(record["corpus-id"]), int(record.get("score") or 1)
                except (KeyError, ValueError, TypeError, OverflowError) as error:
                    raise DataError(
                        f"{path}, row {number}: {record} is none of query-id, corpus-id and score"
                    ) from error
            continue
        for number, line in numbered_lines(path):
            fields = line.split("\t")
            is_judged = len(fields) == 3 and _NUMBER.fullmatch(fields[2].strip())
            if number == 1 and not is_judged:
                continue  # the header
            if not is_judged:
                raise DataError(
                    f"{path}, line {number}: {line!r} is none of query-id, corpus-id and score, separated "
                    "by tabs"
                )
            yield fields[0], fields[1], int(fields[2])


def _files(folder: Path, part: str, plain: str | None = None) -> list[Path]:
    """The files of a part of the set: one of text, or any number of Parquet."""
    plain = plain or f"{part}.jsonl"
    for path in (folder / plain, folder / f"{plain}.gz"):
        if path.is_file():
            return [path]
    found = sorted((folder / part).glob("*.parquet"))
    if not found:
        raise DataError(f"{folder}: it holds neither {plain} nor {part}/*.parquet; a set of BEIR holds one")
    return found


def _id(record: dict[str, Any], path: Path, number: int) -> str:
    if record.get("_id") in (None, ""):
        raise DataError(f'{path}, line {number}: no "_id"; every row of a set of BEIR has one')
    return str(record["_id"])


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
