"""Runs as a report needs them: what they were asked for, and what they measured of each question."""

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from yaml import YAMLError

from datamodules.errors import DataError
from experiments.config import ConfigError, ExperimentConfig, read_config
from experiments.runs import RunFolder

SETTINGS = ("checkpoint", "offshelf", "step1", "step2", "atlas_large", "perplexity")
DATASETS = ("nq", "triviaqa", "vital")

Readings = dict[str, dict[str, float]]
"""Reading -> question id -> value, where it is defined."""


@dataclass(frozen=True)
class Run:
    """A run's folder, read.

    Attributes:
        path: the folder.
        config: what was asked for.
        status: `finished`, `interrupted`, or `unfinished` where there is no summary yet.
        summary: what `summary.json` holds.
        after: readings of the final test, question by question; `analysis/instances.jsonl` goes before
            `predictions.jsonl` for the readings that it has.
        changes: after - before, of the questions that both tests measured; empty where nothing is trained.
        validations: step -> readings.
        from_analysis: whether `after` has readings of `analysis/instances.jsonl`.
    """

    path: Path
    config: ExperimentConfig
    status: str
    summary: Mapping[str, Any] = field(default_factory=dict)
    after: Readings = field(default_factory=dict)
    changes: Readings = field(default_factory=dict)
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
    after, before = (_question_readings(file) for file in (folder.predictions, folder.predictions_start))
    instances = path / "analysis" / "instances.jsonl"
    instances_start = path / "analysis" / "instances-start.jsonl"
    analysed = _instance_readings(instances)
    # the two sides of a change come from the same kind of file, for they may hold other questions
    of_start = _instance_readings(instances_start) if analysed else {}
    changes = _differences(after, before) | _differences(analysed, of_start)
    validations = {line["step"]: line["readings"] for line in _lines(folder.validations, "step", "readings")}
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


def _question_readings(path: Path) -> Readings:
    """What `callbacks.save_predictions` wrote, of all processes."""
    found: Readings = {}
    for file in (path, *sorted(path.parent.glob(f"{path.name}.rank*"))):
        for record in _lines(file, "id"):
            values = {name: record.get(name) for name in ("em", "f1")} | record.get("readings", {})
            if "first_hit_rank" in record and len(record["passages"]) >= 5:
                rank = record["first_hit_rank"]
                values["hr_at_5"] = float(rank is not None and rank < 5)
            _add(found, record["id"], values)
    return found


def _instance_readings(path: Path) -> Readings:
    found: Readings = {}
    for record in _lines(path, "id", "readings"):
        _add(found, record["id"], record["readings"])
    return found


def _add(readings: Readings, question_id: str, values: Mapping[str, float | None]) -> None:
    for name, value in values.items():
        if value is not None and math.isfinite(value):
            readings.setdefault(name, {})[question_id] = float(value)


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


def _differences(after: Readings, before: Readings) -> Readings:
    changes = {
        name: {key: values[key] - before[name][key] for key in values.keys() & before[name].keys()}
        for name, values in after.items()
        if name in before
    }
    # sets have no order, and a bootstrap draws by position
    return {name: dict(sorted(values.items())) for name, values in changes.items() if values}
