"""Teacher validity: does the retriever's target prefer passages with an answer?"""

from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor

if TYPE_CHECKING:
    from lightning_modules.metrics.teacher_auc_metric import TeacherAUC as TeacherAUC


def teacher_auc(
    p_attn: Float[Tensor, "batch passages"], has_answer: Bool[Tensor, "batch passages"]
) -> Float[Tensor, " batch"]:
    """Probability that a passage holding an answer gets more p_ATTN than one that does not.

    Ties count half, so a teacher that cannot tell the passages apart has 0.5.

    Args:
        p_attn: the teacher's distribution over the retrieved passages (Eq. 1), or any score.
        has_answer: True = the passage holds an answer.

    Returns:
        One value a question; NaN without a positive and a negative passage, or where p_ATTN is NaN.

    Example:
        >>> teacher_auc(torch.tensor([[0.5, 0.3, 0.2]]), torch.tensor([[False, True, False]]))
        tensor([0.5000])
    """
    higher = p_attn.unsqueeze(2) > p_attn.unsqueeze(1)
    equal = p_attn.unsqueeze(2) == p_attn.unsqueeze(1)
    pairs = has_answer.unsqueeze(2) & ~has_answer.unsqueeze(1)
    wins = (higher & pairs).sum(dim=(1, 2)) + 0.5 * (equal & pairs).sum(dim=(1, 2))
    return (wins / pairs.sum(dim=(1, 2))).masked_fill(p_attn.isnan().any(dim=-1), torch.nan)


def teacher_reciprocal_rank(
    p_attn: Float[Tensor, "batch passages"], has_answer: Bool[Tensor, "batch passages"]
) -> Float[Tensor, " batch"]:
    """1 / rank, by p_ATTN, of the best passage that holds an answer.

    Rank 1 is the highest p_ATTN; a passage without an answer that ties with the best one with an answer
    counts as half a place before it.

    Args:
        p_attn: as in `teacher_auc`.
        has_answer: True = the passage holds an answer.

    Returns:
        One value a question; NaN where `teacher_auc` is NaN.

    Example:
        >>> teacher_reciprocal_rank(torch.tensor([[0.5, 0.3, 0.2]]), torch.tensor([[False, True, False]]))
        tensor([0.5000])
    """
    best = p_attn.masked_fill(~has_answer, -torch.inf).amax(dim=-1, keepdim=True)
    num_before = ((p_attn > best) & ~has_answer).sum(dim=-1)
    num_tied = ((p_attn == best) & ~has_answer).sum(dim=-1)
    undefined = has_answer.all(dim=-1) | ~has_answer.any(dim=-1) | p_attn.isnan().any(dim=-1)
    return (1.0 / (1.0 + num_before + 0.5 * num_tied)).masked_fill(undefined, torch.nan)


def __getattr__(name: str) -> Any:
    """`TeacherAUC` once it is asked for: torchmetrics takes longer to import than a report to be written."""
    if name != "TeacherAUC":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from lightning_modules.metrics.teacher_auc_metric import TeacherAUC

    return TeacherAUC
