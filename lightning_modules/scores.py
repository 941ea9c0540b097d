"""Token scores -> passage scores -> distributions over the retrieved passages. Pure maths."""

import math

import torch
from jaxtyping import Float, Int
from torch import Tensor

from datamodules.choices import Choice


class PassageScore(Choice):
    """How the scores of a passage's tokens become the passage's score."""

    SUM = "sum"
    MEAN = "mean"


class AttentionDistribution(Choice):
    """How passage scores become p_ATTN."""

    SOFTMAX = "softmax"
    SUM = "sum"


def passage_scores(
    token_scores: Float[Tensor, "prompts tokens"],
    passage_of_token: Int[Tensor, "prompts tokens"],
    question_of_prompt: Int[Tensor, " prompts"],
    num_questions: int,
    num_passages: int,
    how: PassageScore | str = PassageScore.SUM,
) -> Float[Tensor, "batch passages"]:
    """Score of each retrieved passage (Eq. 1): the sum, or the mean, of s_t over its tokens.

    Args:
        token_scores: s_t.
        passage_of_token: rank 0..K-1 of the passage that a token belongs to; -1 = none.
        question_of_prompt: which question a prompt belongs to.
        num_questions, num_passages: B and K.
        how: `sum` favours long passages; `mean` does not. A passage without tokens scores 0.
    """
    counted = passage_of_token >= 0
    slot = question_of_prompt[:, None] * num_passages + passage_of_token
    slots = slot[counted]
    sums = token_scores.new_zeros(num_questions * num_passages).index_add(0, slots, token_scores[counted])
    if PassageScore(how) is PassageScore.MEAN:
        sums = sums / torch.bincount(slots, minlength=len(sums)).clamp(min=1)
    return sums.view(num_questions, num_passages)


def log_p_attn(
    scores: Float[Tensor, "batch passages"],
    how: AttentionDistribution | str = AttentionDistribution.SOFTMAX,
    temperature: float = 1.0,
) -> Float[Tensor, "batch passages"]:
    """log p_ATTN(n_i | Q, A) (Eq. 1).

    Args:
        scores: passage scores.
        how: `softmax` of score / temperature (Atlas `src/atlas.py`, `gold_score` / `temperature_gold`);
            `sum`, Eq. 1 read literally: score / sum of scores.
        temperature: tau_gold, for `softmax`.
    """
    if AttentionDistribution(how) is AttentionDistribution.SOFTMAX:
        return (scores / temperature).log_softmax(dim=-1)
    return (scores / scores.sum(dim=-1, keepdim=True)).clamp(min=torch.finfo(scores.dtype).tiny).log()


def log_p_retr(
    query_embeddings: Float[Tensor, "batch dim"],
    passage_embeddings: Float[Tensor, "batch passages dim"],
    temperature: float = 1.0,
    divide_by_sqrt_dim: bool = False,
) -> Float[Tensor, "batch passages"]:
    """log p_RETR(n_i | Q) (Eq. 2): log-softmax over the retrieved passages of s(n_i, Q) / theta.

    Args:
        query_embeddings, passage_embeddings: mean-pooled embeddings; their dot product is s.
        temperature: theta.
        divide_by_sqrt_dim: Atlas's constant.
    """
    # no matrix product, which mixed precision would round
    scores = (query_embeddings[:, None] * passage_embeddings).sum(dim=-1)
    if divide_by_sqrt_dim:
        scores = scores / math.sqrt(query_embeddings.shape[-1])
    return (scores / temperature).log_softmax(dim=-1)
