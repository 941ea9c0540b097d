"""Ctrl-C ends a run cleanly, with a checkpoint."""

import signal
import sys
import threading
from pathlib import Path
from typing import Any

from lightning import Callback, LightningModule, Trainer
from lightning.pytorch.trainer.states import TrainerFn

from callbacks.save_last import ends_step, validation_follows


class RunInterrupted(BaseException):
    """Ctrl-C (or SIGTERM); the work in hand was finished and, between validations, a checkpoint was saved."""


class StopOnInterrupt(Callback):
    """Finishes the batch in hand after the first Ctrl-C or SIGTERM, saves, and raises `RunInterrupted`.

    Where gradients are accumulated it is the optimizer step that is finished. In a validation nothing is
    saved: the run goes on from the last regular checkpoint. A second Ctrl-C interrupts at once.

    Args:
        checkpoint: where a training run is saved.
    """

    def __init__(self, checkpoint: Path | str) -> None:
        self.checkpoint = Path(checkpoint)
        self._is_interrupted = False
        self._previous: dict[signal.Signals, Any] = {}

    # Installed in `setup` they would be Lightning's "original" handlers, which it puts back at the very end.
    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._install()

    on_validation_start = on_test_start = on_train_start

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._restore()

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if trainer.state.fn != TrainerFn.FITTING:
            self._restore()

    on_test_end = on_train_end

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        self._restore()

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        # a step is finished first; one that a validation follows cannot be gone on from (see `SaveLast`)
        if self._decided(trainer) and ends_step(trainer, batch_idx) and not validation_follows(trainer):
            trainer.save_checkpoint(self.checkpoint)
            raise RunInterrupted

    def on_validation_batch_end(self, trainer: Trainer, pl_module: LightningModule, *args: Any) -> None:
        if self._decided(trainer):
            raise RunInterrupted

    def on_test_batch_end(self, trainer: Trainer, pl_module: LightningModule, *args: Any) -> None:
        self.on_validation_batch_end(trainer, pl_module)

    def _decided(self, trainer: Trainer) -> bool:
        """Whether any process was interrupted."""
        return trainer.strategy.reduce_boolean_decision(self._is_interrupted, all=False)

    def _note(self, number: int, frame: Any) -> None:
        if self._is_interrupted:
            raise KeyboardInterrupt
        self._is_interrupted = True
        print(
            "\nfinishing the step in hand, then stopping; press Ctrl-C again to stop at once", file=sys.stderr
        )

    def _install(self) -> None:
        if self._previous or threading.current_thread() is not threading.main_thread():
            return
        for number in (signal.SIGINT, signal.SIGTERM):
            self._previous[number] = signal.signal(number, self._note)

    def _restore(self) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)
        self._previous.clear()
