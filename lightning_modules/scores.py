"""Token scores -> passage scores -> distributions over the retrieved passages. Pure maths."""

import functools
import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import assert_never

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from datamodules.batches import NOTHING, PromptBatch, TokenScope
from datamodules.choices import Choice


class AttentionDistribution(Choice):
    """How passage scores become p_ATTN."""

    SOFTMAX = "softmax"
    SUM = "sum"


class Scale(Choice):
    """What is done to the scores of a question's passages before a temperature."""

    RAW = "raw"
    """Nothing (the paper)."""
    STANDARDISED = "standardised"
    """Mean 0 and standard deviation 1, so that a temperature means the same for every reader, K and score."""
    MINMAX = "minmax"
    """From 0 to 1 (QRRanker)."""


def scaled(scores: Float[Tensor, "batch passages"], how: Scale | str) -> Float[Tensor, "batch passages"]:
    """Passage scores, each question's by themselves; all 0 where a question's differ by rounding at most.

    A question with a score that is no finite number has NaN among its scaled ones, whatever the scale but
    `raw`: it must not look like one whose passages are alike.

    Example:
        >>> scaled(torch.tensor([[1.0, 3.0], [2.0, 2.0]]), "standardised")
        tensor([[-1.,  1.],
                [ 0.,  0.]])
    """
    how = Scale(how)
    match how:
        case Scale.RAW:
            return scores
        case Scale.STANDARDISED:
            shifted = scores - scores.mean(dim=-1, keepdim=True)
            spread = shifted.square().mean(dim=-1, keepdim=True).sqrt()
        case Scale.MINMAX:
            shifted = scores - scores.amin(dim=-1, keepdim=True)
            spread = shifted.amax(dim=-1, keepdim=True)
        case _:
            assert_never(how)
    rounding = 8 * torch.finfo(scores.dtype).eps * scores.abs().amax(dim=-1, keepdim=True)
    is_tied = (spread <= rounding) & spread.isfinite()  # neither of NaN nor of infinity
    return torch.where(is_tied, 0.0, shifted / spread)


def less_length(
    scores: Float[Tensor, "questions passages"], lengths: Float[Tensor, "questions passages"]
) -> Float[Tensor, "questions passages"]:
    """Standardised scores less what the logarithm of passage length explains of them.

    One slope for all questions, by least squares within questions: a teacher that goes by length alone has
    nothing left. A question with a score that is no finite number keeps it, and has no part in the slope.

    Args:
        scores: of each question's passages.
        lengths: of the passages, above 0.

    Example:
        >>> lengths = torch.tensor([[10.0, 100.0], [100.0, 10.0]])
        >>> less_length(lengths.log(), lengths).abs().max() < 1e-6
        tensor(True)
    """
    standard, log_lengths = (scaled(of, Scale.STANDARDISED) for of in (scores, lengths.log()))
    known = standard.isfinite().all(dim=-1, keepdim=True)
    explained = torch.where(known, standard * log_lengths, 0.0).sum()
    slope = explained / (log_lengths * known).square().sum().clamp(min=1e-12)
    return standard - slope * log_lengths


