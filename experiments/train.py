"""One run, from its configuration to its summary."""

import json
import math
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import lightning as L
import torch
from lightning.pytorch.callbacks import Callback, LearningRateMonitor, ModelCheckpoint
from lightning.pytorch.loggers import TensorBoardLogger

from callbacks.dashboard import Dashboard
from callbacks.log_indicators import LogIndicators
from callbacks.progress import StepProgress
from callbacks.refresh_index import RefreshIndex
from callbacks.save_last import SaveLast
from callbacks.save_predictions import SavePredictions
from callbacks.stop_on_indicators import StopOnIndicators
from callbacks.stop_on_interrupt import RunInterrupted, StopOnInterrupt
from datamodules.passage_index import gpu_search_is_possible
from datamodules.qa_datamodule import QuestionDataModule
from experiments.build import (
    build_datamodule,
    build_knowledge,
    build_module,
    build_reader,
    build_retriever,
    cache_folder,
    hardware,
)
from experiments.config import ConfigError, ExperimentConfig, trains
from experiments.runs import RunFolder, latest_finished, write_json
from lightning_modules import RetrieverReaderModule
from lightning_modules.metrics.indicators import AttentionNormalization

LATEST = "latest:"


@dataclass
class _Callbacks:
    index: RefreshIndex
    indicators: LogIndicators
    stopping: StopOnIndicators | None
    best: ModelCheckpoint | None
    last: SaveLast
    others: list[Callback]

    def all(self) -> list[Callback]:
        # the index is fresh before anything is measured, and measured before anything is decided
        chosen = [self.index, self.indicators, *self.others, self.stopping, self.best, self.last]
        return [callback for callback in chosen if callback is not None]


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
        name: _weights_of(getattr(config.init, f"{name}_from"), name, config)
        for name in ("reader", "retriever")
    }
    module = _build(config, run, datamodule, sources)
    load_s = time.perf_counter() - started
    callbacks = _make_callbacks(config, run)
    trainer = _make_trainer(config, run, callbacks, trainer_hardware)
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
        write_json(run.summary, {"name": config.name, "status": "interrupted", "seed": config.seed})
        raise
    times_s = {"load": load_s, **module.timer.totals_s, "total": time.perf_counter() - started}
    summary = _summary(config, before, after, stopped, callbacks, times_s, sources)
    write_json(run.summary, summary)
    return summary


def _build(
    config: ExperimentConfig,
    run: RunFolder,
    datamodule: QuestionDataModule,
    sources: Mapping[str, Path | None],
) -> RetrieverReaderModule:
    knowledge_base = build_knowledge(config, datamodule, run.path)
    retriever = build_retriever(config, sources["retriever"])
    reader = build_reader(config, sources["reader"])
    return build_module(config, retriever, reader, knowledge_base)


def _weights_of(source: str | None, model: str, config: ExperimentConfig) -> Path | None:
    """Folder of the weights of an earlier run: a run folder, or `latest:NAME`."""
    if source is None:
        return None
    if source.startswith(LATEST):
        name = source.removeprefix(LATEST)
        found = latest_finished(name, Path(config.runs))
        if found is None:
            raise ConfigError(
                f"init.{model}_from={source}: there is no finished run of {name} in {config.runs}/; run "
                f"`python -m experiments.run --exp {name}` first, or set init.{model}_from to a run's folder"
            )
        run = found
    else:
        run = RunFolder(Path(source))
    folder: Path = getattr(run, model)
    if not folder.is_dir():
        raise ConfigError(
            f"init.{model}_from={source}: {run.path} holds no trained {model}; name a finished run that "
            "trains it"
        )
    return folder


def _make_callbacks(config: ExperimentConfig, run: RunFolder) -> _Callbacks:
    evaluation, trainer = config.evaluation, config.trainer
    stopping = None
    if config.stopping.enabled and trains(config):
        stopping = StopOnIndicators(
            monitor=config.stopping.monitor,
            margin=config.stopping.margin,
            patience=config.stopping.patience,
            target=config.stopping.target,
        )
    best = None
    if evaluation.monitor is not None:
        best = ModelCheckpoint(
            dirpath=run.checkpoints,
            filename="best-{step}",
            monitor=evaluation.monitor,
            mode="max",
            save_weights_only=True,
            save_on_train_epoch_end=False,
            enable_version_counter=False,  # a resumed run replaces what was saved before the interruption
        )
    last = SaveLast(run.last_checkpoint, trainer.checkpoint_every_steps)
    index = RefreshIndex(
        config.index.refresh,
        run.index,
        factory=config.index.factory,
        use_gpu=gpu_search_is_possible() if config.index.gpu is None else config.index.gpu,
        batch_size=config.index.batch_size,
        before_validation=config.index.refresh_before_validation,
        show_progress=trainer.progress_bar,
        start_folder=cache_folder(config) / "index",
    )
    indicators = LogIndicators(
        tuple(evaluation.percentiles), AttentionNormalization(evaluation.attention_normalization)
    )
    others: list[Callback] = [
        Dashboard(),
        SavePredictions(run.predictions),
        StopOnInterrupt(run.last_checkpoint),
    ]
    if trains(config):
        others.append(LearningRateMonitor("step"))
    if trainer.progress_bar:
        others.append(StepProgress())
    return _Callbacks(index, indicators, stopping, best, last, others)


