"""Stops a run whose teacher has become worse than it was at the start, or that has got where it should."""

import logging
import math
from typing import Any

import torch
from lightning import LightningModule, Trainer
from lightning.pytorch.callbacks import EarlyStopping
from lightning.pytorch.trainer.states import TrainerFn
from torch import Tensor

log = logging.getLogger(__name__)


class StopOnIndicators(EarlyStopping):
    """Early stopping on the teacher's quality instead of on the loss, relative to the starting checkpoint.

    "Ineffective": the monitored indicator (by default Indicator 1's p90 Spearman, the one reading that
    separates good from bad in all eight decoder-only settings of the paper) was below the start's by more
    than `margin` in `patience` validations in a row; undefined (NaN) counts as below. "Target": it reached
    `target`. The start is the first validation at step 0, such as `trainer.validate` before `trainer.fit`.

    Args:
        monitor: logged quantity, higher = better.
        margin: tolerated drop below the start.
        patience: validations in a row.
        target: stop as soon as the quantity is at least this; None = never.
        baseline: the start, where it is known already.

    Attributes:
        baseline: the start's reading; None until it was seen.
        reason: `ineffective` or `target`, or None while neither holds.
        stopping_reason_message: the decision with its numbers.
    """

    def __init__(
        self,
        monitor: str = "indicator1/spearman_p90",
        margin: float = 0.05,
        patience: int = 3,
        target: float | None = None,
        baseline: float | None = None,
    ) -> None:
        super().__init__(
            monitor=monitor,
            mode="max",
            patience=patience,
            stopping_threshold=target,
            check_finite=False,
            check_on_train_epoch_end=False,
        )
        if margin < 0 or patience < 1:
            raise ValueError(f"margin {margin} must not be negative and patience {patience} at least 1")
        self.margin = margin
        self.baseline = baseline
        self.reason: str | None = None

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        # gone on from a checkpoint that was saved after the decision
        trainer.should_stop = trainer.should_stop or self.reason is not None

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if self.baseline is None and trainer.global_step == 0 and self.monitor in trainer.callback_metrics:
            self.baseline = float(trainer.callback_metrics[self.monitor])
            log.info("start: %s = %.3f", self.monitor, self.baseline)
            return
        if trainer.state.fn == TrainerFn.FITTING and not trainer.sanity_checking:
            self._run_early_stopping_check(trainer)

    def _evaluate_stopping_criteria(self, current: Tensor) -> tuple[bool, str | None]:
        value = float(current)
        if self.stopping_threshold is not None and value >= self.stopping_threshold:
            self.reason = "target"
            message = f"{self.monitor} = {value:.3f} reached the target {self.stopping_threshold:.3f}"
            return self._decided(message)
        if self.baseline is None or math.isnan(self.baseline):
            return False, None
        is_below = not value >= self.baseline - self.margin
        self.wait_count = self.wait_count + 1 if is_below else 0
        if self.wait_count < self.patience:
            return False, None
        self.reason = "ineffective"
        return self._decided(
            f"{self.monitor} = {value:.3f} is more than {self.margin:.3f} below the start's "
            f"{self.baseline:.3f}, in {self.wait_count} validations in a row: the reader's attention has "
            "become a worse teacher than it was, and distilling it on would harm the retriever"
        )

    def _decided(self, message: str) -> tuple[bool, str]:
        self.stopping_reason_message = message
        log.warning("stopping (%s): %s", self.reason, message)
        return True, message

    def state_dict(self) -> dict[str, Any]:
        return {**super().state_dict(), "baseline": self.baseline, "reason": self.reason}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        # the run's settings win over those of the checkpoint
        patience = self.patience
        super().load_state_dict(state_dict)
        self.patience = patience
        self.best_score = torch.as_tensor(self.best_score)
        self.baseline = state_dict["baseline"]
        self.reason = state_dict["reason"]
