"""Ways of teaching from the same reader: what each would score the passages with, from few passes.

Before the GPU hours are spent one wants to know which objective, context and passage score is the best
teacher. Many of them are read off one pass.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from datamodules.batches import Passage, PromptBatch, Question
from datamodules.choices import Choice
from datamodules.fusion_prompts import FusionPromptBuilder
from datamodules.prompts import NOTHING, Context, PassageOrder, PromptBuilder, Shown, TokenScope
from lightning_modules.eval_mode import eval_mode
from lightning_modules.metrics.head_search import head_passage_scores
from lightning_modules.objectives import (
    AnswerLikelihoods,
    Objective,
    answer_log_likelihood,
    leave_one_out_marginals,
    leave_one_out_scores,
    log_p_posterior,
)
from lightning_modules.readers.decoder_only import DecoderOnlyReader
from lightning_modules.readers.fusion_in_decoder import FusionInDecoderReader
from lightning_modules.readers.reader import Reader, Reading
from lightning_modules.scores import PassageScore, passage_scores_of_rows


class Order(Choice):
    """In which order a reader of several passages saw them."""

    RANK = "rank"
    SHUFFLED = "shuffled"
    AVERAGED = "averaged"
    """Scores averaged over several orders."""


@dataclass(frozen=True)
class Variant:
    """A way of teaching.

    Attributes:
        objective: what of the reader is taught.
        context: of a decoder-only reader; None for Fusion-in-Decoder, which has but one.
        order: of the passages, where a prompt holds several.
        token_scope, passage_score: which tokens count, and how (ADist only).
        reader_temperature: of EMDR2.
    """

    objective: Objective
    context: Context | None = None
    order: Order = Order.RANK
    token_scope: TokenScope | None = None
    passage_score: PassageScore | None = None
    reader_temperature: float = 1.0

    @property
    def name(self) -> str:
        """Such as `adist concatenated shuffled sum`; a passage's own tokens alone count unless it says so."""
        order = self.order.value if self.order is not Order.RANK else None
        scope = "with template" if self.token_scope is TokenScope.PROMPT else None
        divided = f"logits/{self.reader_temperature:g}" if self.reader_temperature != 1.0 else None
        context = self.context and self.context.value
        parts = (self.objective.value, context, order, self.passage_score, scope, divided)
        return " ".join(str(part) for part in parts if part)

    @property
    def overrides(self) -> list[str] | None:
        """Settings under which an experiment teaches like this; None: it cannot (an average over orders)."""
        if self.order is Order.AVERAGED:
            return None
        settings = [f"objective.name={self.objective.value}"]
        if self.context is not None:
            settings.append(f"reader.context={self.context.value}")
            if self.context is Context.CONCATENATED:
                settings.append(f"reader.passage_order={self.order.value}")
        if self.passage_score is not None and self.token_scope is not None:
            settings.append(f"objective.passage_score={self.passage_score.value}")
            settings.append(f"reader.token_scope={self.token_scope.value}")
        if self.objective is Objective.EMDR2:
            settings.append(f"objective.reader_temperature={self.reader_temperature:g}")
        return settings


Scores = dict[Variant, Float[Tensor, "batch passages"]]
"""What each variant's target is a softmax of, before any temperature."""


def in_context(reader: Reader, context: Context, order: PassageOrder = PassageOrder.RANK) -> Reader:
    """The same model, shown the passages in another way; template words belong to their passage.

    Fusion-in-Decoder shows them in one way only.
    """
    old = reader.prompts
    if isinstance(reader, FusionInDecoderReader):
        fusion = FusionPromptBuilder(
            old.tokenizer,
            token_scope=TokenScope.PROMPT,
            max_tokens_per_passage=old.max_tokens_per_passage,
            max_question_tokens=old.max_question_tokens,
            max_title_tokens=old.max_title_tokens,
            max_answer_tokens=old.max_answer_tokens,
        )
        return FusionInDecoderReader(reader.model, fusion, reader.attention_heads)
    prompts = PromptBuilder(
        old.tokenizer,
        context=context,
        token_scope=TokenScope.PROMPT,
        passage_order=order,
        max_tokens_per_passage=old.max_tokens_per_passage,
        max_question_tokens=old.max_question_tokens,
        max_title_tokens=old.max_title_tokens,
        max_answer_tokens=old.max_answer_tokens,
        padding_side=old.padding_side,
    )
    return DecoderOnlyReader(reader.model, prompts, reader.attention_heads)


