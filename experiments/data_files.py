"""The files behind a configuration's data settings: found, downloaded where they are published, read."""

from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from tqdm import tqdm

from datamodules.batches import Question
from datamodules.checksums import Progress, check_size
from datamodules.errors import DataError
from datamodules.published import SourceFile, fetch, how_to_get, missing_files, present_path, read_split
from datamodules.questions import HELD_OUT, hold_out, read_questions
from datamodules.sources import (
    SPLIT_SEED,
    HubFile,
    QuestionSource,
    QuestionSplit,
    gold_titles,
    passage_set,
    question_split,
)
from datamodules.vital import VITAL, vital_questions_file
from experiments.config import DataConfig, ExperimentConfig, reads_train_questions, trains

SPLITS = ("train", "validation", "test")
PASSAGES = "passages"
GOLD_TITLES = "gold_titles"


@dataclass(frozen=True)
class DataFile:
    """A file that a configuration names.

    Attributes:
        setting: which names it, of `data`: "train", "validation", "test", "passages" or "gold_titles".
        published: what it is a copy of, where it is one of the published files.
        path: where it is; where it goes, if it is a published one that is missing.
    """

    setting: str
    published: SourceFile | None
    path: Path

    @property
    def is_wanted(self) -> bool:
        """Whether it is not there yet."""
        return not self.path.exists()


def data_root(config: ExperimentConfig) -> Path:
    """The folder of data files."""
    return Path(config.data.root).expanduser()


def data_settings(config: ExperimentConfig, reads_train: bool = False) -> tuple[str, ...]:
    """The settings of `data` whose files a run reads.

    Args:
        config: of the run.
        reads_train: whether it looks at the training questions even where nothing is trained.
    """
    needs_train = reads_train or reads_train_questions(config) or bool(holds_out(config))
    return (*(SPLITS if needs_train else SPLITS[1:]), PASSAGES)


def gold_settings(config: ExperimentConfig) -> tuple[str, ...]:
    """`GOLD_TITLES`, where validations search a part that should hold the passages that answer the questions.

    The published titles are of DPR's validation questions, and taken for no others.
    """
    name = config.data.gold_titles
    if name is None or not trains(config) or config.index.validation_passages is None:
        return ()
    published, split = gold_titles(name), question_split(config.data.validation)
    if published is not None:
        is_theirs = split is not None and split.dataset == published[0]
        if not is_theirs or isinstance(_published(config, "validation"), HubFile):
            return ()
    return (GOLD_TITLES,)


def gold_titles_file(config: ExperimentConfig) -> Path | None:
    """Where the titles are; None where the run takes none."""
    return _data_file(config, GOLD_TITLES).path if gold_settings(config) else None


def holds_out(config: ExperimentConfig) -> tuple[str, ...]:
    """The splits whose questions are taken out of the training file."""
    return _held_out(config.data)


def _held_out(data: DataConfig) -> tuple[str, ...]:
    return tuple(split for split in SPLITS[1:] if getattr(data, split) == HELD_OUT)


def question_origin(data: DataConfig, split: str) -> tuple[str, ...]:
    """Where the questions of a split come from: ids mean the same questions where it is equal.

    Files without ids number their lines, so an id says nothing about files of other names. How many of the
    questions are taken does not matter.

    Args:
        data: the settings; the files need not be there.
        split: `validation` or `test`.

    Returns:
        The file; of questions that are held out the training file, and which share of it they are.
    """
    held_out = _held_out(data)
    if split in held_out:
        return (*_file_origin(data, "train"), HELD_OUT, str(held_out.index(split)))
    return _file_origin(data, split)


def _file_origin(data: DataConfig, split: str) -> tuple[str, ...]:
    name = getattr(data, split)
    if name == VITAL:
        return (VITAL, split)
    published = question_split(name)
    if published is not None and data.verify_sizes:  # wherever the file lies
        file = _published_split(published, name, data.source)
        return (published.dataset, published.name, file.name)
    return (str(_path_of(name, Path(data.root).expanduser()).resolve()),)


def data_files(config: ExperimentConfig, settings: Sequence[str]) -> list[DataFile]:
    """The question and passage files of a run, without the embedded ones.

    Args:
        config: of the run.
        settings: those of `data` to look at, such as "train".

    Raises:
        DataError: one is missing that is not published.
    """
    no_files = (VITAL, HELD_OUT)
    return [
        _data_file(config, setting) for setting in settings if getattr(config.data, setting) not in no_files
    ]


