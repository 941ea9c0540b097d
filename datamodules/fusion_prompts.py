"""Question + retrieved passages -> the prompts of a Fusion-in-Decoder reader, and answers -> its labels."""

from collections.abc import Sequence
from dataclasses import replace

import torch
from transformers import PreTrainedTokenizerBase

from datamodules.batches import AnswerBatch, Batch, PromptBatch, Question
from datamodules.prompts import (
    MAX_QUESTION_TOKENS,
    MAX_TITLE_TOKENS,
    Context,
    PromptBuilder,
    PromptText,
    Shown,
    noun_spans,
)


class FusionPromptBuilder(PromptBuilder):
    """Builds what the encoder and the decoder of a Fusion-in-Decoder reader see.

    One prompt a passage, in Atlas's template and ended by the end-of-sequence token::

        question: {question} title: {title} context: {text}

    The text is cut so that a prompt has at most `max_tokens_per_passage` tokens.

    Args:
        tokenizer: a fast tokenizer.
        max_tokens_per_passage, max_question_tokens, max_title_tokens, max_answer_tokens: longer ones are cut.

    Raises:
        ValueError: the tokenizer gives no offsets or has no end-of-sequence token.
    """

    ends_prompts = True
    is_fused = True

    def __init__(
        self,
        tokenizer: PreTrainedTokenizerBase,
        max_tokens_per_passage: int = 128,
        max_question_tokens: int = MAX_QUESTION_TOKENS,
        max_title_tokens: int = MAX_TITLE_TOKENS,
        max_answer_tokens: int = 32,
    ) -> None:
        super().__init__(
            tokenizer,
            context=Context.INDEPENDENT,
            max_tokens_per_passage=max_tokens_per_passage,
            max_question_tokens=max_question_tokens,
            max_title_tokens=max_title_tokens,
            max_answer_tokens=max_answer_tokens,
            padding_side="right",
        )

    def build(self, batch: Batch, shown: Shown = Shown.ALL) -> PromptBatch:
        """What the encoder sees, on the CPU; the batch's answers are the decoder's (`build_answers`)."""
        return super().build(replace(batch, answers=()), shown)

    def build_answers(self, answers: Sequence[str]) -> AnswerBatch:
        """What the decoder is to say, on the CPU: each answer and its end."""
        eos = self.tokenizer.eos_token_id
        texts = self._cut(list(answers), self.max_answer_tokens)
        rows = [[*ids, eos] for ids in self.tokenizer(texts, add_special_tokens=False)["input_ids"]]
        width = max(len(row) for row in rows)
        lengths = torch.tensor([len(row) for row in rows])[:, None]
        positions = torch.arange(width)
        ids = torch.tensor([row + [eos] * (width - len(row)) for row in rows])
        answer_mask = positions < lengths - 1
        return AnswerBatch(
            ids=ids,
            label_mask=positions < lengths,
            answer_mask=answer_mask,
            target_mask=self._without_blanks(ids, answer_mask),
        )

    def _write_closed_book(self, asked: str) -> PromptText:
        prompt = PromptText()
        prompt.add(f"question: {asked}")
        return prompt

    def _write(self, question: Question, asked: str, blocks: list[tuple[int, str, str]]) -> PromptText:
        [(k, title, text)] = blocks
        prompt = PromptText(passage_of_end=k)
        prompt.add("question:", k)
        prompt.add(f" {asked}", k, question=True, nouns=noun_spans(question))
        prompt.add(" title:", k)
        prompt.add(f" {title}", k, content=True)
        prompt.add(" context:", k)
        prompt.add(f" {text}", k, content=True)
        return prompt
