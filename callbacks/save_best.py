"""The checkpoint of the validation that was best, among those that can be compared."""

import math
from pathlib import Path
from typing import Any

from lightning import LightningModule, Trainer
from lightning.pytorch.callbacks import Checkpoint
from lightning.pytorch.trainer.states import TrainerFn

from callbacks.refresh_index import searches_stale_index


class SaveBest(Checkpoint):
    """Saves the weights after each validation that is better than all before it, the first of equal ones.

    Validations on a stale index are left out: what an index of older weights finds says little of the
    present ones, and the start, which a checkpoint has to beat, was measured on a fresh index.

    Unlike Lightning's `ModelCheckpoint` it knows its files by name alone, so that a run whose folder was
    moved or copied goes on with its best score. A file goes only once no checkpoint that the run could go on
    from tells of it: the last one, and the one before.

    Args:
        folder: of the checkpoints, `best-step=N.ckpt`.
        monitor: the metric that is best where it is highest.

    Attributes:
        score: of the best validation so far; None = there was none.
        step: of that validation.
        last: score of the latest validation that can be compared.
        num_left_out: validations so far that cannot.
    """

    def __init__(self, folder: Path | str, monitor: str) -> None:
        self.folder = Path(folder)
        self.monitor = monitor
        self.score: float | None = None
        self.step: int | None = None
        self.last: float | None = None
        self.num_left_out = 0
        self._told: list[int | None] = []  # the steps in the last two checkpoints of the whole run

    @property
    def path(self) -> Path | None:
        """Of the best checkpoint."""
        return None if self.step is None else self._path_of(self.step)

    @property
    def left_out_all(self) -> bool:
        """Whether there were validations, and none that a checkpoint could be chosen by."""
        return self.num_left_out > 0 and self.score is None

    def beats(self, start: float) -> bool:
        """Whether the best validation is better than the start's; every value is better than NaN.

        Args:
            start: the start's value of the monitor.
        """
        return self.score is not None and self.score > (-math.inf if math.isnan(start) else start)

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if trainer.state.fn != TrainerFn.FITTING or trainer.sanity_checking:
            return
        if searches_stale_index(pl_module):
            self.num_left_out += 1
            return
        value = float(trainer.callback_metrics[self.monitor])
        score = self.last = -math.inf if math.isnan(value) else value
        if trainer.strategy.reduce_boolean_decision(self.score is None or score > self.score):
            self.score, self.step = score, trainer.global_step
            trainer.save_checkpoint(self._path_of(self.step), weights_only=True)
            if trainer.is_global_zero:
                self._delete_others()

    def _path_of(self, step: int) -> Path:
        return self.folder / f"best-step={step}.ckpt"

    def _delete_others(self) -> None:
        keep = {self._path_of(step) for step in (self.step, *self._told) if step is not None}
        for path in self.folder.glob("best-step=*.ckpt"):
            if path not in keep:
                path.unlink(missing_ok=True)

    # ---- resuming ----

    def state_dict(self) -> dict[str, Any]:
        self._told = [*self._told[-1:], self.step]
        return {
            "score": self.score,
            "step": self.step,
            "last": self.last,
            "num_left_out": self.num_left_out,
            "told": self._told,
        }

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.score, self.step, self.last = (state_dict[name] for name in ("score", "step", "last"))
        self.num_left_out = state_dict["num_left_out"]
        self._told = list(state_dict["told"])
