"""Signs of a collapsed retriever: what its embeddings of a sample of passages look like."""

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

SAME_DIRECTION = 0.999
"""Embeddings with a higher cosine count as duplicates."""

_BY_CHANCE = 1e-3


@dataclass(frozen=True)
class EmbeddingHealth:
    """How varied the embeddings of different passages are.

    Attributes:
        effective_rank: see `effective_rank`.
        near_duplicates: see `near_duplicate_share`.
        unusable: share of embeddings that are all zeros, or hold NaN or infinity; the other two are of the
            rest.
    """

    effective_rank: float
    near_duplicates: float
    unusable: float


def embedding_health(embeddings: Float[Tensor, "passages dim"]) -> EmbeddingHealth:
    """Measures the embeddings of a sample of different passages.

    Example:
        >>> embedding_health(torch.tensor([[1.0, 0.0], [0.0, 1.0], [0.0, 0.0], [torch.nan, 0.0]]))
        EmbeddingHealth(effective_rank=2.0, near_duplicates=0.0, unusable=0.5)
    """
    embeddings = embeddings.float()
    is_usable = embeddings.isfinite().all(dim=1) & embeddings.any(dim=1)
    usable = embeddings[is_usable]
    return EmbeddingHealth(
        effective_rank(usable),
        near_duplicate_share(usable),
        1.0 - float(is_usable.float().mean()),
    )


def effective_rank(embeddings: Float[Tensor, "passages dim"]) -> float:
    r"""exp of the entropy of the normalised singular values (Roy and Vetterli, 2007).

    .. math:: \exp \Big( -\sum_i p_i \log p_i \Big), \quad p_i = \sigma_i / \sum_j \sigma_j

    Not centred, so that embeddings which all lie close to one point have a rank close to 1.

    Returns:
        From 1 (all embeddings in one direction) to the smaller of the two dimensions; 0 without embeddings.

    Example:
        >>> effective_rank(torch.eye(3)), effective_rank(torch.ones(5, 3))
        (3.0, 1.0)
    """
    if not len(embeddings):
        return 0.0
    # scaled, so that squares of huge or tiny values are within range
    singular = torch.linalg.svdvals((embeddings / embeddings.abs().max()).double())
    p = singular / singular.sum()
    return round(math.exp(float(torch.special.entr(p).sum())), 6)


def near_duplicate_share(
    embeddings: Float[Tensor, "passages dim"], same_direction: float = SAME_DIRECTION
) -> float:
    """Share of the embeddings that have a cosine above `same_direction` with that of another passage.

    Example:
        >>> near_duplicate_share(torch.tensor([[1.0, 0.0], [2.0, 0.0], [0.0, 1.0], [1.0, 1.0]]))
        0.5
    """
    if len(embeddings) < 2:
        return 0.0
    directions = F.normalize(embeddings / embeddings.abs().amax(dim=1, keepdim=True), dim=1)
    cosines = (directions @ directions.T).fill_diagonal_(-1.0)
    return float((cosines.amax(dim=1) > same_direction).float().mean())


def has_crashed(hits_before: int, hits_now: int, num_questions: int, drop: float) -> bool:
    """Whether Hit Rate fell by more than `drop` of what it was, and not by chance.

    Chance is excluded by Fisher's exact test at 1 in 1000, which holds for few questions too. It takes the
    two for independent; they are of the same questions, which makes chance differences smaller than it
    allows for.

    Args:
        hits_before, hits_now: questions with a hit.
        num_questions: of each.
        drop: relative, 0..1.

    Example:
        >>> has_crashed(70, 20, 100, drop=0.5), has_crashed(70, 40, 100, drop=0.5)
        (True, False)
        >>> has_crashed(4, 0, 4, drop=0.5)
        False
    """
    if hits_now >= (1 - drop) * hits_before:
        return False
    num_hits = hits_before + hits_now
    # hypergeometric: as few hits or fewer among half of the questions, had all hits been dealt at random
    p_value = sum(
        math.exp(
            _log_choose(num_questions, hits)
            + _log_choose(num_questions, num_hits - hits)
            - _log_choose(2 * num_questions, num_hits)
        )
        for hits in range(max(0, num_hits - num_questions), hits_now + 1)
    )
    return p_value < _BY_CHANCE


def _log_choose(n: int, k: int) -> float:
    return math.lgamma(n + 1) - math.lgamma(k + 1) - math.lgamma(n - k + 1)
