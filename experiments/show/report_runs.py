"""What a report compares: runs, as their folders describe them, and the numbers of the paper."""

import functools
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf
from yaml import YAMLError

from datamodules.errors import DataError
from datamodules.questions import HELD_OUT
from datamodules.sealed_files import DamagedFileError, has_checksum
from datamodules.sources import passage_set, question_split
from datamodules.vital import VITAL
from experiments.config import ConfigError, ExperimentConfig, read_config
from experiments.data_files import question_origin
from experiments.each_setting import check_each_setting
from experiments.runs import FINISHED, RunFolder
from experiments.show.decisions import kept_start
from experiments.show.report_files import (
    ImplausibleError,
    QuestionMetrics,
    check_rows,
    read_analysed,
    read_summary,
    read_tests,
    read_validations,
)

SETTINGS = ("checkpoint", "offshelf", "step1", "step2", "atlas_large", "perplexity")
DATASETS = ("nq", "triviaqa", "vital")

UNBELIEVABLE = "not to be believed"

OWN = "own"
"""The scale of data that nobody has published."""

TABLES = Path(__file__).parents[1] / "paper" / "tables.yaml"


@dataclass(frozen=True)
class Run:
    """A run's folder, read.

    Attributes:
        path: the folder.
        config: what it was resolved to.
        asked: what was asked for; None = a run of an earlier version, which does not say.
        status: `finished`, `interrupted`, `failed`, `unfinished` where there is no summary yet, or why its
            files cannot be those of a run.
        summary: what `summary.json` holds.
        after: metrics of the final test, question by question; `analysis/instances.jsonl` goes before
            `predictions.jsonl` for the metrics that it has.
        changes: after - before, of the questions that both tests measured; empty where nothing is trained.
        validations: step -> metrics.
        place: which of the places it was found in, from 0.
        from_analysis: whether `after` has metrics of `analysis/instances.jsonl`.
        questions: the text of each test question by its id, as far as `predictions.jsonl` has it.
    """

    path: Path
    config: ExperimentConfig
    status: str
    summary: Mapping[str, Any] = field(default_factory=dict)
    after: QuestionMetrics = field(default_factory=dict)
    changes: QuestionMetrics = field(default_factory=dict)
    validations: dict[int, dict[str, float]] = field(default_factory=dict)
    from_analysis: bool = False
    place: int = 0
    questions: Mapping[str, str] = field(default_factory=dict)
    asked: ExperimentConfig | None = None

    @property
    def as_asked(self) -> ExperimentConfig:
        """What was asked for, as far as its folder says."""
        return self.config if self.asked is None else self.asked

    @property
    def is_finished(self) -> bool:
        return self.status == FINISHED

    @property
    def is_unbelievable(self) -> bool:
        """Whether its files cannot be those of a run."""
        return self.status.startswith(UNBELIEVABLE)

    @property
    def setting(self) -> str:
        """The experiment's name without its data set; the whole name where it names none."""
        return _split(self.config.name)[0]

    @property
    def dataset(self) -> str:
        """`nq`, `triviaqa` or `vital`, or the file of the test questions where it is none of theirs."""
        return dataset_of(self.config)

    @property
    def scale(self) -> str:
        """The experiment's, or `own` where the test questions or the passages are one's own."""
        passages = self.config.data.passages
        is_published = passages == VITAL or passage_set(passages) is not None
        return self.config.scale if is_published and self.dataset in DATASETS else OWN

    @property
    def monitored(self) -> dict[int, float]:
        """Step -> what the best checkpoint is chosen by, of each validation that has it."""
        monitor = self.config.evaluation.monitor
        return {
            step: m[monitor] for step, m in self.validations.items() if monitor is not None and monitor in m
        }

    @property
    def kept_start(self) -> bool:
        """Whether it was trained, and no checkpoint beat its start."""
        return self.is_finished and kept_start(self.config, self.summary)

    @functools.cached_property
    def test_origin(self) -> tuple[str, ...]:
        """Where its test questions come from, see `question_origin`."""
        return question_origin(self.config.data, "test")

    def has_same_question(self, other: "Run", question_id: str) -> bool:
        """Whether an id is that of the same test question in another run.

        By its text, or where one of them has kept none, by where the questions come from.
        """
        own, others = self.questions.get(question_id), other.questions.get(question_id)
        return self.test_origin == other.test_origin if own is None or others is None else own == others


# ---- runs ----


def collect_runs(places: Sequence[Path]) -> list[Run]:
    """All runs in some places, oldest first.

    Args:
        places: run folders, or folders that hold runs (`runs`, `runs/NAME`).

    Raises:
        ConfigError: a place without any run, or a run's configuration that cannot be read.
        DataError: a run's file that cannot be read.
    """
    folders: dict[Path, tuple[Path, int]] = {}
    for number, place in enumerate(places):
        found = [
            path.parent for pattern in ("", "*/", "*/*/") for path in place.glob(f"{pattern}config.yaml")
        ]
        if not found:
            raise ConfigError(
                f"{place}: no run in it (a run's folder holds config.yaml); name runs, or a folder of runs"
            )
        for path in found:
            folders.setdefault(path.resolve(), (path, number))
    in_order = sorted(folders.values(), key=lambda found: (found[0].name, str(found[0])))
    return [replace(_read_run(path), place=number) for path, number in in_order]


