"""The checkpoint that a run goes on from after an interruption, as if there had been none."""

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from lightning import LightningModule, Trainer
from lightning.pytorch.callbacks import Checkpoint

from lightning_modules.processes import gather

log = logging.getLogger(__name__)

RANDOM_STATES = "random_states"
"""Key of a checkpoint: the state of each process's random numbers, by rank."""


class SaveLast(Checkpoint):
    """Replaces one checkpoint every so many optimizer steps.

    Lightning skips the validation that is due at the step of the checkpoint it goes on from, and with it an
    index refresh, the choice of the best checkpoint and a decision to stop. So the checkpoint of such a step
    is saved once the validation is over. The state of torch's random numbers, on which dropout depends, is
    part of it: that of each process, which draws its own.

    Args:
        path: of the checkpoint.
        every_n_steps: optimizer steps between two checkpoints.
        also_after: says which further steps end with one: those before which the index is encoded anew.
            A run that is killed meanwhile goes on with these very weights, and so with what is encoded; steps
            trained again give others in the last bit on a GPU.
    """

    def __init__(
        self, path: Path | str, every_n_steps: int, also_after: Callable[[int], bool] | None = None
    ) -> None:
        self.path = Path(path)
        self.every_n_steps = every_n_steps
        self.also_after = also_after
        self._waits_for_validation = False
        self._random_states: dict[str, Any] | None = None

    def on_train_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int
    ) -> None:
        if self._random_states is None:
            return
        torch.set_rng_state(self._random_states["cpu"])
        if self._random_states["gpu"] is not None and pl_module.device.type == "cuda":
            torch.cuda.set_rng_state(self._random_states["gpu"], pl_module.device)
        self._random_states = None

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        if not ends_step(trainer, batch_idx) or not self._is_due(trainer.global_step):
            return
        if validation_follows(trainer):
            self._waits_for_validation = True
        else:
            trainer.save_checkpoint(self.path)

    def _is_due(self, step: int) -> bool:
        return step % self.every_n_steps == 0 or (self.also_after is not None and self.also_after(step))

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if self._waits_for_validation:
            self._waits_for_validation = False
            trainer.save_checkpoint(self.path)

    # not `state_dict`: all processes come by here, but only the first one's state is saved
    def on_save_checkpoint(
        self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        on_gpu = pl_module.device.type == "cuda"
        gpu = torch.cuda.get_rng_state(pl_module.device) if on_gpu else None
        checkpoint[RANDOM_STATES] = gather(trainer, [{"cpu": torch.get_rng_state(), "gpu": gpu}])

    def on_load_checkpoint(
        self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        states = checkpoint.get(RANDOM_STATES, [])  # none where another callback saved it by itself
        if len(states) != trainer.world_size:
            log.warning(
                "the checkpoint holds random states of %d process(es), this run has %d: random numbers, on "
                "which dropout depends, are others than in an uninterrupted run",
                len(states),
                trainer.world_size,
            )
            return
        self._random_states = states[trainer.global_rank]


def ends_step(trainer: Trainer, batch_idx: int) -> bool:
    """Whether a training batch was the last of an optimizer step: nothing accumulated would be lost."""
    return (batch_idx + 1) % trainer.accumulate_grad_batches == 0 or trainer.is_last_batch


def validation_follows(trainer: Trainer) -> bool:
    """Whether a validation comes next, after the training batch in hand (`val_check_interval` in batches)."""
    every = trainer.val_check_batch
    return every is not None and (trainer.fit_loop.total_batch_idx + 1) % every == 0
