"""Question + retrieved passages -> the prompts of a Fusion-in-Decoder reader, and answers -> its labels."""

from collections.abc import Sequence
from dataclasses import replace

import torch
from transformers import PreTrainedTokenizerBase

from datamodules.batches import AnswerBatch, Batch, PromptBatch, Question
from datamodules.prompt_forms import PromptForms, prompt_forms
from datamodules.prompts import (
    MAX_QUESTION_TOKENS,
    MAX_TITLE_TOKENS,
    Context,
    PromptBuilder,
    PromptText,
    Shown,
)
from datamodules.templates import PLAIN, Form, Template, find_template

_ATLAS = "question: {question} title: {title} context: {text} {answer}"
ATLAS = Template(together=_ATLAS, alone=_ATLAS, name="plain")
"""Atlas's own, which `plain` means here; the decoder says the answer."""


class FusionPromptBuilder(PromptBuilder):
    """Builds what the encoder and the decoder of a Fusion-in-Decoder reader see.

    One prompt a passage, in Atlas's template and ended by the end-of-sequence token::

        question: {question} title: {title} context: {text}

    The text is cut so that a prompt has at most `max_tokens_per_passage` tokens. Of another template the
    encoder sees what stands before the answer.

    Args:
        tokenizer: a fast tokenizer.
        max_tokens_per_passage, max_question_tokens, max_title_tokens, max_answer_tokens: longer ones are cut.
        template: how prompts are written; `plain` is Atlas's.

    Raises:
        ValueError: the tokenizer gives no offsets or has no end-of-sequence token; a template that is a chat.
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
        template: Template | str = ATLAS,
    ) -> None:
        template = template if isinstance(template, Template) else find_template(template)
        super().__init__(
            tokenizer,
            context=Context.INDEPENDENT,
            max_tokens_per_passage=max_tokens_per_passage,
            max_question_tokens=max_question_tokens,
            max_title_tokens=max_title_tokens,
            max_answer_tokens=max_answer_tokens,
            padding_side="right",
            template=ATLAS if replace(template, num_examples=0) == PLAIN else template,
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
            target_mask=self._blanks.left_out(ids, answer_mask),
        )

    def _make_forms(self) -> PromptForms:
        if self.template.is_chat:
            raise ValueError(
                f"template={self.template.name} is a chat, and a Fusion-in-Decoder reader encodes each "
                "passage by itself; set template=plain, or a file without roles"
            )
        return prompt_forms(self._template_text, self.tokenizer, name=self.template.name)

    def _make_closed_book_forms(self) -> PromptForms:
        return self.forms  # the question stands alone, whatever the template

    def _write_closed_book(self, form: Form, question: Question, asked: str) -> PromptText:
        prompt = PromptText()
        prompt.add(f"question: {asked}")
        return prompt

    def _write(
        self, form: Form, question: Question, asked: str, blocks: list[tuple[int, str, str]]
    ) -> PromptText:
        prompt = super()._write(form, question, asked, blocks)
        prompt.passage_of_end = blocks[0][0]
        return prompt
