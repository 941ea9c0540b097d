"""What a run measured, as `summary.json` holds it."""

import math
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from datamodules.sealed_files import DamagedFileError
from experiments.config import ConfigError, ExperimentConfig, trains
from experiments.models import models_used
from experiments.runs import FAILED, FINISHED, RunFolder
from experiments.trainer import RunCallbacks
from lightning_modules.metrics.measures import BM25

COLLAPSE = "collapse"
"""What `stopped` begins with after an alarm."""
BROKEN = "broken"
"""What `stopped` begins with where the numbers of the training broke: the run has failed."""


def make_summary(
    config: ExperimentConfig,
    before: Mapping[str, float],
    after: Mapping[str, float],
    stopped: str,
    callbacks: RunCallbacks,
    times_s: Mapping[str, float],
    sources: Mapping[str, Path | None],
    checksums: Mapping[str, str],
    start: Mapping[str, float] | None = None,
    read_once: Mapping[str, int | str] | None = None,
) -> dict[str, Any]:
    """Metrics before and after, why it ended, and where the time went.

    Args:
        config: of the run.
        before, after: test metrics of the start and of the best checkpoint, named `test/...`.
        stopped: why it ended.
        callbacks: of the run.
        times_s: seconds by part.
        sources: folders of the weights that the run started from.
        checksums: of what others read of the run's folder, by name within it.
        start: validation metrics of the start, of a run that trains.
        read_once: of a frozen reader whose outputs are to be kept, how many pairs of question, answer and
            passage were `read` and how many `found`, since the run began or went on; or `why_not` any are
            kept.
    """

    def pair(name: str) -> dict[str, float | None]:
        return {"before": _finite(before.get(f"test/{name}")), "after": _finite(after.get(f"test/{name}"))}

    names = sorted(name.removeprefix("test/") for name in after if name.startswith("test/"))
    pairs = {name: pair(name) for name in names}
    return {
        "name": config.name,
        "status": FAILED if stopped.startswith(BROKEN) else FINISHED,
        "scale": config.scale,
        "seed": config.seed,
        "trained": trains(config),
        "stopped": stopped,
        "skipped": [] if callbacks.skipping is None else callbacks.skipping.skipped,
        "decisions": _decisions(callbacks),
        "best_step": None if callbacks.best is None else callbacks.best.step,
        "chosen_by": _chosen_by(config, callbacks, start),
        "index_refreshes": [] if callbacks.index is None else callbacks.index.refresh_steps,
        **{name: values for name, values in pairs.items() if "/" not in name},
        "bm25": {n: v for n, v in pairs.items() if n.startswith(BM25)},
        "indicators": {n: v for n, v in pairs.items() if n.startswith("indicator") and "good_above" not in n},
        "teacher": {n: v for n, v in pairs.items() if n.startswith("teacher/")},
        "models": models_used(config),
        "started_from": {name: str(path) for name, path in sources.items() if path is not None},
        "checksums": dict(checksums),
        "read_once": None if read_once is None else dict(read_once),
        "times_s": {part: round(seconds, 1) for part, seconds in times_s.items()},
    }


def _chosen_by(
    config: ExperimentConfig,
    callbacks: RunCallbacks,
    start: Mapping[str, float] | None,
) -> dict[str, Any] | None:
    """What the kept weights were chosen by: its value at the start, of what was kept and at the end.

    None where nothing is trained, or no checkpoint could be chosen.
    """
    best = callbacks.best
    if start is None or best is None or best.last is None or best.score is None:
        return None
    monitor = str(config.evaluation.monitor)
    kept = start[monitor] if best.path is None else best.score
    values = {"start": start[monitor], "kept": kept, "last": best.last}
    return {"monitor": monitor, **{when: _finite(value) for when, value in values.items()}}


def refuse_broken(config: ExperimentConfig, run: RunFolder) -> None:
    """Refuses to go on with a run whose numbers broke, since the same numbers would break again.

    Args:
        config: of the run.
        run: its folder.

    Raises:
        ConfigError: why it ended, and how to start from the weights that it kept.
    """
    try:
        summary = run.read_summary()
    except (FileNotFoundError, DamagedFileError):  # which says nothing of its end
        return
    if summary["status"] != FAILED:
        return
    training = config.training
    trained = {
        "retriever": (training.train_retriever, run.retriever, training.retriever_lr),
        "reader": (training.train_reader, run.reader, training.reader_lr),
    }
    settings = [
        f"init.{name}_from={run.path} training.{name}_lr={rate / 4:g}"
        for name, (is_trained, folder, rate) in trained.items()
        if is_trained and folder.is_dir()
    ]
    raise ConfigError(
        f"{run.path} ended with {summary['stopped']}; from its last checkpoint the same numbers would break "
        "again. Look at the questions that are named, then start a new run from the weights that this one "
        f"exported, with smaller steps: python -m experiments.run --exp {config.name} {' '.join(settings)}, "
        f"and what else {run.config} sets"
    )


def _decisions(callbacks: RunCallbacks) -> list[dict[str, Any]]:
    return [
        {name: _finite(value) if isinstance(value, float) else value for name, value in asdict(made).items()}
        for made in callbacks.decided.made
    ]


def _finite(value: float | None) -> float | None:
    """JSON has no NaN."""
    return value if value is not None and math.isfinite(value) else None
