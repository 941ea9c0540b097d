"""From a reader's token scores to what the indicators look at: units of (question, retrieved passage)."""

from dataclasses import dataclass
from typing import Protocol, assert_never, runtime_checkable

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
from lightning_modules.readers.outputs import ReaderOutput, TargetTokens, TokenEmbeddings, TokenOutput


@runtime_checkable
class EmbedsTokens(Protocol):
    """What similarities are computed from: a `Reader`, of which nothing else is asked here."""

    @property
    def embedding_matrix(self) -> Float[Tensor, "vocabulary dim"]: ...

    def embed_answer(self, output: ReaderOutput) -> Float[Tensor, "prompts targets dim"]: ...


@dataclass(frozen=True)
class PassageUnits:
    """The arguments of `Indicator.update`, for both indicators, and where the units stand.

    Attributes:
        attention: normalised token scores s_t; 0 outside the unit's passage.
        answer_similarity: similarity of each token to the answer's tokens (Indicator 1).
        noun_similarity: to the question's nouns (Indicator 2); NaN where the question has none.
        mask: True = token of the unit's passage (title and text).
        question_of_unit: index of the question in the batch.
        rank_of_unit: 0..K-1, rank of the passage.
        prompt_of_unit: the prompt that shows the passage.
        prompt_total: sum of the token scores over the whole prompt; over all prompts of the question where
            one softmax runs over them; NaN where passages' tokens alone have a score.
    """

    attention: Float[Tensor, "units tokens"]
    answer_similarity: Float[Tensor, "units tokens"]
    noun_similarity: Float[Tensor, "units tokens"]
    mask: Bool[Tensor, "units tokens"]
    question_of_unit: Int[Tensor, " units"]
    rank_of_unit: Int[Tensor, " units"]
    prompt_of_unit: Int[Tensor, " units"]
    prompt_total: Float[Tensor, " units"]


def passage_units(
    output: TokenOutput,
    reader: EmbedsTokens,
    embeddings: TokenEmbeddings = TokenEmbeddings.INPUT,
    normalization: AttentionNormalization = AttentionNormalization.PASSAGE,
) -> PassageUnits:
    """Splits a pass into its B * K units (SPEC section 5).

    Args:
        output: of the reader.
        reader: whose embeddings the similarities are computed from.
        embeddings: which of them.
        normalization: of the attention.
    """
    prompts = output.prompts
    # one unit for each passage that a prompt shows
    ranks = torch.arange(prompts.num_passages, device=prompts.block_of_token.device)
    shown = (prompts.block_of_token[:, None] == ranks[:, None]) & prompts.content_mask[:, None]
    prompt_of_unit, rank_of_unit = shown.any(dim=-1).nonzero(as_tuple=True)
    mask = shown[prompt_of_unit, rank_of_unit]
    totals = output.token_scores.sum(dim=-1)
    if prompts.is_fused:  # the attention is shared out over all prompts of a question
        of_question = totals.view(prompts.num_questions, prompts.num_passages).sum(dim=1)
        totals = of_question.repeat_interleave(prompts.num_passages)
    attention = normalize_attention(
        output.token_scores[prompt_of_unit], mask, normalization, totals[prompt_of_unit]
    )
    answer_similarity, noun_similarity = _similarities(output, reader, embeddings)
    return PassageUnits(
        attention,
        answer_similarity[prompt_of_unit],
        noun_similarity[prompt_of_unit],
        mask,
        prompts.question_of_prompt[prompt_of_unit],
        rank_of_unit,
        prompt_of_unit,
        totals[prompt_of_unit],
    )


def _similarities(
    output: TokenOutput, reader: EmbedsTokens, embeddings: TokenEmbeddings
) -> tuple[Float[Tensor, "prompts tokens"], Float[Tensor, "prompts tokens"]]:
    """Of each token to the answer, and to the nouns; NaN where a prompt has no target."""
    ids, noun_mask = output.prompts.input_ids, output.prompts.noun_mask
    if not bool(noun_mask.any()):
        noun_mask = noun_mask[:, :0]
    places, genuine = padded_positions(noun_mask) if noun_mask.shape[1] else (noun_mask.long(), noun_mask)
    nouns = TargetTokens(ids.gather(1, places), genuine, genuine)
    match embeddings:
        case TokenEmbeddings.INPUT:
            matrix = reader.embedding_matrix
            of_answer, of_nouns = (
                vocabulary_similarity(matrix, ids, target.ids, target.mask)
                for target in (output.answer, nouns)
            )
        case TokenEmbeddings.CONTEXTUAL:
            hidden = output.last_hidden.float()
            answer_hidden = reader.embed_answer(output).float()
            of_answer = token_similarity(hidden, answer_hidden, output.answer.mask)
            noun_hidden = hidden.gather(1, places[..., None].expand(-1, -1, hidden.shape[-1]))
            of_nouns = token_similarity(hidden, noun_hidden, nouns.mask)
        case _:
            assert_never(embeddings)
    return of_answer, of_nouns