def context_of(reader: Reader) -> Context | None:
    """How a decoder-only reader sees the passages; None for another one."""
    return reader.prompts.context if isinstance(reader, DecoderOnlyReader) else None


def attention_scores(reading: Reading, context: Context | None, order: Order = Order.RANK) -> Scores:
    """ADist under every passage score, with the passages' own tokens and with the template's too.

    Args:
        reading: by a reader whose token scope is `prompt`, so that both scopes can be told.
        context, order: of the reading.
    """
    prompts = reading.prompts
    assert reading.row_scores is not None
    assert reading.row_mask is not None
    own = prompts.passage_of_token.masked_fill(~prompts.content_mask, NOTHING)
    scopes = {TokenScope.PASSAGE: own, TokenScope.PROMPT: prompts.passage_of_token}
    return {
        Variant(Objective.ADIST, context, order, scope, how): passage_scores_of_rows(
            reading.row_scores,
            reading.row_mask,
            passage_of_token,
            prompts.question_of_prompt,
            prompts.num_questions,
            prompts.num_passages,
            how,
        )
        for scope, passage_of_token in scopes.items()
        for how in PassageScore
    }


def head_scores_of_passages(reading: Reading) -> Float[Tensor, "batch layers heads passages"]:
    """What each head by itself would teach under the passage score `sum`, from the passages' own tokens.

    Args:
        reading: read `by_head`.
    """
    prompts = reading.prompts
    assert reading.head_scores is not None
    return head_passage_scores(
        reading.head_scores,
        prompts.passage_of_token.masked_fill(~prompts.content_mask, NOTHING),
        prompts.question_of_prompt,
        prompts.num_questions,
        prompts.num_passages,
    )


def likelihood_scores(
    likelihoods: AnswerLikelihoods, log_p_retr: Float[Tensor, "batch passages"], context: Context | None
) -> Scores:
    """PDist and EMDR2 from passages read alone, LOOP from passages left out (or all of them, see below).

    A reader in `independent` context never sees two passages at a time: there LOOP comes from passages read
    alone too (`leave_one_out_marginals`).

    Args:
        likelihoods: of the answer.
        log_p_retr: log p_RETR, the weights of passages read alone.
        context: of the reader.
    """
    log_probs, mask = likelihoods.log_probs, likelihoods.mask
    if likelihoods.leaves_out:
        return {Variant(Objective.LOOP, context): leave_one_out_scores(log_probs, mask)}
    scores = {
        Variant(Objective.PDIST, context): answer_log_likelihood(log_probs, mask),
        Variant(Objective.EMDR2, context): log_p_posterior(log_probs, mask, log_p_retr),
    }
    if context is Context.INDEPENDENT:
        marginals = leave_one_out_marginals(log_probs, log_p_retr)
        scores[Variant(Objective.LOOP, context)] = leave_one_out_scores(marginals, mask)
    return scores


@torch.no_grad()
def read_alone(
    reader: Reader,
    reading: Reading,
    questions: Sequence[Question],
    passages: Sequence[Sequence[Passage]],
    answers: Sequence[str],
) -> AnswerLikelihoods:
    """How likely the answer is given each passage alone, from the reading itself where it shows them so."""
    if context_of(reader) is Context.INDEPENDENT and reading.label_log_probs is not None:
        assert reading.label_mask is not None
        shape = (reading.prompts.num_questions, reading.prompts.num_passages, -1)
        return AnswerLikelihoods(
            reading.label_log_probs.view(shape), reading.label_mask.view(shape)[:, 0], leaves_out=False
        )
    with eval_mode(reader):
        return reader.answer_likelihoods(questions, passages, answers, Shown.EACH_ALONE)


