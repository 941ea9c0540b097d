"""Exact match and F1 of predicted answers."""

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor
from torchmetrics import Metric

from datamodules.answer_matching import exact_match, f1_score, normalize_answer
from datamodules.errors import DataError

__all__ = ["AnswerScores", "exact_match", "f1_score", "normalize_answer"]


class AnswerScores(Metric):
    """Mean exact match and F1 over all predictions seen, 0..1, summed over ranks.

    Example:
        >>> scores = AnswerScores()
        >>> scores.update(["the Paris", "Rome"], [["Paris"], ["Oslo"]])
        >>> scores.compute()
        {'em': tensor(0.5000), 'f1': tensor(0.5000)}
    """

    is_differentiable = False
    higher_is_better = True
    full_state_update = False

    em_sum: Tensor
    f1_sum: Tensor
    num_predictions: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.add_state("em_sum", torch.tensor(0.0), dist_reduce_fx="sum")
        self.add_state("f1_sum", torch.tensor(0.0), dist_reduce_fx="sum")
        self.add_state("num_predictions", torch.tensor(0), dist_reduce_fx="sum")

    def update(self, predictions: Sequence[str], answers: Sequence[Sequence[str]]) -> None:
        """Adds predictions and, for each, its acceptable answers.

        Raises:
            DataError: the lengths differ, or a prediction has no answers.
        """
        if len(predictions) != len(answers):
            raise DataError(
                f"{len(predictions)} predictions, {len(answers)} lists of answers; give one for each"
            )
        pairs = list(zip(predictions, answers, strict=True))
        self.em_sum += sum(exact_match(*pair) for pair in pairs)
        self.f1_sum += sum(f1_score(*pair) for pair in pairs)
        self.num_predictions += len(pairs)

    def compute(self) -> dict[str, Float[Tensor, ""]]:
        """Means `em` and `f1`; NaN where nothing was seen."""
        return {"em": self.em_sum / self.num_predictions, "f1": self.f1_sum / self.num_predictions}
