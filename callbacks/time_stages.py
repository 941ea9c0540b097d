"""How long the steps and the evaluations of a run take, without what is done before them."""

from typing import Any

from lightning import Callback, LightningModule, Trainer

from lightning_modules.answering import AnsweringModule
from lightning_modules.part_timer import Mark

STEPS, VALIDATION, TESTING = "steps", "validation", "testing"


class TimeStages(Callback):
    """Adds `steps`, `validation` and `testing` to the seconds of the module's timer.

    A training step counts with its update, an evaluation from its first question on. What other callbacks do
    before, such as refreshing the index, are parts of their own, and checkpoints are none. It must come after
    all others that do anything, and before those that save checkpoints.
    """

    def __init__(self) -> None:
        self._started: Mark | None = None

    def on_train_batch_start(self, *_: Any) -> None:
        self._started = Mark.now()

    def on_validation_epoch_start(self, *_: Any) -> None:
        self._started = Mark.now()

    def on_test_epoch_start(self, *_: Any) -> None:
        self._started = Mark.now()

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *_: Any) -> None:
        self._add(pl_module, STEPS)

    def on_validation_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._add(pl_module, VALIDATION)

    def on_test_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._add(pl_module, TESTING)

    def _add(self, module: LightningModule, stage: str) -> None:
        assert isinstance(module, AnsweringModule)
        assert self._started is not None, "a stage has begun before it ends"
        module.timer.add(stage, self._started)
