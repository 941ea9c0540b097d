"""Gives a module without a retrieval temperature one that fits its retriever, before anything is measured."""

import logging

from lightning import Callback, LightningModule, Trainer

from datamodules.qa_datamodule import QuestionDataModule
from lightning_modules.retriever_reader import RetrieverReaderModule
from lightning_modules.temperatures import USEFUL_SPREAD, fitting_temperature

log = logging.getLogger(__name__)


class FitTemperature(Callback):
    """Derives theta where the module's `retrieval_temperature` is None, see `fitting_temperature`.

    It must come after `RefreshIndex`: the passages that the start retrieves are what theta is made for. The
    first validation questions are looked at, the same in every run, and nothing but their text.

    Args:
        num_questions: how many.
    """

    def __init__(self, num_questions: int = 64) -> None:
        self.num_questions = num_questions

    def on_test_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._fit(trainer, pl_module)

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._fit(trainer, pl_module)

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._fit(trainer, pl_module)

    def _fit(self, trainer: Trainer, module: LightningModule) -> None:
        if not isinstance(module, RetrieverReaderModule) or module.retrieval_temperature is not None:
            return
        datamodule = getattr(trainer, "datamodule", None)
        if not isinstance(datamodule, QuestionDataModule):
            raise ValueError(
                "retrieval_temperature=None is derived from validation questions; give the trainer a "
                "QuestionDataModule, or a number"
            )
        found = fitting_temperature(module, datamodule.validation[: self.num_questions])
        module.retrieval_temperature = trainer.strategy.broadcast(found)
        if trainer.is_global_zero:
            log.warning(
                "retrieval temperature %g: with it the retriever's scores of a question's %d passages differ "
                "by %g at the start (standard deviation)",
                module.retrieval_temperature,
                module.num_passages,
                USEFUL_SPREAD,
            )
