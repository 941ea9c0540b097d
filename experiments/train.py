"""One run, from its configuration to its summary."""

import json
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import lightning as L
import torch

from callbacks.stop_on_interrupt import RunInterrupted
from datamodules.qa_datamodule import QuestionDataModule
from experiments.build import (
    build_datamodule,
    build_knowledge,
    build_module,
    build_reader,
    build_retriever,
    hardware,
    trains,
)
from experiments.config import ConfigError, ExperimentConfig
from experiments.runs import RunFolder, is_main_process, weights_of, write_json
from experiments.summary import make_summary
from experiments.trainer import RunCallbacks, make_callbacks, make_trainer
from lightning_modules import RetrieverReaderModule
from lightning_modules.closed_book import ClosedBookModule


def run_experiment(config: ExperimentConfig, run: RunFolder) -> dict[str, Any]:
    """Measures the start, trains, measures the best checkpoint on the test split, and writes the summary.

    A folder that holds a checkpoint goes on from there.

    Args:
        config: of the run.
        run: its folder.

    Returns:
        What `summary.json` holds.

    Raises:
        ValueError: a setting, a file or a model that cannot be used; nothing was trained.
        RunInterrupted: Ctrl-C; the summary says so.
    """
    started = time.perf_counter()
    L.seed_everything(config.seed, verbose=False)
    trainer_hardware = hardware(config)
    datamodule = build_datamodule(config)
    sources = {
        name: weights_of(getattr(config.init, f"{name}_from"), name, config)
        for name in ("reader", "retriever")
    }
    if config.evaluation.closed_book:
        return _run_closed_book(config, run, datamodule, sources["reader"], started)
    module = _build(config, run, datamodule, sources)
    load_s = time.perf_counter() - started
    callbacks = make_callbacks(config, run)
    trainer = make_trainer(config, run, callbacks, trainer_hardware)
    try:
        start = _start_readings(config, run, module, datamodule, trainer)
        if callbacks.stopping is not None:
            callbacks.stopping.baseline = start["validation"].get(callbacks.stopping.monitor)
        before = after = start["test"]
        stopped = "nothing is trained"
        if trains(config):
            stopped = _fit(config, run, module, datamodule, trainer, callbacks)
            _load_best(config, run, module, datamodule, callbacks, sources, start["validation"])
            after = _test(config, module, datamodule, trainer)
            _export(config, run, module)
    except RunInterrupted:
        _write_interrupted(config, run)
        raise
    times_s = {"load": load_s, **module.timer.totals_s, "total": time.perf_counter() - started}
    summary = make_summary(config, before, after, stopped, callbacks, times_s, sources)
    return _written(run, summary)


def _run_closed_book(
    config: ExperimentConfig,
    run: RunFolder,
    datamodule: QuestionDataModule,
    source: Path | None,
    started: float,
) -> dict[str, Any]:
    """What the reader answers to the test questions by itself: no retriever, no passages, no index."""
    reader = build_reader(config, source)
    module = ClosedBookModule(reader, config.evaluation.num_read_test, config.reader.max_new_tokens)
    load_s = time.perf_counter() - started
    callbacks = make_callbacks(config, run)
    trainer = make_trainer(config, run, callbacks, hardware(config))
    try:
        trainer.test(module, datamodule, verbose=False)
    except RunInterrupted:
        _write_interrupted(config, run)
        raise
    readings = {name: float(value) for name, value in trainer.callback_metrics.items()}
    times_s = {"load": load_s, **module.timer.totals_s, "total": time.perf_counter() - started}
    sources = {"reader": source}
    summary = make_summary(config, readings, readings, "nothing is trained", callbacks, times_s, sources)
    return _written(run, summary)


def _written(run: RunFolder, summary: dict[str, Any]) -> dict[str, Any]:
    if is_main_process():
        write_json(run.summary, summary)
    return summary


def _write_interrupted(config: ExperimentConfig, run: RunFolder) -> None:
    _written(run, {"name": config.name, "status": "interrupted", "seed": config.seed})


