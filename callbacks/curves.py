"""TensorBoard's curves: learning rates, and that a resumed run draws no point twice.

What is measured of weights stands at the optimizer steps done (validations, tests); what belongs to a
training step (losses, learning rates) stands at the step that it is, 1 for the first. So what a run has
logged up to a checkpoint of step N stands at N or below, and what it logs again once it goes on from there
above N. Only the staleness measured between validations stands at N itself: the same value, perhaps twice.
"""

from pathlib import Path
from typing import Any

from lightning import Callback, LightningModule, Trainer
from lightning.pytorch.loggers import TensorBoardLogger


class ContinueCurves(Callback):
    """TensorBoard forgets what was logged after the checkpoint that a run goes on from.

    Args:
        folder: of the event files; a run is resumed where there are some.
    """

    def __init__(self, folder: Path | str) -> None:
        self._is_resumed = any(Path(folder).glob("events.out.tfevents*"))

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if not self._is_resumed or not trainer.is_global_zero:
            return
        for logger in trainer.loggers:
            if isinstance(logger, TensorBoardLogger):
                # the next event begins a new file, whose first one says from which step on to forget
                logger.experiment.close()
                logger.experiment.purge_step = trainer.global_step + 1


class LogLearningRates(Callback):
    """Logs the learning rate of each group of parameters: `lr-AdamW`, or `lr-AdamW/pg1` of several.

    Lightning's `LearningRateMonitor` counts steps from 0.
    """

    def __init__(self) -> None:
        self._logged_step = 0

    def on_train_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int
    ) -> None:
        step = trainer.global_step + 1
        # several batches share a step where gradients are accumulated
        if step == self._logged_step or step % trainer.log_every_n_steps:  # type: ignore[attr-defined]
            return
        self._logged_step = step
        rates = {
            f"lr-{type(optimizer).__name__}{_number(number, len(optimizer.param_groups))}": group["lr"]
            for optimizer in trainer.optimizers
            for number, group in enumerate(optimizer.param_groups, start=1)
        }
        for logger in trainer.loggers:
            logger.log_metrics(rates, step=step)


def _number(number: int, total: int) -> str:
    return f"/pg{number}" if total > 1 else ""