@dataclass(frozen=True)
class PassageTokens:
    """Which tokens of some prompts count for which retrieved passage.

    Attributes:
        passage_of_token: rank 0..K-1 of the passage that a token counts for; -1 = none.
        question_of_prompt: which question a prompt belongs to.
        num_questions, num_passages: B and K.
    """

    passage_of_token: Int[Tensor, "prompts tokens"]
    question_of_prompt: Int[Tensor, " prompts"]
    num_questions: int
    num_passages: int

    @classmethod
    def of(cls, prompts: PromptBatch, scope: TokenScope) -> "PassageTokens":
        """Those of a batch of prompts."""
        passage_of_token = prompts.passage_of_token(scope)
        return cls(passage_of_token, prompts.question_of_prompt, prompts.num_questions, prompts.num_passages)

    def sum(self, token_scores: Float[Tensor, "prompts tokens"]) -> Float[Tensor, "batch passages"]:
        """The sum of the scores of each passage's tokens; 0 for a passage without tokens."""
        counted = self.passage_of_token >= 0
        sums = sum_by_place(token_scores[counted], self._slots, self.num_questions * self.num_passages)
        return sums.view(self.num_questions, self.num_passages)

    def count(self) -> Int[Tensor, "batch passages"]:
        """How many tokens each passage has."""
        counts = torch.bincount(self._slots, minlength=self.num_questions * self.num_passages)
        return counts.view(self.num_questions, self.num_passages)

    @property
    def _slots(self) -> Int[Tensor, " counted"]:
        """Place in [batch, passages], flat, of each token that counts."""
        slot = self.question_of_prompt[:, None] * self.num_passages + self.passage_of_token
        return slot[self.passage_of_token >= 0]

    def highest(self, token_scores: Float[Tensor, "prompts tokens"], num: int) -> "PassageTokens":
        """Only the `num` tokens of each passage with the highest scores."""
        ranks = torch.arange(self.num_passages, device=self.passage_of_token.device)
        belongs = self.passage_of_token[:, None] == ranks[:, None]
        of_passage = token_scores[:, None].masked_fill(~belongs, -math.inf)
        top = of_passage.topk(min(num, token_scores.shape[1]), dim=-1).indices
        is_high = (torch.zeros_like(belongs).scatter(-1, top, True) & belongs).any(dim=1)
        return replace(self, passage_of_token=self.passage_of_token.masked_fill(~is_high, NOTHING))

    def repeated(self, times: int) -> "PassageTokens":
        """Each prompt `times` times, as so many prompts of so many questions: one for each row, or head."""
        places = torch.arange(times, device=self.question_of_prompt.device)
        return PassageTokens(
            self.passage_of_token.repeat_interleave(times, dim=0),
            (self.question_of_prompt[:, None] * times + places).flatten(),
            self.num_questions * times,
            self.num_passages,
        )


def sum_by_place(
    values: Float[Tensor, " values"], places: Int[Tensor, " values"], num_places: int
) -> Float[Tensor, " places"]:
    """The sum of the values that belong to each place, with the same rounding every time, on a GPU too.

    Args:
        values: in one dimension.
        places: 0..num_places - 1, of each value.
        num_places: how many there are.

    Example:
        >>> sum_by_place(torch.tensor([1.0, 2.0, 4.0]), torch.tensor([2, 0, 2]), 3)
        tensor([2., 0., 5.])
    """
    sums = values.new_zeros(num_places)
    if values.device.type == "cpu":
        return sums.index_add(0, places, values)
    # on a GPU index_add adds in the order of its threads, index_put in that of the places, which it sorts
    return sums.index_put((places,), values, accumulate=True)


PassageScore = Callable[
    [Float[Tensor, "prompts rows tokens"], Bool[Tensor, "prompts rows"], PassageTokens],
    Float[Tensor, "batch passages"],
]
"""Makes the score of each retrieved passage of the s_t of the answer's rows.

Its arguments are s_t by answer row; True = a row (the first column is); which tokens are whose.
"""


def sum_of_tokens(
    row_scores: Float[Tensor, "prompts rows tokens"],
    row_mask: Bool[Tensor, "prompts rows"],
    tokens: PassageTokens,
) -> Float[Tensor, "batch passages"]:
    """Eq. 1: the sum of s_t over the passage's tokens; mildly favours long passages."""
    return _mean_over_rows(row_scores, row_mask, tokens, lambda scores, rows: rows.sum(scores))


def mean_of_tokens(
    row_scores: Float[Tensor, "prompts rows tokens"],
    row_mask: Bool[Tensor, "prompts rows"],
    tokens: PassageTokens,
) -> Float[Tensor, "batch passages"]:
    """The sum divided by the number of the passage's tokens (Atlas's `avg`).

    No correction for length: attention hardly grows with a passage, so its mean strongly favours short ones.
    """
    return _mean_over_rows(
        row_scores, row_mask, tokens, lambda scores, rows: rows.sum(scores) / rows.count().clamp(min=1)
    )