def _make_trainer(
    config: ExperimentConfig, run: RunFolder, callbacks: _Callbacks, trainer_hardware: dict[str, Any]
) -> L.Trainer:
    settings = config.trainer
    return L.Trainer(
        max_steps=settings.max_steps,
        max_epochs=-1,
        accumulate_grad_batches=settings.accumulate,
        gradient_clip_val=settings.gradient_clip,
        # in batches, across epochs
        val_check_interval=settings.validate_every_steps * settings.accumulate,
        check_val_every_n_epoch=None,
        num_sanity_val_steps=0,
        log_every_n_steps=settings.log_every_steps,
        logger=TensorBoardLogger(run.path, name="", version="tensorboard"),
        callbacks=callbacks.all(),
        enable_progress_bar=False,  # `StepProgress` counts steps, not the batches of an epoch
        enable_model_summary=False,
        # metrics reset in inference mode could not be updated outside of it
        inference_mode=False,
        use_distributed_sampler=settings.devices > 1,
        **trainer_hardware,
    )


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
        start["validation"] = {name: float(v) for name, v in trainer.callback_metrics.items()}
        _check_monitors(config, start["validation"])
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
    callbacks: _Callbacks,
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
    callbacks: _Callbacks,
    sources: Mapping[str, Path | None],
    start: Mapping[str, float],
) -> None:
    """Puts the best weights into the module: those of a checkpoint, or the start's if none beat it."""
    best = callbacks.best
    if best is None or not best.best_model_path:
        return
    if best.best_model_score is not None and float(best.best_model_score) >= start[str(best.monitor)]:
        weights = torch.load(best.best_model_path, map_location=module.device, weights_only=True)[
            "state_dict"
        ]
    else:
        weights = _build(config, run, datamodule, sources).state_dict()
        best.best_model_path = ""
    module.load_state_dict(weights, strict=False)


def _export(config: ExperimentConfig, run: RunFolder, module: RetrieverReaderModule) -> None:
    """The trained models, as transformers loads them."""
    if config.training.train_reader:
        module.reader.save(run.reader)
    if config.training.train_retriever:
        module.retriever.save(run.retriever)


def _summary(
    config: ExperimentConfig,
    before: Mapping[str, float],
    after: Mapping[str, float],
    stopped: str,
    callbacks: _Callbacks,
    times_s: Mapping[str, float],
    sources: Mapping[str, Path | None],
) -> dict[str, Any]:
    def pair(name: str) -> dict[str, float | None]:
        return {"before": _finite(before.get(f"test/{name}")), "after": _finite(after.get(f"test/{name}"))}

    names = sorted(name.removeprefix("test/") for name in after if name.startswith("test/"))
    pairs = {name: pair(name) for name in names}
    best_step = None
    if callbacks.best is not None and callbacks.best.best_model_path:
        best_step = int(Path(callbacks.best.best_model_path).stem.split("step=")[1].split("-")[0])
    return {
        "name": config.name,
        "status": "finished",
        "scale": config.scale,
        "seed": config.seed,
        "stopped": stopped,
        "best_step": best_step,
        "index_refreshes": callbacks.index.refresh_steps,
        **{name: values for name, values in pairs.items() if "/" not in name},
        "indicators": {n: v for n, v in pairs.items() if n.startswith("indicator") and "good_above" not in n},
        "teacher": {n: v for n, v in pairs.items() if n.startswith("teacher/")},
        "started_from": {name: str(path) for name, path in sources.items() if path is not None},
        "times_s": {part: round(seconds, 1) for part, seconds in times_s.items()},
    }


def _finite(value: float | None) -> float | None:
    """JSON has no NaN."""
    return value if value is not None and math.isfinite(value) else None
