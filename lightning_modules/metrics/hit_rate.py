"""Hit Rate@k: for how many questions is an answer in the first k passages?"""

from collections.abc import Sequence

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torchmetrics import Metric

from datamodules.answer_matching import has_answer
from datamodules.errors import DataError

__all__ = ["HitRate", "has_answer"]


class HitRate(Metric):
    """Share of questions whose first hit is among the best k passages, for several k, summed over ranks.

    Args:
        ks: the cut-offs, each at least 1.

    Raises:
        DataError: `ks` is empty or holds a number below 1.

    Example:
        >>> hit_rate = HitRate(ks=(1, 5))
        >>> hit_rate.update(torch.tensor([0, 3, 7, -1]))
        >>> hit_rate.compute()
        {'hr_at_1': tensor(0.2500), 'hr_at_5': tensor(0.5000)}
    """

    is_differentiable = False
    higher_is_better = True
    full_state_update = False

    num_hits: Tensor
    num_questions: Tensor

    def __init__(self, ks: Sequence[int] = (1, 5, 20)) -> None:
        super().__init__()
        if not ks or min(ks) < 1:
            raise DataError(f"the cut-offs of the hit rate are {list(ks)}; give at least one, each 1 or more")
        self.ks = tuple(ks)
        self.add_state("num_hits", torch.zeros(len(self.ks), dtype=torch.long), dist_reduce_fx="sum")
        self.add_state("num_questions", torch.tensor(0), dist_reduce_fx="sum")

    def update(self, ranks: Int[Tensor, " questions"]) -> None:
        """Adds questions by the rank of their first hit, from 0; -1 = none (`evaluation.first_hit_ranks`)."""
        cutoffs = torch.tensor(self.ks, device=ranks.device)
        hits = (ranks[:, None] >= 0) & (ranks[:, None] < cutoffs)
        self.num_hits += hits.sum(dim=0)
        self.num_questions += len(ranks)

    def compute(self) -> dict[str, Float[Tensor, ""]]:
        """`hr_at_<k>` for each k, 0..1; NaN where nothing was seen."""
        rates = self.num_hits / self.num_questions
        return {f"hr_at_{k}": rate for k, rate in zip(self.ks, rates, strict=True)}