def mean_of_first_row(
    row_scores: Float[Tensor, "prompts rows tokens"],
    row_mask: Bool[Tensor, "prompts rows"],
    tokens: PassageTokens,
) -> Float[Tensor, "batch passages"]:
    """`mean_of_tokens` with the first answer row alone; favours short passages likewise."""
    return mean_of_tokens(row_scores[:, :1], row_mask[:, :1], tokens)


def mean_of_highest(
    row_scores: Float[Tensor, "prompts rows tokens"],
    row_mask: Bool[Tensor, "prompts rows"],
    tokens: PassageTokens,
    num: int,
) -> Float[Tensor, "batch passages"]:
    """Mean of the `num` highest token scores of each answer row, which differ from row to row."""
    return _mean_over_rows(
        row_scores, row_mask, tokens, lambda scores, rows: rows.highest(scores, num).sum(scores) / num
    )


PASSAGE_SCORES: dict[str, PassageScore] = {
    "sum": sum_of_tokens,
    "mean": mean_of_tokens,
    "top5": functools.partial(mean_of_highest, num=5),
    "top10": functools.partial(mean_of_highest, num=10),
    "top20": functools.partial(mean_of_highest, num=20),
    "first": mean_of_first_row,
}
"""All ways from token scores to a passage's score, by name (Atlas `src/fid.py`)."""


def _mean_over_rows(
    row_scores: Float[Tensor, "prompts rows tokens"],
    row_mask: Bool[Tensor, "prompts rows"],
    tokens: PassageTokens,
    of_row: Callable[[Float[Tensor, "prompts tokens"], PassageTokens], Float[Tensor, "batch passages"]],
) -> Float[Tensor, "batch passages"]:
    """A score of each answer row, averaged over the rows."""
    num_rows = row_scores.shape[1]
    weights = row_mask / row_mask.sum(dim=1, keepdim=True)
    by_row = of_row((row_scores * weights[..., None]).flatten(0, 1), tokens.repeated(num_rows))
    return by_row.view(tokens.num_questions, num_rows, tokens.num_passages).sum(dim=1)


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
    how = AttentionDistribution(how)
    match how:
        case AttentionDistribution.SOFTMAX:
            return (scores / temperature).log_softmax(dim=-1)
        case AttentionDistribution.SUM:
            shares = scores / scores.sum(dim=-1, keepdim=True)
            return shares.clamp(min=torch.finfo(scores.dtype).tiny).log()
        case _:
            assert_never(how)


def log_p_retr(
    query_embeddings: Float[Tensor, "batch dim"],
    passage_embeddings: Float[Tensor, "batch passages dim"],
    temperature: float = 1.0,
    divide_by_sqrt_dim: bool = False,
    is_other: Bool[Tensor, "batch all passages"] | None = None,
    of_all: Float[Tensor, "all passages dim"] | None = None,
) -> Float[Tensor, "batch passages"]:
    """log p_RETR(n_i | Q) (Eq. 2): log-softmax over the retrieved passages of s(n_i, Q) / theta.

    Args:
        query_embeddings, passage_embeddings: mean-pooled embeddings; their dot product is s.
        temperature: theta.
        divide_by_sqrt_dim: Atlas's constant.
        is_other: for each question, which passages of all questions stand beside its own in the softmax;
            what they get is left out of the result. None = none.
        of_all: embeddings of the passages that `is_other` is about; None = `passage_embeddings`.
    """
    scale = math.sqrt(query_embeddings.shape[-1]) if divide_by_sqrt_dim else 1.0
    # no matrix product, which mixed precision would round
    scores = (query_embeddings[:, None] * passage_embeddings).sum(dim=-1) / scale / temperature
    if is_other is None:
        return scores.log_softmax(dim=-1)
    with torch.autocast(query_embeddings.device.type, enabled=False):
        passages = passage_embeddings if of_all is None else of_all
        all_scores = torch.einsum("qd,bkd->qbk", query_embeddings, passages)
    others = (all_scores / scale / temperature).masked_fill(~is_other, -math.inf).flatten(1)
    return scores - torch.cat([scores, others], dim=1).logsumexp(dim=1, keepdim=True)
