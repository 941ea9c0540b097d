"""The mean over questions of what is only known as means over batches."""

import torch
from jaxtyping import Float
from torch import Tensor
from torchmetrics import Metric


class QuestionMean(Metric):
    """Mean over all questions seen, summed over ranks.

    torchmetrics' `MeanMetric` drops its weights unless it also drops NaN, which a broken run must show.

    Example:
        >>> mean = QuestionMean()
        >>> mean.update(1.0, num_questions=3)
        >>> mean.update(torch.tensor(5.0), num_questions=1)
        >>> mean.compute()
        tensor(2.)
    """

    is_differentiable = False
    full_state_update = False

    total: Tensor
    num_questions: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.add_state("total", torch.tensor(0.0), dist_reduce_fx="sum")
        self.add_state("num_questions", torch.tensor(0), dist_reduce_fx="sum")

    def update(self, mean: float | Float[Tensor, ""], num_questions: int) -> None:
        """Adds a batch by its mean."""
        self.total += mean * num_questions
        self.num_questions += num_questions

    def compute(self) -> Float[Tensor, ""]:
        """The mean; NaN where nothing was seen."""
        return self.total / self.num_questions
