"""Indicators 1 and 2: does the reader attend to the passage tokens that matter?

A *unit* is a (question, retrieved passage) pair, an *instance* a question with its K units. The target of
Indicator 1 is the answer, of Indicator 2 the nouns of the question; the computation is the same.
"""

from typing import TYPE_CHECKING, Any, NamedTuple, assert_never

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn import functional as F

from datamodules.choices import Choice

if TYPE_CHECKING:
    from lightning_modules.metrics.indicator_metric import Indicator as Indicator


class AttentionNormalization(Choice):
    """What a unit's token scores are divided by before the indicators look at them."""

    PASSAGE = "passage"
    """By their sum: attention sums to 1 over the passage."""
    PROMPT = "prompt"
    """By the scores of the whole prompt: attention sums to the passage's share of the prompt."""
    NONE = "none"
    """By nothing."""


def normalize_attention(
    token_scores: Float[Tensor, "units tokens"],
    mask: Bool[Tensor, "units tokens"],
    how: AttentionNormalization,
    prompt_total: Float[Tensor, " units"] | None = None,
) -> Float[Tensor, "units tokens"]:
    """Token scores s_t as attention, 0 outside `mask`.

    Args:
        token_scores: non-negative scores of the prompt's tokens.
        mask: True = token of the unit's passage.
        how: the denominator.
        prompt_total: sum of the scores over the unit's whole prompt, for `PROMPT` only.

    Returns:
        Attention in float32; NaN over the whole unit where the denominator is 0.

    Raises:
        ValueError: `PROMPT` without `prompt_total`.

    Example:
        >>> scores, mask = torch.tensor([[1.0, 3.0, 9.0]]), torch.tensor([[True, True, False]])
        >>> normalize_attention(scores, mask, AttentionNormalization.PASSAGE)
        tensor([[0.2500, 0.7500, 0.0000]])
    """
    scores = token_scores.float().masked_fill(~mask, 0.0)
    match how:
        case AttentionNormalization.NONE:
            return scores
        case AttentionNormalization.PASSAGE:
            total = scores.sum(dim=-1)
        case AttentionNormalization.PROMPT:
            if prompt_total is None:
                raise ValueError(
                    "attention normalised over the prompt needs `prompt_total`, the prompt's sum of scores"
                )
            total = prompt_total.float()
        case _:
            assert_never(how)
    return (scores / total.unsqueeze(-1)).masked_fill(~mask, 0.0)


def token_similarity(
    token_embeddings: Float[Tensor, "units tokens dim"],
    target_embeddings: Float[Tensor, "units targets dim"],
    target_mask: Bool[Tensor, "units targets"],
) -> Float[Tensor, "units tokens"]:
    """Similarity of each passage token to the target: the highest cosine with one of the target's tokens.

    Args:
        token_embeddings: embeddings of the passage's tokens.
        target_embeddings: embeddings of the target's tokens.
        target_mask: True = real target token.

    Returns:
        Similarity in [-1, 1], float32; 0 for a zero embedding, NaN for a unit without a target.
    """
    cosine = _directions(token_embeddings) @ _directions(target_embeddings).transpose(1, 2)
    return _best_over_targets(cosine.float(), target_mask)


def vocabulary_similarity(
    embedding: Float[Tensor, "vocabulary dim"],
    token_ids: Int[Tensor, "units tokens"],
    target_ids: Int[Tensor, "units targets"],
    target_mask: Bool[Tensor, "units targets"],
) -> Float[Tensor, "units tokens"]:
    """`token_similarity` of context-free embeddings, compared once for each pair of distinct tokens.

    Equal tokens so get equal similarities to the last bit, wherever a batched product would have put
    them; their ties decide ranks in `indicator_units`.

    Args:
        embedding: the reader's input embedding matrix.
        token_ids: passage tokens; padding may be any valid id.
        target_ids: target tokens; padding may be any number.
        target_mask: True = real target token.

    Returns:
        As `token_similarity`.

    Example:
        >>> similarity = vocabulary_similarity(
        ...     torch.tensor([[1.0, 0.0], [0.0, 1.0], [3.0, 4.0]]),
        ...     token_ids=torch.tensor([[0, 1, 2]]),
        ...     target_ids=torch.tensor([[2, -100]]),
        ...     target_mask=torch.tensor([[True, False]]),
        ... )
        >>> similarity
        tensor([[0.6000, 0.8000, 1.0000]])
    """
    tokens, token_index = token_ids.unique(return_inverse=True)
    targets, target_index = target_ids.masked_fill(~target_mask, 0).unique(return_inverse=True)
    cosine = (_directions(embedding[tokens]) @ _directions(embedding[targets]).T).float()
    return _best_over_targets(cosine[token_index.unsqueeze(2), target_index.unsqueeze(1)], target_mask)


