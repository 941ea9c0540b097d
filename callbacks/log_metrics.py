"""Logs metrics of one's own beside those of the suite."""

from collections.abc import Callable, Mapping

from jaxtyping import Float
from lightning import LightningModule, Trainer
from torch import Tensor

from callbacks.evaluation_callback import EvaluationCallback
from lightning_modules.evaluation import Evaluation
from lightning_modules.metrics.question_mean import QuestionMean

QuestionMetric = Callable[[Evaluation], Float[Tensor, " batch"]]
"""A value for each question of an evaluation's batch; NaN where it is undefined."""


class LogMetrics(EvaluationCallback):
    """Logs the means over all questions as `validation/NAME` and `test/NAME`; those of NaN are left out.

    Args:
        metrics: functions by name.
    """

    def __init__(self, metrics: Mapping[str, QuestionMetric]) -> None:
        self.metrics = dict(metrics)
        self._means = {name: QuestionMean() for name in self.metrics}

    def on_validation_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        for mean in self._means.values():
            mean.to(pl_module.device).reset()

    on_test_epoch_start = on_validation_epoch_start

    def on_validated(self, trainer: Trainer, pl_module: LightningModule, evaluation: Evaluation) -> None:
        for name, metric in self.metrics.items():
            values = metric(evaluation)
            if values.shape != (len(evaluation.questions),):
                raise ValueError(
                    f"metric {name!r} gave a tensor of shape {list(values.shape)} for "
                    f"{len(evaluation.questions)} questions; it must give one value for each"
                )
            known = values[~values.isnan()]
            if len(known):
                self._means[name].update(known.float().mean().to(pl_module.device), len(known))

    on_tested = on_validated

    def on_validation_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._log(pl_module, "validation")

    def on_test_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._log(pl_module, "test")

    def _log(self, module: LightningModule, when: str) -> None:
        for name, mean in self._means.items():
            module.log(f"{when}/{name}", mean.compute())
