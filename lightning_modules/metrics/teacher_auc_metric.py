"""Teacher validity over all questions, as a metric on the functions of `teacher_auc`."""

from typing import Any

from jaxtyping import Bool, Float
from torch import Tensor

from lightning_modules.metrics.instance_values import InstanceValues
from lightning_modules.metrics.mean_and_std import mean_and_std
from lightning_modules.metrics.teacher_auc import teacher_auc, teacher_reciprocal_rank


class TeacherAUC(InstanceValues):
    """Teacher validity over all questions that have a positive and a negative passage.

    `compute` returns 0-dim float32 tensors:

    - `teacher/auc`, `teacher/auc_std`: mean and sample standard deviation (ddof = 1) of `teacher_auc`;
    - `teacher/mrr`: mean of `teacher_reciprocal_rank`;
    - `teacher/num_questions`: number of questions that both are taken over;
    - `teacher/share_with_both`: their share of all questions seen.

    Args:
        kwargs: passed on to `torchmetrics.Metric`.

    Example:
        >>> import torch
        >>> metric = TeacherAUC()
        >>> metric.update(torch.tensor([[0.6, 0.4], [0.5, 0.5]]), torch.tensor([[True, False], [True, True]]))
        >>> metric.compute()["teacher/auc"], metric.compute()["teacher/share_with_both"]
        (tensor(1.), tensor(0.5000))
    """

    auc: list[Tensor]
    reciprocal_rank: list[Tensor]

    def __init__(self, **kwargs: Any) -> None:
        names = {"auc": "teacher/auc", "reciprocal_rank": "teacher/mrr"}
        super().__init__(names, **kwargs)

    def update(
        self, p_attn: Float[Tensor, "batch passages"], has_answer: Bool[Tensor, "batch passages"]
    ) -> None:
        """Adds a batch of questions; the arguments are those of `teacher_auc`."""
        self.auc.append(teacher_auc(p_attn, has_answer))
        self.reciprocal_rank.append(teacher_reciprocal_rank(p_attn, has_answer))

    def compute(self) -> dict[str, Float[Tensor, ""]]:
        """The metrics named above; NaN, and a count of 0, before the first update."""
        values = self.current_values()
        auc, auc_std = mean_and_std(values["teacher/auc"])
        mrr, _ = mean_and_std(values["teacher/mrr"])
        defined = ~values["teacher/auc"].isnan()
        return {
            "teacher/auc": auc,
            "teacher/auc_std": auc_std,
            "teacher/mrr": mrr,
            "teacher/num_questions": defined.sum().float(),
            "teacher/share_with_both": defined.float().mean(),
        }
