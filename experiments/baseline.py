"""The readings that a run is compared with, question by question, as JSON."""

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from callbacks.log_indicators import InstanceReadings
from callbacks.read_start_candidates import START_CANDIDATES
from experiments.config import ConfigError
from lightning_modules.metrics.paired_change import MIN_PAIRS


def instances_to_json(instances: InstanceReadings) -> dict[str, Any]:
    """`{"question_ids": [...], "values": {reading: [...]}}`, with null for NaN, which JSON has not."""
    values = {
        name: [None if math.isnan(value) else value for value in values]
        for name, values in instances.values.items()
    }
    return {"question_ids": list(instances.question_ids), "values": values}


def instances_from_json(content: dict[str, Any]) -> InstanceReadings:
    """What `instances_to_json` made."""
    values = {
        name: [math.nan if value is None else float(value) for value in values]
        for name, values in content["values"].items()
    }
    return InstanceReadings([str(question_id) for question_id in content["question_ids"]], values)


def read_baseline(path: Path, monitors: Sequence[str]) -> InstanceReadings:
    """The `instances` of a probe, or of an earlier run's `start.json`.

    What a probe measured was measured on the start's passages: its `teacher/auc` also is the
    `start_candidates/teacher/auc` of a run.

    Raises:
        ConfigError: no such file, not of this form, or without enough values of a monitor.
    """
    try:
        instances = instances_from_json(json.loads(path.read_text())["instances"])
        is_whole = all(len(values) == len(instances.question_ids) for values in instances.values.values())
    except OSError as error:
        raise ConfigError(f"stopping.baseline: cannot read {path} ({error.strerror})") from error
    except (ValueError, KeyError, TypeError, AttributeError):
        is_whole = False
    if not is_whole:
        raise ConfigError(
            f"stopping.baseline: {path} does not hold instances (question_ids, and values with a number or "
            "null for each); give a probe's JSON, or the start.json of a run that trained"
        )
    for name in monitors:
        if name not in instances.values and name.removeprefix(START_CANDIDATES) in instances.values:
            instances.values[name] = instances.values[name.removeprefix(START_CANDIDATES)]
        count = sum(not math.isnan(value) for value in instances.values.get(name, []))
        if count < MIN_PAIRS:
            raise ConfigError(
                f"stopping.baseline: {path} has {name} of {count} questions, at least {MIN_PAIRS} are "
                "needed; read more questions for it, or leave the reading out of stopping.monitors"
            )
    return instances


def check_overlap(path: Path, baseline: InstanceReadings, measured: InstanceReadings) -> None:
    """Refuses a baseline of other questions than the run's validations read.

    Raises:
        ConfigError: fewer than `MIN_PAIRS` questions are in both.
    """
    num_shared = len(set(baseline.question_ids) & set(measured.question_ids))
    if num_shared < MIN_PAIRS:
        raise ConfigError(
            f"stopping.baseline: only {num_shared} of the questions in {path} are among those that this "
            f"run's validations read, at least {MIN_PAIRS} are needed; take it from the same validation "
            "questions, read more of them (evaluation.num_read), or set stopping.baseline=null"
        )