def provide_files(config: ExperimentConfig, files: Iterable[DataFile]) -> None:
    """Sees to it that files are there, downloading published ones where `data.download` says so.

    Raises:
        DataError: some are missing and cannot be downloaded; the message lists them all.
    """
    root = data_root(config)
    missing = missing_files([file.published for file in files if file.is_wanted and file.published], root)
    if missing and not config.data.download:
        names = ", ".join(file.name for file in missing)
        raise DataError(
            f"{names}: not in {root.absolute()}, and data.download is off; set data.download=true, or "
            f"{how_to_get(missing, root)}"
        )
    fetch(missing, root, lambda name: bytes_bar(f"Downloading {name}", config.trainer.progress_bar))


def provide_with_titles(config: ExperimentConfig) -> None:
    """Sees to all files of a run, the titles of gold passages too where it takes any.

    Raises:
        DataError: some are missing and cannot be downloaded.
    """
    titles = data_files(config, gold_settings(config))
    try:
        provide_files(config, [*data_files(config, data_settings(config)), *titles])
    except DataError as error:
        if not any(file.is_wanted for file in titles):
            raise
        raise DataError(
            f"{error}; without the titles set data.gold_titles=null: validations then search the start's "
            "candidates and a random sample, and not surely the passages that answer the questions"
        ) from error


def passage_file(config: ExperimentConfig) -> Path:
    """The passage file."""
    return _data_file(config, PASSAGES).path


def read_data_split(config: ExperimentConfig, split: str, limit: int | None) -> list[Question]:
    """The questions of a split.

    Raises:
        DataError: as `read_questions`, `hold_out` and `read_split`.
    """
    held_out = holds_out(config)
    if split in held_out or (split == "train" and held_out):
        return hold_out(_read_file(config, "train", None), held_out, SPLIT_SEED)[split][:limit]
    return _read_file(config, split, limit)


def _read_file(config: ExperimentConfig, split: str, limit: int | None) -> list[Question]:
    if getattr(config.data, split) == VITAL:
        return read_questions(vital_questions_file(split), limit=limit)
    file = _data_file(config, split)
    published = question_split(getattr(config.data, split))
    if published is None:
        # whether what is trained needs answers is asked once that is known
        return read_questions(file.path, limit=limit, needs_answers=split != "train")
    source = QuestionSource.HUB if isinstance(file.published, HubFile) else QuestionSource.DPR
    return read_split(file.path, published, source, limit, config.data.verify_sizes)


@contextmanager
def bytes_bar(description: str, is_shown: bool) -> Iterator[Progress]:
    """A bar for the bytes of one file, from the first of them on."""
    with ExitStack() as bars:
        bar: tqdm | None = None

        def show(num_bytes: int, total: int | None) -> None:
            nonlocal bar
            if bar is None:
                from callbacks.progress import progress_bar  # of Lightning, which reports do without

                bar = bars.enter_context(progress_bar(total, description, "B", is_shown, prefixes=True))
            bar.update(num_bytes - bar.n)

        yield show


def _data_file(config: ExperimentConfig, setting: str) -> DataFile:
    name = getattr(config.data, setting)
    published = _published(config, setting)
    root = data_root(config)
    if isinstance(published, HubFile):  # whatever file of DPR's lies there
        return DataFile(setting, published, present_path(published, root) or root / published.name)
    path = _path_of(name, root)
    if path.exists():
        if published is not None:
            check_size(path)
        return DataFile(setting, published, path)
    if published is not None and path.parent == root:
        return DataFile(setting, published, present_path(published, root) or root / published.name)
    raise DataError(
        f"data.{setting}: there is no file {path}; put it there, or set data.root to its folder or "
        f"data.{setting} to its path"
    )


def _published(config: ExperimentConfig, setting: str) -> SourceFile | None:
    if setting == GOLD_TITLES:
        published_titles = gold_titles(config.data.gold_titles or "")
        return published_titles[1] if published_titles else None
    if setting == PASSAGES:
        passages = passage_set(config.data.passages)
        return passages.file if passages else None
    name = getattr(config.data, setting)
    split = question_split(name)
    return None if split is None else _published_split(split, name, config.data.source)


def _published_split(split: QuestionSplit, name: str, source: str) -> SourceFile:
    # a name with a folder means the file that is there
    return split.file(source) if Path(name).name == name else split.dpr


def _path_of(name: str, root: Path) -> Path:
    """As it is called, else in the folder of data files."""
    path = Path(name).expanduser()
    return path if path.is_absolute() or path.exists() else root / path
