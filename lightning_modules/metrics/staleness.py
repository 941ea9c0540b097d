"""How far an encoder has moved away from the index that was built with it.  Pure functions."""

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import functional as F

_TIE = 1e-5  # the same passage encoded in another batch scores this much differently, in relative terms


@dataclass(frozen=True)
class Staleness:
    """One measurement.

    Attributes:
        drift: mean over a sample of passages of 1 - cosine between old and fresh embedding, 0..2.
        drift_max: the largest.
        drift_l2: mean of |fresh - old| / |old|; unlike the cosine it sees embeddings that grow.
        overlap: mean over questions of `top_k_overlap`, 0..1.
    """

    drift: float
    drift_max: float
    drift_l2: float
    overlap: float


def cosine_drift(
    old: Float[Tensor, "passages dim"], fresh: Float[Tensor, "passages dim"]
) -> Float[Tensor, " passages"]:
    """1 - cosine between two embeddings of a passage, exactly 0 where they are equal.

    Example:
        >>> cosine_drift(torch.tensor([[1.0, 0.0], [1.0, 0.0]]), torch.tensor([[2.0, 0.0], [0.0, 1.0]]))
        tensor([0., 1.])
    """
    # |u - v|^2 / 2 of unit vectors; 1 - u.v would lose small drifts to rounding
    return (F.normalize(old, dim=-1) - F.normalize(fresh, dim=-1)).square().sum(dim=-1) / 2


def relative_l2_drift(
    old: Float[Tensor, "passages dim"], fresh: Float[Tensor, "passages dim"]
) -> Float[Tensor, " passages"]:
    """|fresh - old| / |old|.

    Example:
        >>> relative_l2_drift(torch.tensor([[1.0, 0.0]]), torch.tensor([[3.0, 0.0]]))
        tensor([2.])
    """
    return (fresh - old).norm(dim=-1) / old.norm(dim=-1)


def top_k_overlap(
    stale_rows: Int[Tensor, "questions k"],
    candidates: Int[Tensor, " candidates"],
    fresh_scores: Float[Tensor, "questions candidates"],
) -> Float[Tensor, " questions"]:
    """Share of the index's top K that fresh passage embeddings rank among the top K too.

    |top-K of the index ∩ top-K of the fresh scores| / K, where a passage that ties with the fresh K-th place
    counts as in. A passage that is no candidate cannot enter the fresh top K, so the overlap is, if
    anything, too high.

    Args:
        stale_rows: the K passages that the index finds for the fresh embedding of each question.
        candidates: the passages that were encoded anew, ascending; `stale_rows` are among them.
        fresh_scores: s(n, Q) of each question with each candidate, both fresh.

    Example:
        >>> rows, candidates = torch.tensor([[4, 7]]), torch.tensor([2, 4, 7])
        >>> top_k_overlap(rows, candidates, torch.tensor([[0.9, 0.8, 0.1]]))
        tensor([0.5000])
    """
    k = stale_rows.shape[1]
    places = torch.searchsorted(candidates, stale_rows)
    assert bool((candidates[places.clamp(max=len(candidates) - 1)] == stale_rows).all()), "all are candidates"
    last = fresh_scores.topk(k, dim=1).values[:, -1:]
    is_in = fresh_scores.gather(1, places) >= last - _TIE * last.abs()
    return is_in.float().mean(dim=1)