def _build(
    config: ExperimentConfig,
    run: RunFolder,
    datamodule: QuestionDataModule,
    sources: Mapping[str, Path | None],
) -> RetrieverReaderModule:
    knowledge_base = build_knowledge(config, datamodule, run.path)
    retriever = build_retriever(config, sources["retriever"])
    reader = None if config.evaluation.retrieve_only else build_reader(config, sources["reader"])
    return build_module(config, retriever, reader, knowledge_base)


def _start_readings(
    config: ExperimentConfig,
    run: RunFolder,
    module: RetrieverReaderModule,
    datamodule: QuestionDataModule,
    trainer: L.Trainer,
) -> dict[str, dict[str, float]]:
    """Test and validation readings of the starting checkpoint: what the end is compared with."""
    if run.start.is_file():
        kept: dict[str, dict[str, float]] = json.loads(run.start.read_text())
        return kept
    start = {"test": _test(config, module, datamodule, trainer), "validation": {}}
    if trains(config):
        module.generate = config.evaluation.generate_in_validation
        trainer.validate(module, datamodule, verbose=False)
        measured = trainer.callback_metrics
        start["validation"] = {name: float(value) for name, value in measured.items() if name != "step"}
        _check_monitors(config, start["validation"])
    if is_main_process():
        write_json(run.start, start)
    return start


def _check_monitors(config: ExperimentConfig, readings: Mapping[str, float]) -> None:
    """Refuses to watch what is not measured."""
    watched = {"evaluation.monitor": config.evaluation.monitor}
    if config.stopping.enabled:
        watched["stopping.monitor"] = config.stopping.monitor
    for key, monitor in watched.items():
        if monitor is not None and monitor not in readings:
            known = ", ".join(sorted(readings))
            raise ConfigError(f"{key}={monitor!r} is not measured in validation; choose one of: {known}")


def _test(
    config: ExperimentConfig,
    module: RetrieverReaderModule,
    datamodule: QuestionDataModule,
    trainer: L.Trainer,
) -> dict[str, float]:
    module.num_read, module.generate = config.evaluation.num_read_test, True
    trainer.test(module, datamodule, verbose=False)
    module.num_read = config.evaluation.num_read
    return {
        name: float(value) for name, value in trainer.callback_metrics.items() if name.startswith("test/")
    }


def _fit(
    config: ExperimentConfig,
    run: RunFolder,
    module: RetrieverReaderModule,
    datamodule: QuestionDataModule,
    trainer: L.Trainer,
    callbacks: RunCallbacks,
) -> str:
    """Trains, and says why it ended."""
    module.generate = config.evaluation.generate_in_validation
    checkpoint = run.last_checkpoint if run.last_checkpoint.is_file() else None
    # a run killed before its first checkpoint does not measure the start again
    L.seed_everything(config.seed, verbose=False)
    with module.timer.part("training"):
        trainer.fit(module, datamodule, ckpt_path=checkpoint, weights_only=True)
    if callbacks.stopping is not None and callbacks.stopping.reason is not None:
        return f"{callbacks.stopping.reason}: {callbacks.stopping.stopping_reason_message}"
    return f"all {trainer.global_step} steps done"


def _load_best(
    config: ExperimentConfig,
    run: RunFolder,
    module: RetrieverReaderModule,
    datamodule: QuestionDataModule,
    callbacks: RunCallbacks,
    sources: Mapping[str, Path | None],
    start: Mapping[str, float],
) -> None:
    """Puts the best weights into the module: those of a checkpoint, or the start's if none beat it."""
    best = callbacks.best
    if best is None or not best.best_model_path:
        return
    if best.best_model_score is not None and float(best.best_model_score) > start[str(best.monitor)]:
        weights = torch.load(best.best_model_path, map_location=module.device, weights_only=True)[
            "state_dict"
        ]
    else:
        weights = _build(config, run, datamodule, sources).state_dict()
        best.best_model_path = ""
    module.load_state_dict(weights, strict=False)


def _export(config: ExperimentConfig, run: RunFolder, module: RetrieverReaderModule) -> None:
    """The trained models, as transformers loads them."""
    if not is_main_process():
        return
    if config.training.train_reader:
        assert module.reader is not None
        module.reader.save(run.reader)
    if config.training.train_retriever:
        module.retriever.save(run.retriever)
