"""Text, histograms and figures, for all loggers of a run that take them."""

from collections.abc import Callable
from functools import singledispatch
from typing import TYPE_CHECKING, Any

import numpy as np
from lightning import Trainer
from lightning.pytorch.loggers import Logger, MLFlowLogger, TensorBoardLogger, WandbLogger
from torch import Tensor

from callbacks.trackio_logger import TrackioLogger

if TYPE_CHECKING:  # it takes long to import
    from matplotlib.figure import Figure


def log_text(trainer: Trainer, name: str, markdown: str) -> None:
    """Markdown, at the step that the trainer is at."""
    _give(trainer, add_text, name, markdown)


def log_histogram(trainer: Trainer, name: str, values: Tensor) -> None:
    """Of finite values, at the step that the trainer is at."""
    _give(trainer, add_histogram, name, values)


def log_figure(trainer: Trainer, name: str, figure: "Figure") -> None:
    """Of matplotlib, at the step that the trainer is at."""
    _give(trainer, add_figure, name, figure)


def _give(trainer: Trainer, add: Callable[[Logger, str, Any, int], None], name: str, what: Any) -> None:
    if trainer.is_global_zero:
        for logger in trainer.loggers:
            add(logger, name, what, trainer.global_step)


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


@singledispatch
def add_figure(logger: Logger, name: str, figure: "Figure", step: int) -> None:
    """Gives a logger a figure as an image; one that takes none leaves it out."""


@add_figure.register(TensorBoardLogger)
def _(logger: TensorBoardLogger, name: str, figure: "Figure", step: int) -> None:
    logger.experiment.add_figure(name, figure, step)


@add_figure.register(WandbLogger)
def _(logger: WandbLogger, name: str, figure: "Figure", step: int) -> None:
    logger.log_image(name, [figure], step)


@add_figure.register(MLFlowLogger)
def _(logger: MLFlowLogger, name: str, figure: "Figure", step: int) -> None:
    assert logger.run_id is not None
    logger.experiment.log_figure(logger.run_id, figure, f"{name}/step-{step}.png")


@add_figure.register(TrackioLogger)
def _(logger: TrackioLogger, name: str, figure: "Figure", step: int) -> None:
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    logger.log_image(name, np.asarray(canvas.buffer_rgba())[..., :3], step)