def _directions(vectors: Float[Tensor, "... dim"]) -> Float[Tensor, "... dim"]:
    # float64 products are touched neither by autocast nor by TF32; Apple's GPUs have none
    dtype = torch.float32 if vectors.device.type == "mps" else torch.float64
    return F.normalize(vectors.to(dtype), dim=-1)


def _best_over_targets(
    cosine: Float[Tensor, "units tokens targets"], target_mask: Bool[Tensor, "units targets"]
) -> Float[Tensor, "units tokens"]:
    if target_mask.shape[-1] == 0:
        return cosine.new_full(cosine.shape[:2], torch.nan)
    best = cosine.masked_fill(~target_mask.unsqueeze(1), -torch.inf).amax(dim=-1).clamp(-1.0, 1.0)
    return best.masked_fill(~target_mask.any(dim=-1, keepdim=True), torch.nan)


def percentile_mask(
    values: Float[Tensor, "units tokens"], mask: Bool[Tensor, "units tokens"], percentile: int | float
) -> Bool[Tensor, "units tokens"]:
    """M_p: the tokens at or above the p-th percentile of their unit's values.

    The percentile is `numpy.percentile`'s (linear interpolation). No value lies strictly between the two
    that it interpolates, so the tokens at or above it are those at or above the upper one: only the rank
    of that one is computed, in integers, and rounding cannot lose the tokens at the percentile itself.

    Args:
        values: one value a token, finite where `mask` is True.
        mask: True = token counts.
        percentile: 0..100, taken to six decimals.

    Example:
        >>> values = torch.tensor([[1.0, 2.0, 3.0, 4.0, 5.0]])
        >>> percentile_mask(values, torch.ones(1, 5, dtype=torch.bool), 75)
        tensor([[False, False, False,  True,  True]])
    """
    last = mask.sum(dim=-1, keepdim=True) - 1
    upper = -(-last * round(percentile * 10**6) // 10**8)
    ordered = values.masked_fill(~mask, torch.inf).sort(dim=-1).values
    return mask & (values >= ordered.gather(-1, upper.clamp(min=0)))


def masked_spearman(
    first: Float[Tensor, "units tokens"],
    second: Float[Tensor, "units tokens"],
    mask: Bool[Tensor, "units tokens"],
) -> Float[Tensor, " units"]:
    """Spearman's rank correlation of two rows over the tokens of `mask`, average ranks for ties.

    Args:
        first: one value a token, finite where `mask` is True.
        second: likewise.
        mask: True = token counts.

    Returns:
        Correlation in [-1, 1]; NaN for fewer than two tokens, or where either row is constant.

    Example:
        >>> first, second = torch.tensor([[1.0, 2.0, 2.0, 9.0]]), torch.tensor([[0.1, 0.2, 0.3, 0.4]])
        >>> masked_spearman(first, second, torch.ones(1, 4, dtype=torch.bool))
        tensor([0.9487])
    """
    # M_p is a tenth of a passage or less: nothing else is put in order
    width = max(1, int(mask.sum(dim=-1).max())) if len(mask) else 1
    places = mask.logical_not().to(torch.int8).argsort(dim=-1, stable=True)[:, :width]
    first, second, mask = (of_all.gather(-1, places) for of_all in (first, second, mask))
    ranks, other_ranks = _centred_ranks(first, mask), _centred_ranks(second, mask)
    spread = ranks.square().sum(dim=-1).float().sqrt() * other_ranks.square().sum(dim=-1).float().sqrt()
    # a constant row has no spread, and 0 / 0 is the NaN that it should be
    return ((ranks * other_ranks).sum(dim=-1) / spread).clamp(-1.0, 1.0)


def _centred_ranks(
    values: Float[Tensor, "units tokens"], mask: Bool[Tensor, "units tokens"]
) -> Int[Tensor, "units tokens"]:
    """Twice (average rank - mean rank), which is a whole number; 0 outside `mask`."""
    filled = values.masked_fill(~mask, torch.inf)
    ordered = filled.sort(dim=-1).values
    num_below = torch.searchsorted(ordered, filled, right=False)
    num_not_above = torch.searchsorted(ordered, filled, right=True)
    # average rank = (num_below + 1 + num_not_above) / 2, mean rank = (n + 1) / 2
    return (num_below + num_not_above - mask.sum(dim=-1, keepdim=True)).masked_fill(~mask, 0)


class IndicatorUnits(NamedTuple):
    """What an indicator reads of each unit, under the names of its parts.

    Attributes:
        attention: mean attention over M_p.
        spearman: Spearman's correlation between attention and similarity over M_p.
        lift: mean attention over M_p / mean attention over the passage.
    """

    attention: Float[Tensor, " units"]
    spearman: Float[Tensor, " units"]
    lift: Float[Tensor, " units"]


def indicator_units(
    attention: Float[Tensor, "units tokens"],
    similarity: Float[Tensor, "units tokens"],
    mask: Bool[Tensor, "units tokens"],
    percentile: int | float,
) -> IndicatorUnits:
    """The parts of an indicator for each unit, over M_p, its tokens most similar to the target.

    Equal to SciPy (`numpy.percentile`, `scipy.stats.spearmanr`) within 1e-5. Attention that sums to 1 over a
    passage is 1 / (number of tokens) on average, so its mean over M_p says first of all how long the passage
    is; lift does not: it is the same however attention is normalised, and 1 where attention is even.

    Args:
        attention: attention to each token (`normalize_attention`).
        similarity: similarity of each token to the target (`token_similarity`).
        mask: True = token of the unit's passage.
        percentile: p, 0..100.

    Returns:
        Mean attention, correlation and lift. All are NaN where the passage is empty or where a token of it
        has no finite attention or similarity (as where there is no target); the correlation also where
        `masked_spearman` says so, and lift where the passage gets no attention at all.

    Example:
        >>> attention, similarity = torch.tensor([[0.1, 0.5, 0.2, 0.2]]), torch.tensor([[0.0, 0.9, 0.3, 0.1]])
        >>> indicator_units(attention, similarity, torch.ones(1, 4, dtype=torch.bool), 90).lift
        tensor([2.])
    """
    defined = ((attention.isfinite() & similarity.isfinite()) | ~mask).all(dim=-1, keepdim=True)
    attention, similarity = attention.float(), similarity.float()
    selected = percentile_mask(similarity, mask & defined, percentile)
    mean_attention, mean_of_passage = _masked_mean(attention, selected), _masked_mean(attention, mask)
    return IndicatorUnits(
        attention=mean_attention,
        spearman=masked_spearman(attention, similarity, selected),
        lift=mean_attention / mean_of_passage,
    )


def _masked_mean(
    values: Float[Tensor, "units tokens"], mask: Bool[Tensor, "units tokens"]
) -> Float[Tensor, " units"]:
    return values.masked_fill(~mask, 0.0).sum(dim=-1) / mask.sum(dim=-1)


def instance_means(
    unit_values: Float[Tensor, " units"], instance_of_unit: Int[Tensor, " units"], num_instances: int
) -> tuple[Float[Tensor, " instances"], Int[Tensor, ""]]:
    """Mean over each instance's defined units.

    Args:
        unit_values: one value a unit, NaN where undefined.
        instance_of_unit: 0..num_instances - 1, the instance that each unit belongs to.
        num_instances: number of instances.

    Returns:
        The means, NaN for an instance without a defined unit, and the number of undefined units.

    Example:
        >>> instance_means(torch.tensor([1.0, 3.0, float("nan")]), torch.tensor([0, 0, 1]), 2)
        (tensor([2., nan]), tensor(1))
    """
    undefined = unit_values.isnan()
    # neither index_add (order of summation) nor a matrix product (TF32) is reproducible on a GPU
    instances = torch.arange(num_instances, device=unit_values.device).unsqueeze(1)
    member = (instance_of_unit == instances) & ~undefined
    sums = torch.where(member, unit_values, 0.0).sum(dim=-1)
    return sums / member.sum(dim=-1), undefined.sum()


def __getattr__(name: str) -> Any:
    """`Indicator` once it is asked for: torchmetrics takes longer to import than a report to be written."""
    if name != "Indicator":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from lightning_modules.metrics.indicator_metric import Indicator

    return Indicator
