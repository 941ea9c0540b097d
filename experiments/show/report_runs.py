"""What a report compares: runs, as their folders describe them, and the numbers of the paper."""

import functools
import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf
from yaml import YAMLError

from datamodules.errors import DataError
from datamodules.sealed_files import DamagedFileError
from experiments.config import ConfigError, ExperimentConfig, read_config
from experiments.runs import RunFolder

SETTINGS = ("checkpoint", "offshelf", "step1", "step2", "atlas_large", "perplexity")
DATASETS = ("nq", "triviaqa", "vital")

TABLES = Path(__file__).parents[1] / "paper" / "tables.yaml"

QuestionMetrics = dict[str, dict[str, float]]
"""Metric -> question id -> value, where it is defined."""


@dataclass(frozen=True)
class Run:
    """A run's folder, read.

    Attributes:
        path: the folder.
        config: what was asked for.
        status: `finished`, `interrupted`, or `unfinished` where there is no summary yet.
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
        return self.status == "finished"

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
    except YAMLError as error:
        raise ConfigError(f"{folder.config} is no YAML: {str(error).splitlines()[0]}") from error
    if not folder.summary.is_file():
        return Run(path, config, "unfinished")
    summary = _read_summary(folder.summary)
    if summary["status"] != "finished":
        return Run(path, config, str(summary["status"]), summary)
    after, before = (_question_metrics(file) for file in (folder.predictions, folder.predictions_start))
    instances = path / "analysis" / "instances.jsonl"
    instances_start = path / "analysis" / "instances-start.jsonl"
    analysed = _analysed_metrics(instances)
    # both sides of a change come from the same kind of file: the two kinds may hold different questions
    of_start = _analysed_metrics(instances_start) if analysed else {}
    changes = _differences(after, before) | _differences(analysed, of_start)
    validations = {line["step"]: line["metrics"] for line in _lines(folder.validations, "step", "metrics")}
    try:
        folder.verify_results()
    except DamagedFileError as error:
        raise DataError(f"{error}; leave {path} out, or run it again") from error
    return Run(path, config, "finished", summary, after | analysed, changes, validations, bool(analysed))


def _read_summary(path: Path) -> dict[str, Any]:
    try:
        summary = json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise DataError(
            f"{path} cannot be read: {error}; leave {path.parent} out, or run it again"
        ) from error
    if not isinstance(summary, dict) or not isinstance(summary.get("status"), str):
        raise DataError(f"{path} says no status; leave {path.parent} out, or run it again")
    return summary


def _question_metrics(path: Path) -> QuestionMetrics:
    """What `callbacks.save_predictions` wrote, of all processes."""
    found: QuestionMetrics = {}
    for file in (path, *sorted(path.parent.glob(f"{path.name}.rank*"))):
        for record in _lines(file, "id"):
            values = {name: record.get(name) for name in ("em", "f1")} | record.get("metrics", {})
            if "first_hit_rank" in record and len(record["passages"]) >= 5:
                rank = record["first_hit_rank"]
                values["hr_at_5"] = float(rank is not None and rank < 5)
            _add(found, record["id"], values)
    return found


def _analysed_metrics(path: Path) -> QuestionMetrics:
    found: QuestionMetrics = {}
    for record in _lines(path, "id", "metrics"):
        _add(found, record["id"], record["metrics"])
    return found


def _add(metrics: QuestionMetrics, question_id: str, values: Mapping[str, float | None]) -> None:
    for name, value in values.items():
        if value is not None and math.isfinite(value):
            metrics.setdefault(name, {})[question_id] = float(value)


def _lines(path: Path, *keys: str) -> Iterator[dict[str, Any]]:
    """The objects of a JSONL file; none where there is no file."""
    if not path.is_file():
        return
    for number, line in enumerate(path.read_text().splitlines(), start=1):
        try:
            record = json.loads(line)
        except ValueError as error:
            raise DataError(f"{path}, line {number} is no JSON: {error}") from error
        missing = [key for key in keys if not isinstance(record, dict) or key not in record]
        if missing:
            raise DataError(f"{path}, line {number} has no {missing[0]!r}")
        yield record


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
