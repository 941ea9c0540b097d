"""From what a reader read to what the indicators look at: units of (question, retrieved passage)."""

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from lightning_modules.answer_attention import padded_positions
from lightning_modules.metrics.indicators import (
    AttentionNormalization,
    normalize_attention,
    token_similarity,
    vocabulary_similarity,
)
from lightning_modules.readers.reader import Reading, TargetTokens


@dataclass(frozen=True)
class ReadingUnits:
    """The arguments of `Indicator.update`, for both indicators, and where the units stand.

    Attributes:
        attention: normalised token scores s_t; 0 outside the unit's passage.
        answer_similarity: similarity of each token to the answer's tokens (Indicator 1).
        noun_similarity: to the question's nouns (Indicator 2); NaN where the question has none.
        mask: True = token of the unit's passage (title and text).
        question_of_unit: index of the question in the batch.
        rank_of_unit: 0..K-1, rank of the passage.
        prompt_of_unit: row of the reading that shows the passage.
        prompt_total: sum of the token scores over the whole prompt; over all prompts of the question where
            one softmax runs over them.
    """

    attention: Float[Tensor, "units tokens"]
    answer_similarity: Float[Tensor, "units tokens"]
    noun_similarity: Float[Tensor, "units tokens"]
    mask: Bool[Tensor, "units tokens"]
    question_of_unit: Int[Tensor, " units"]
    rank_of_unit: Int[Tensor, " units"]
    prompt_of_unit: Int[Tensor, " units"]
    prompt_total: Float[Tensor, " units"]


def reading_units(
    reading: Reading, normalization: AttentionNormalization = AttentionNormalization.PASSAGE
) -> ReadingUnits:
    """Splits a reading into its B * K units (SPEC section 5).

    Args:
        reading: read with `embeddings`.
        normalization: of the attention.
    """
    prompts = reading.prompts
    # one unit for each passage that a prompt shows
    ranks = torch.arange(prompts.num_passages, device=prompts.passage_of_token.device)
    shown = (prompts.passage_of_token[:, None] == ranks[:, None]) & prompts.content_mask[:, None]
    prompt_of_unit, rank_of_unit = shown.any(dim=-1).nonzero(as_tuple=True)
    mask = shown[prompt_of_unit, rank_of_unit]
    totals = reading.token_scores.sum(dim=-1)
    if reading.is_fused:  # the attention is shared out over all prompts of a question
        of_question = totals.view(prompts.num_questions, prompts.num_passages).sum(dim=1)
        totals = of_question.repeat_interleave(prompts.num_passages)
    attention = normalize_attention(
        reading.token_scores[prompt_of_unit], mask, normalization, totals[prompt_of_unit]
    )
    answer = reading.answer or _tokens_at(prompts.target_mask, reading)
    answer_similarity = _similarity_to(answer, reading)
    noun_similarity = _similarity_to(_tokens_at(prompts.noun_mask, reading), reading)
    return ReadingUnits(
        attention,
        answer_similarity[prompt_of_unit],
        noun_similarity[prompt_of_unit],
        mask,
        prompts.question_of_prompt[prompt_of_unit],
        rank_of_unit,
        prompt_of_unit,
        totals[prompt_of_unit],
    )


def _tokens_at(mask: Bool[Tensor, "prompts tokens"], reading: Reading) -> TargetTokens:
    """Tokens of the prompts as a target."""
    if not bool(mask.any()):
        return TargetTokens(reading.prompts.input_ids[:, :0], mask[:, :0])
    positions, genuine = padded_positions(mask)
    contextual = reading.token_embeddings
    if contextual is not None:
        contextual = contextual.gather(1, positions[..., None].expand(-1, -1, contextual.shape[-1]))
    return TargetTokens(reading.prompts.input_ids.gather(1, positions), genuine, contextual)


def _similarity_to(target: TargetTokens, reading: Reading) -> Float[Tensor, "prompts tokens"]:
    """NaN where a prompt has no target."""
    if target.mask.shape[1] == 0:
        return torch.full_like(reading.token_scores, torch.nan)
    if reading.vocabulary is not None:
        return vocabulary_similarity(reading.vocabulary, reading.prompts.input_ids, target.ids, target.mask)
    assert reading.token_embeddings is not None, "read with embeddings='input' or 'contextual'"
    assert target.embeddings is not None
    return token_similarity(reading.token_embeddings, target.embeddings, target.mask)
