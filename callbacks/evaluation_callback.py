"""Callbacks that look at what each batch of a validation or a test gave."""

from typing import Any

from lightning import Callback, LightningModule, Trainer

from lightning_modules.evaluation import Evaluation


class EvaluationCallback(Callback):
    """Is handed the `Evaluation` of each batch, which the modules' steps return."""

    def on_validated(self, trainer: Trainer, pl_module: LightningModule, evaluation: Evaluation) -> None:
        """After each batch of a validation."""

    def on_tested(self, trainer: Trainer, pl_module: LightningModule, evaluation: Evaluation) -> None:
        """After each batch of a test."""

    def on_validation_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, *batch: Any
    ) -> None:
        assert isinstance(outputs, Evaluation)
        self.on_validated(trainer, pl_module, outputs)

    def on_test_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, *batch: Any
    ) -> None:
        assert isinstance(outputs, Evaluation)
        self.on_tested(trainer, pl_module, outputs)
