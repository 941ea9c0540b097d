"""All measures of the questions that are read, as one metric."""

from collections.abc import Sequence
from typing import Any

from jaxtyping import Float
from torch import Tensor

from lightning_modules.evaluation import ScoredQuestions
from lightning_modules.metrics.instance_values import InstanceValues
from lightning_modules.metrics.mean_and_std import mean_and_std
from lightning_modules.metrics.measures import Prominence, all_measures


class ReaderMeasures(InstanceValues):
    """All measures of the questions that are read, as one metric on the device.

    `compute` returns 0-dim float32 tensors: of each measure the mean over the questions that have a value
    and, as `NAME_std`, their sample standard deviation (ddof = 1); of a count the sum.

    Args:
        percentiles: of the indicators.
        kwargs: passed on to `torchmetrics.Metric`.
    """

    def __init__(self, percentiles: Sequence[int] = (90, 95), **kwargs: Any) -> None:
        self.measures = [measure for measure in all_measures(percentiles) if measure.of_read is not None]
        names = {measure.name.replace("/", "_"): measure.name for measure in self.measures}
        super().__init__(names, **kwargs)

    def update(self, scored: ScoredQuestions) -> None:
        """Adds a batch of questions."""
        for measure in self.measures:
            assert measure.of_read is not None
            getattr(self, measure.name.replace("/", "_")).append(measure.of_read(scored))

    def compute(self) -> dict[str, Float[Tensor, ""]]:
        """See above; NaN, and counts of 0, before the first update."""
        summary, values = {}, self.current_values()
        for measure in self.measures:
            of_questions = values[measure.name]
            if measure.prominence is Prominence.COUNT:
                summary[measure.name] = of_questions.sum()
            else:
                summary[measure.name], summary[f"{measure.name}_std"] = mean_and_std(of_questions)
        return summary

    def question_values(self) -> dict[str, Float[Tensor, " questions"]]:
        """Each question's value of each measure that is a mean; of all processes, as `values`."""
        means = {measure.name for measure in self.measures if measure.has_questions}
        return {name: values for name, values in self.values().items() if name in means}
