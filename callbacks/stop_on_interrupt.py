"""Ctrl-C ends a run cleanly, with a checkpoint."""

import signal
import sys
import threading
from pathlib import Path
from typing import Any

from lightning import Callback, LightningModule, Trainer


class RunInterrupted(BaseException):
    """Ctrl-C (or SIGTERM); the work in hand was finished and, in training, a checkpoint was saved."""


class StopOnInterrupt(Callback):
    """Finishes the batch in hand after the first Ctrl-C or SIGTERM, saves, and raises `RunInterrupted`.

    A second Ctrl-C interrupts at once.

    Args:
        checkpoint: where a training run is saved.
    """

    def __init__(self, checkpoint: Path | str) -> None:
        self.checkpoint = Path(checkpoint)
        self._is_interrupted = False
        self._previous: dict[signal.Signals, Any] = {}

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        if threading.current_thread() is not threading.main_thread():
            return
        for number in (signal.SIGINT, signal.SIGTERM):
            self._previous[number] = signal.signal(number, self._note)

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        self._restore()

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        self._restore()

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        if self._decided(trainer):
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
            "\nfinishing the batch in hand, then saving; press Ctrl-C again to stop at once", file=sys.stderr
        )

    def _restore(self) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)
        self._previous.clear()
