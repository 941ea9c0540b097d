"""What was decided while a run trained, with its numbers."""

import logging
from dataclasses import dataclass

from lightning import Trainer
from lightning.pytorch.loggers import TensorBoardLogger

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Decision:
    """One decision, as `summary.json` lists it.

    Attributes:
        step: optimizer steps done.
        action: what was done: `stop`, `freeze_retriever`, `reader_first`, or `distil` (again).
        metric: the metric that decided it.
        baseline: the start's mean over the pairs.
        change: mean change from it.
        low, high: bounds of the change.
    """

    step: int
    action: str
    metric: str
    baseline: float
    change: float
    low: float
    high: float


def announce(trainer: Trainer, message: str) -> None:
    """Tells the user in the log, and in TensorBoard as the text `decisions`."""
    log.warning(message)
    for logger in trainer.loggers:
        if isinstance(logger, TensorBoardLogger) and trainer.is_global_zero:
            logger.experiment.add_text("decisions", message, trainer.global_step)