def dataset_of(config: ExperimentConfig) -> str:
    """What a run's test questions are of, see `Run.dataset`."""
    is_held_out = config.data.test == HELD_OUT
    name = config.data.train if is_held_out else config.data.test
    published = question_split(name)
    if name == VITAL or published is not None:
        return VITAL if published is None else published.dataset
    shown = short_path(name)
    return f"{shown} (held out)" if is_held_out else shown


def short_path(name: str) -> str:
    """A file of data by its folder and its name: many are called `test.jsonl`."""
    parts = Path(name).parts
    return "/".join(parts[-3:] if parts[-2:-1] == ("qrels",) else parts[-2:])


def _split(name: str) -> tuple[str, str]:
    setting, _, dataset = name.rpartition("_")
    return (setting, dataset) if dataset in DATASETS and setting else (name, name)


def _read_run(path: Path) -> Run:
    folder = RunFolder(path)
    config = _read_settings(folder.config)
    asked = _read_settings(folder.asked) if folder.asked.is_file() else None
    return replace(_read_measured(folder, config), asked=asked)


def _read_settings(file: Path) -> ExperimentConfig:
    try:
        config = read_config(file)
        # what the run has written, it has checked, by the rules of its version; again takes models' code
        if not has_checksum(file):
            with _naming_file(file):
                check_each_setting(config)
    except (YAMLError, RecursionError) as error:
        said = str(error).splitlines()[0]
        raise ConfigError(f"{file} cannot be read: {said}; leave {file.parent} out") from error
    return config


def _read_measured(folder: RunFolder, config: ExperimentConfig) -> Run:
    path = folder.path
    if not folder.summary.is_file():
        return Run(path, config, "unfinished")
    try:
        summary = read_summary(folder.summary)
        if summary["status"] != FINISHED:
            return Run(path, config, str(summary["status"]), summary)
        return _read_finished(folder, config, summary)
    except ImplausibleError as error:
        return Run(path, config, f"{UNBELIEVABLE}, {error}")


@contextmanager
def _naming_file(path: Path) -> Iterator[None]:
    try:
        yield
    except ConfigError as error:
        raise ConfigError(f"{path}: {error}") from error


def _read_finished(folder: RunFolder, config: ExperimentConfig, summary: Mapping[str, Any]) -> Run:
    after, before, questions = read_tests(folder.predictions, folder.predictions_start)
    check_rows(folder.predictions, after, summary, "after")
    check_rows(folder.predictions_start, before, summary, "before")
    analysed = read_analysed(folder.path / "analysis" / "instances.jsonl")
    # both sides of a change come from the same kind of file: the two kinds may hold different questions
    of_start = read_analysed(folder.path / "analysis" / "instances-start.jsonl") if analysed else {}
    validations = read_validations(folder.validations, config.trainer.max_steps)
    try:
        folder.verify_results()  # last: what is wrong with a row says more
    except DamagedFileError as error:
        raise DataError(f"{error}; leave {folder.path} out, or run it again") from error
    return Run(
        folder.path,
        config,
        FINISHED,
        summary,
        after | analysed,
        changes=differences(after, before) | differences(analysed, of_start),
        validations=validations,
        from_analysis=bool(analysed),
        questions=questions,
    )


def differences(after: QuestionMetrics, before: QuestionMetrics) -> QuestionMetrics:
    """after - before, of the questions that both have."""
    changes = {
        name: {key: values[key] - before[name][key] for key in values.keys() & before[name].keys()}
        for name, values in after.items()
        if name in before
    }
    # sets have no order, and a bootstrap draws by position
    return {name: dict(sorted(values.items())) for name, values in changes.items() if values}


# ---- the paper ----


def paper_value(table: str, setting: str, dataset: str, name: str) -> tuple[float, float | None] | None:
    """A mean of the paper, with its standard deviation where the paper gives one.

    Args:
        table: `table1` (EM and F1 in percent), `table3` or `table4`.
        setting, dataset: such as `step2` and `nq`.
        name: such as `hr5` or `spearman_p90`.

    Returns:
        None where the paper has no such number.
    """
    value = _paper()[table].get(setting, {}).get(dataset, {}).get(name)
    if value is None:
        return None
    mean, std = value if isinstance(value, list) else (value, None)
    return mean, std


def paper_steps(setting: str, dataset: str) -> int | None:
    """Optimizer steps that the paper trains for; None where it trains nothing."""
    return _paper()["hyperparameters"].get(setting, {}).get(dataset, {}).get("steps")


@functools.cache
def _paper() -> dict[str, Any]:
    tables = OmegaConf.to_container(OmegaConf.load(TABLES))
    assert isinstance(tables, dict)
    return tables  # type: ignore[return-value]
