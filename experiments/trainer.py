"""Configuration -> the callbacks and the trainer of a run."""

from dataclasses import dataclass
from typing import Any

import lightning as L
from lightning.pytorch.callbacks import Callback, LearningRateMonitor, ModelCheckpoint
from lightning.pytorch.loggers import TensorBoardLogger

from callbacks.dashboard import Dashboard
from callbacks.log_indicators import LogIndicators
from callbacks.progress import StepProgress
from callbacks.refresh_index import RefreshIndex
from callbacks.save_last import SaveLast
from callbacks.save_predictions import SavePredictions
from callbacks.stop_on_indicators import StopOnIndicators
from callbacks.stop_on_interrupt import StopOnInterrupt
from datamodules.passage_index import gpu_search_is_possible
from experiments.build import cache_folder, trains
from experiments.config import ExperimentConfig
from experiments.runs import RunFolder
from lightning_modules.metrics.indicators import AttentionNormalization


@dataclass
class RunCallbacks:
    """A run's callbacks; those that are asked for results later have a name."""

    index: RefreshIndex | None
    indicators: LogIndicators
    stopping: StopOnIndicators | None
    best: ModelCheckpoint | None
    last: SaveLast
    others: list[Callback]

    def all(self) -> list[Callback]:
        # the index is fresh before anything is measured, and measured before anything is decided
        chosen = [self.index, self.indicators, *self.others, self.stopping, self.best, self.last]
        return [callback for callback in chosen if callback is not None]


def make_callbacks(config: ExperimentConfig, run: RunFolder) -> RunCallbacks:
    """Everything that happens around the steps of a run."""
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
    index = None if evaluation.closed_book else _refresh_index(config, run)
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
    return RunCallbacks(index, indicators, stopping, best, last, others)


def _refresh_index(config: ExperimentConfig, run: RunFolder) -> RefreshIndex:
    return RefreshIndex(
        config.index.refresh,
        run.index,
        factory=config.index.factory,
        use_gpu=gpu_search_is_possible() if config.index.gpu is None else config.index.gpu,
        batch_size=config.index.batch_size,
        before_validation=config.index.refresh_before_validation,
        show_progress=config.trainer.progress_bar,
        start_folder=cache_folder(config) / "index",
    )


def make_trainer(
    config: ExperimentConfig, run: RunFolder, callbacks: RunCallbacks, trainer_hardware: dict[str, Any]
) -> L.Trainer:
    """The trainer, with the arguments for the accelerator that `build.hardware` found."""
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
