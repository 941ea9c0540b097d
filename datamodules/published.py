"""Published files: brought into the data folder, and checked against their published sizes when read."""

import shutil
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from datamodules.batches import Passage, Question
from datamodules.checksums import Digests, ProgressMaker, check_size, write_record
from datamodules.downloads import DownloadError, download
from datamodules.durable_files import durably
from datamodules.errors import DataError
from datamodules.questions import check_limit, read_questions, split_questions
from datamodules.quiet_logs import only_errors_of
from datamodules.sources import SPLIT_SEED, HubFile, PassageSet, PublishedFile, QuestionSource, QuestionSplit

SourceFile = PublishedFile | HubFile

_VERIFY_OFF = "data.verify_sizes=false takes it as it is"


def present_path(file: SourceFile, folder: Path) -> Path | None:
    """Where a published file lies in a folder, packed or not; None where it does not.

    Raises:
        DataError: its size is not that of the download.
    """
    plain = folder / file.name.removesuffix(".gz")
    for path in (folder / file.name, plain, plain.with_name(f"{plain.name}.gz")):
        if path.is_file():
            check_size(path)
            return path
    return None


def fetch(files: Iterable[SourceFile], folder: Path, show: ProgressMaker) -> None:
    """Downloads the files that a folder lacks.

    Args:
        files: what is needed.
        folder: the data folder.
        show: see `ProgressMaker`; the hub's files, which are small, have the hub's own bar.

    Raises:
        DataError: a file cannot be had (the message lists all that are missing), or is not what was
            published.
    """
    for file in (missing := missing_files(files, folder)):
        try:
            if isinstance(file, HubFile):
                _fetch_from_hub(file, folder / file.name)
            else:
                with show(file.name) as progress:
                    download(file.url, folder / file.name, file.checksum, progress, file.max_bytes)
        except DownloadError as error:
            still_missing = missing_files(missing, folder)
            raise DataError(f"{error}; {how_to_get(still_missing, folder)}") from error


def missing_files(files: Iterable[SourceFile], folder: Path) -> list[SourceFile]:
    """Those that a folder lacks, each once."""
    return [file for file in dict.fromkeys(files) if present_path(file, folder) is None]


def how_to_get(files: Sequence[SourceFile], folder: Path) -> str:
    """What to do where files cannot be downloaded from here."""
    listed = ", ".join(f"{file.name} from {file.url}" for file in files)
    these, them = ("this file", "it") if len(files) == 1 else (f"these {len(files)} files", "them")
    return f"download {these} elsewhere and put {them} into {folder.absolute()}/: {listed}"


def _fetch_from_hub(file: HubFile, path: Path) -> None:
    """Through the hub's own cache, where the file may be already."""
    from huggingface_hub import hf_hub_download  # late: costs a second where it is not needed

    try:
        with only_errors_of("huggingface_hub"):
            cached = Path(
                hf_hub_download(file.repository, file.path, repo_type="dataset", revision=file.revision)
            )
    except Exception as error:  # the hub's, its HTTP client's and the disk's have no base in common
        raise DownloadError(f"{file.url}: {str(error).splitlines()[0].rstrip('.')}") from error
    digests = Digests(file.checksum)
    try:
        with cached.open("rb") as content:
            digests.update_from(content)
        digests.compare(cached, "delete it and start the download again")
        path.parent.mkdir(parents=True, exist_ok=True)
        with durably(path) as partial:
            shutil.copyfile(cached, partial)
        write_record(path, file.url, digests.sha256)
    except OSError as error:
        raise DataError(
            f"{path}: cannot be written ({error}); free the disk or choose another folder"
        ) from error


def read_split(
    path: Path,
    split: QuestionSplit,
    source: QuestionSource | str,
    limit: int | None = None,
    verify_size: bool = True,
) -> list[Question]:
    """Questions of a published split.

    Args:
        path: the file of `source`.
        split: which split.
        source: the hub's files hold more than one split, which a fixed seed tells apart.
        limit: take the first so many only.
        verify_size: refuse another number of questions than the paper's (than `limit`, where that is less).

    Raises:
        DataError: as `read_questions`, or another number of questions.
    """
    if QuestionSource(source) is QuestionSource.DPR:
        questions = read_questions(path, limit=limit)
        expected = min(split.num_questions, limit or split.num_questions)
        if verify_size and len(questions) != expected:
            raise _wrong_number(path, len(questions), expected, "questions")
        return questions
    check_limit(limit)
    questions = read_questions(path)
    if verify_size and len(questions) != sum(split.hub_sizes):
        raise _wrong_number(path, len(questions), sum(split.hub_sizes), "questions")
    return split_questions(questions, split.hub_sizes, SPLIT_SEED)[split.hub_index][:limit]


def verified_passages(path: Path, passages: Iterable[Passage], published: PassageSet) -> Iterator[Passage]:
    """Yields passages, and refuses those that are not the published ones by number, ids and titles.

    Raises:
        DataError: an id is not the next running number (a line is lost, doubled or out of place), the file
            ends early or late, or no passage has a title.
    """
    number, has_titles = 0, False
    for number, passage in enumerate(passages, start=1):
        if passage.id != str(number):
            raise DataError(
                f"{path}, passage {number:,}: its id is {passage.id!r}; the ids of {published.file.name} run "
                f"from 1 to {published.num_passages:,} without a gap. Download it again; if it is a file of "
                f"your own, rename it, or {_VERIFY_OFF}"
            )
        has_titles = has_titles or bool(passage.title)
        yield passage
    if not has_titles:
        raise DataError(
            f"{path}: no passage has a title, and those of {published.file.name} have: is its column called "
            f"otherwise? Download it again; if it is a file of your own, rename it, or {_VERIFY_OFF}"
        )
    if number != published.num_passages:
        raise _wrong_number(path, number, published.num_passages, "passages")


def _wrong_number(path: Path, found: int, expected: int, what: str) -> DataError:
    return DataError(
        f"{path}: {found:,} {what} where the published file has {expected:,}. If it is cut off, delete it "
        f"and download it again; if it is a file of your own, rename it, or {_VERIFY_OFF}"
    )
