"""Token scores -> passage scores -> distributions over the retrieved passages. Pure maths."""

import math

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from datamodules.choices import Choice


class PassageScore(Choice):
    """How the scores of a passage's tokens become the passage's score (Atlas `src/fid.py`)."""

    SUM = "sum"
    """Eq. 1; mildly favours long passages. Atlas divides it by a constant."""
    MEAN = "mean"
    """Divided by the passage's tokens, which is no correction for its length: attention hardly grows with a
    passage, so that its mean favours short ones, strongly where each passage has a prompt. Atlas's `avg`."""
    TOP5 = "top5"
    """Mean of the highest 5 token scores of each answer row; likewise 10 and 20."""
    TOP10 = "top10"
    TOP20 = "top20"
    FIRST = "first"
    """`mean` with the first answer row alone; favours short passages likewise."""

    @property
    def num_top(self) -> int | None:
        """How many tokens of a passage count; None = all."""
        return int(self.removeprefix("top")) if self.startswith("top") else None


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
        token_scores: s_t; for `first` those of the first answer row, for the `top` ones of any one row.
        passage_of_token: rank 0..K-1 of the passage that a token belongs to; -1 = none.
        question_of_prompt: which question a prompt belongs to.
        num_questions, num_passages: B and K.
        how: `sum` mildly favours long passages, `mean` and `first` favour short ones. A passage without
            tokens scores 0.
    """
    how = PassageScore(how)
    counted = passage_of_token >= 0
    if how.num_top is not None:
        counted = _highest(token_scores, passage_of_token, num_passages, how.num_top)
    slot = question_of_prompt[:, None] * num_passages + passage_of_token
    slots = slot[counted]
    sums = token_scores.new_zeros(num_questions * num_passages).index_add(0, slots, token_scores[counted])
    if how.num_top is not None:
        sums = sums / how.num_top
    elif how is not PassageScore.SUM:
        sums = sums / torch.bincount(slots, minlength=len(sums)).clamp(min=1)
    return sums.view(num_questions, num_passages)


def passage_scores_of_rows(
    row_scores: Float[Tensor, "prompts rows tokens"],
    row_mask: Bool[Tensor, "prompts rows"],
    passage_of_token: Int[Tensor, "prompts tokens"],
    question_of_prompt: Int[Tensor, " prompts"],
    num_questions: int,
    num_passages: int,
    how: PassageScore | str = PassageScore.SUM,
) -> Float[Tensor, "batch passages"]:
    """`passage_scores` of each answer row, averaged over the rows; the first one's alone for `first`.

    `sum` and `mean` could as well be taken of the rows' mean; the highest tokens differ from row to row.

    Args:
        row_scores: s_t of each answer row.
        row_mask: True = a row; the first column is.
        passage_of_token, question_of_prompt, num_questions, num_passages, how: as in `passage_scores`.
    """
    how = PassageScore(how)
    if how is PassageScore.FIRST:
        row_scores, row_mask = row_scores[:, :1], row_mask[:, :1]
    num_rows = row_scores.shape[1]
    weights = row_mask / row_mask.sum(dim=1, keepdim=True)
    rows = torch.arange(num_rows, device=question_of_prompt.device)
    by_row = passage_scores(
        (row_scores * weights[..., None]).flatten(0, 1),
        passage_of_token.repeat_interleave(num_rows, dim=0),
        (question_of_prompt[:, None] * num_rows + rows).flatten(),
        num_questions * num_rows,
        num_passages,
        how,
    )
    return by_row.view(num_questions, num_rows, num_passages).sum(dim=1)


def _highest(
    token_scores: Float[Tensor, "prompts tokens"],
    passage_of_token: Int[Tensor, "prompts tokens"],
    num_passages: int,
    num_top: int,
) -> Bool[Tensor, "prompts tokens"]:
    """The `num_top` tokens of each passage with the highest scores."""
    ranks = torch.arange(num_passages, device=passage_of_token.device)
    belongs = passage_of_token[:, None] == ranks[:, None]
    of_passage = token_scores[:, None].masked_fill(~belongs, -math.inf)
    top = of_passage.topk(min(num_top, token_scores.shape[1]), dim=-1).indices
    return (torch.zeros_like(belongs).scatter(-1, top, True) & belongs).any(dim=1)


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
