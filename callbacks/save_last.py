"""The checkpoint that a run goes on from after an interruption, as if there had been none."""

from pathlib import Path
from typing import Any

import torch
from lightning import LightningModule, Trainer
from lightning.pytorch.callbacks import Checkpoint


class SaveLast(Checkpoint):
    """Replaces one checkpoint every so many optimizer steps.

    Lightning skips the validation that is due at the step of the checkpoint it goes on from, and with it an
    index refresh, the choice of the best checkpoint and a decision to stop. So the checkpoint of such a step
    is saved once the validation is over. The state of torch's random numbers, on which dropout depends, is
    part of it.

    Args:
        path: of the checkpoint.
        every_n_steps: optimizer steps between two checkpoints.
    """

    def __init__(self, path: Path | str, every_n_steps: int) -> None:
        self.path = Path(path)
        self.every_n_steps = every_n_steps
        self._waits_for_validation = False
        self._random_states: dict[str, Any] | None = None

    def on_train_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int
    ) -> None:
        if self._random_states is None:
            return
        torch.set_rng_state(self._random_states["cpu"])
        if torch.cuda.is_available() and len(self._random_states["gpus"]) == torch.cuda.device_count():
            torch.cuda.set_rng_state_all(self._random_states["gpus"])
        self._random_states = None

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        if not ends_step(trainer, batch_idx) or trainer.global_step % self.every_n_steps:
            return
        if validation_follows(trainer):
            self._waits_for_validation = True
        else:
            trainer.save_checkpoint(self.path)

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if self._waits_for_validation:
            self._waits_for_validation = False
            trainer.save_checkpoint(self.path)

    def state_dict(self) -> dict[str, Any]:
        gpus = torch.cuda.get_rng_state_all() if torch.cuda.is_available() else []
        return {"random_states": {"cpu": torch.get_rng_state(), "gpus": gpus}}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self._random_states = state_dict["random_states"]


def ends_step(trainer: Trainer, batch_idx: int) -> bool:
    """Whether a training batch was the last of an optimizer step: nothing accumulated would be lost."""
    return (batch_idx + 1) % trainer.accumulate_grad_batches == 0 or trainer.is_last_batch


def validation_follows(trainer: Trainer) -> bool:
    """Whether a validation comes next, after the training batch in hand (`val_check_interval` in batches)."""
    every = trainer.val_check_batch
    return every is not None and (trainer.fit_loop.total_batch_idx + 1) % every == 0
