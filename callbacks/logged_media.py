"""Text and histograms, for all loggers of a run that take them."""

from functools import singledispatch
from typing import Any

from lightning import Trainer
from lightning.pytorch.loggers import Logger, MLFlowLogger, TensorBoardLogger, WandbLogger
from torch import Tensor

from callbacks.trackio_logger import TrackioLogger


def log_text(trainer: Trainer, name: str, markdown: str) -> None:
    """Markdown, at the step that the trainer is at."""
    if trainer.is_global_zero:
        for logger in trainer.loggers:
            add_text(logger, name, markdown, trainer.global_step)


def log_histogram(trainer: Trainer, name: str, values: Tensor) -> None:
    """Of finite values, at the step that the trainer is at."""
    if trainer.is_global_zero:
        for logger in trainer.loggers:
            add_histogram(logger, name, values, trainer.global_step)


@singledispatch
def add_text(logger: Logger, name: str, markdown: str, step: int) -> None:
    """Gives Markdown to a logger; one that takes none leaves it out."""


@add_text.register
def _(logger: TensorBoardLogger, name: str, markdown: str, step: int) -> None:
    logger.experiment.add_text(name, markdown, step)


@add_text.register
def _(logger: WandbLogger, name: str, markdown: str, step: int) -> None:
    logger.log_text(name, columns=["text"], data=[[markdown]], step=step)


@add_text.register
def _(logger: MLFlowLogger, name: str, markdown: str, step: int) -> None:
    logger.experiment.log_text(logger.run_id, markdown, f"{name}/step-{step}.md")


@add_text.register
def _(logger: TrackioLogger, name: str, markdown: str, step: int) -> None:
    logger.log_text(name, markdown, step)


@singledispatch
def add_histogram(logger: Logger, name: str, values: Tensor, step: int) -> None:
    """Gives a logger the histogram of values; one that takes none leaves it out."""


@add_histogram.register
def _(logger: TensorBoardLogger, name: str, values: Tensor, step: int) -> None:
    logger.experiment.add_histogram(name, values, global_step=step)


@add_histogram.register
def _(logger: WandbLogger, name: str, values: Tensor, step: int) -> None:
    import wandb  # an extra

    histogram: Any = wandb.Histogram(values.tolist())
    logger.log_metrics({name: histogram}, step)


@add_histogram.register
def _(logger: TrackioLogger, name: str, values: Tensor, step: int) -> None:
    logger.log_histogram(name, values.numpy(), step)
