"""What a report compares: runs, as their folders describe them, and the numbers of the paper."""

import functools
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf
from yaml import YAMLError

from datamodules.errors import DataError
from datamodules.sealed_files import DamagedFileError
from experiments.config import ConfigError, ExperimentConfig, read_config
from experiments.each_setting import check_each_setting
from experiments.runs import RunFolder
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

FINISHED = "finished"
UNBELIEVABLE = "not to be believed"

TABLES = Path(__file__).parents[1] / "paper" / "tables.yaml"


@dataclass(frozen=True)
class Run:
    """A run's folder, read.

    Attributes:
        path: the folder.
        config: what was asked for.
        status: `finished`, `interrupted`, `failed`, `unfinished` where there is no summary yet, or why its
            files cannot be those of a run.
        summary: what `summary.json` holds.
        after: metrics of the final test, question by question; `analysis/instances.jsonl` goes before
            `predictions.jsonl` for the metrics that it has.
        changes: after - before, of the questions that both tests measured; empty where nothing is trained.
        validations: step -> metrics.
        from_analysis: whether `after` has metrics of `analysis/instances.jsonl`.
    """

    path: Path
    config: ExperimentConfig
    status: str
    summary: Mapping[str, Any] = field(default_factory=dict)
    after: QuestionMetrics = field(default_factory=dict)
    changes: QuestionMetrics = field(default_factory=dict)
    validations: dict[int, dict[str, float]] = field(default_factory=dict)
    from_analysis: bool = False

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
        return _split(self.config.name)[1]


# ---- runs ----


def collect_runs(places: Sequence[Path]) -> list[Run]:
    """All runs in some places, oldest first.

    Args:
        places: run folders, or folders that hold runs (`runs`, `runs/NAME`).

    Raises:
        ConfigError: a place without any run, or a run's configuration that cannot be read.
        DataError: a run's file that cannot be read.
    """
    folders: dict[Path, Path] = {}
    for place in places:
        found = [
            path.parent for pattern in ("", "*/", "*/*/") for path in place.glob(f"{pattern}config.yaml")
        ]
        if not found:
            raise ConfigError(
                f"{place}: no run in it (a run's folder holds config.yaml); name runs, or a folder of runs"
            )
        folders |= {path.resolve(): path for path in found}
    return [_read_run(path) for path in sorted(folders.values(), key=lambda path: (path.name, str(path)))]


def _split(name: str) -> tuple[str, str]:
    setting, _, dataset = name.rpartition("_")
    return (setting, dataset) if dataset in DATASETS and setting else (name, name)


def _read_run(path: Path) -> Run:
    folder = RunFolder(path)
    try:
        config = read_config(folder.config)
        with _naming_file(folder.config):
            check_each_setting(config)
    except (YAMLError, RecursionError) as error:
        said = str(error).splitlines()[0]
        raise ConfigError(f"{folder.config} cannot be read: {said}; leave {path} out") from error
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
    after, before = read_tests(folder.predictions, folder.predictions_start)
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
        changes=_differences(after, before) | _differences(analysed, of_start),
        validations=validations,
        from_analysis=bool(analysed),
    )


def _differences(after: QuestionMetrics, before: QuestionMetrics) -> QuestionMetrics:
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