@torch.no_grad()
def read_left_out(
    reader: Reader,
    questions: Sequence[Question],
    passages: Sequence[Sequence[Passage]],
    answers: Sequence[str],
) -> AnswerLikelihoods:
    """How likely the answer is given all passages but one, for each of them."""
    with eval_mode(reader):
        return reader.answer_likelihoods(questions, passages, answers, Shown.EACH_LEFT_OUT)


def averaged_over_orders(by_order: Sequence[Scores]) -> Scores:
    """The mean of each variant's scores over several orders of the passages."""
    first = by_order[0]
    return {
        replace(variant, order=Order.AVERAGED): torch.stack(
            [_in_any_order(scores, variant) for scores in by_order]
        ).mean(dim=0)
        for variant in first
    }


def _in_any_order(scores: Scores, variant: Variant) -> Tensor:
    return next(value for key, value in scores.items() if replace(key, order=variant.order) == variant)


def prompt_positions(prompts: PromptBatch) -> Int[Tensor, "batch passages"]:
    """Where in its prompt each passage stands, 0 = first; 0 for all where prompts hold one each."""
    ranks = torch.arange(prompts.num_passages, device=prompts.passage_of_token.device)
    is_of = prompts.passage_of_token[:, None] == ranks[:, None]
    first_token = torch.where(is_of.any(dim=-1), is_of.int().argmax(dim=-1), prompts.input_ids.shape[1])
    if len(prompts.question_of_prompt) > prompts.num_questions:
        return torch.zeros_like(first_token).view(prompts.num_questions, -1, prompts.num_passages)[:, 0]
    return first_token.argsort(dim=-1).argsort(dim=-1)


def passage_lengths(prompts: PromptBatch) -> Int[Tensor, "batch passages"]:
    """Tokens of each passage that the reader was shown (title and text)."""
    counted = (prompts.passage_of_token >= 0) & prompts.content_mask
    slots = prompts.question_of_prompt[:, None] * prompts.num_passages + prompts.passage_of_token
    lengths = torch.bincount(slots[counted], minlength=prompts.num_questions * prompts.num_passages)
    return lengths.view(prompts.num_questions, prompts.num_passages)


@dataclass(frozen=True)
class AttentionShares:
    """Where in the prompt the answer's attention goes, the mean over questions; the shares sum to 1.

    Attributes:
        passages: titles and texts.
        first_token: the first token of the prompt, where attention that is meant for nothing often goes.
        rest: template words, the question, the answer's beginning.
    """

    passages: Float[Tensor, " batch"]
    first_token: Float[Tensor, " batch"]
    rest: Float[Tensor, " batch"]


def attention_shares(reading: Reading) -> AttentionShares:
    """Shares of a question's token scores, over all its prompts."""
    prompts, scores = reading.prompts, reading.token_scores
    is_first = _first_tokens(prompts.attention_mask)
    in_passages = prompts.content_mask & ~is_first
    parts: list[Any] = [
        torch.zeros(prompts.num_questions, device=scores.device).index_add(
            0, prompts.question_of_prompt, (scores * mask).sum(dim=-1)
        )
        for mask in (in_passages, is_first, ~in_passages & ~is_first)
    ]
    total = torch.stack(parts).sum(dim=0)
    return AttentionShares(*(part / total for part in parts))


def _first_tokens(mask: Bool[Tensor, "prompts tokens"]) -> Bool[Tensor, "prompts tokens"]:
    """The first real token of each prompt, whichever side is padded."""
    return mask & (mask.cumsum(dim=1) == 1)
