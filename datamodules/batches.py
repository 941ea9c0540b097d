"""What travels between the parts: questions, passages and the prompts that the reader sees."""

import dataclasses
from dataclasses import dataclass
from typing import TypeVar

import torch
from jaxtyping import Bool, Int
from torch import Tensor


@dataclass(frozen=True)
class Question:
    """A question Q with its acceptable answers A.

    Attributes:
        id: unique within its split.
        text: the question as the user typed it.
        answers: acceptable answers, the preferred one first; never empty.
        title: title of the gold passage, where the data names one.
        topic: subject area, where the data names one.
        nouns: character spans (start, end) of the question's nouns (spaCy NOUN and PROPN), the
            target of Indicator 2; empty until a tagger has run.
    """

    id: str
    text: str
    answers: tuple[str, ...]
    title: str = ""
    topic: str = ""
    nouns: tuple[tuple[int, int], ...] = ()


@dataclass(frozen=True)
class Passage:
    """A passage n of the knowledge base D."""

    id: str
    title: str
    text: str


@dataclass(frozen=True)
class PromptBatch:
    """Tokenised prompts that know what each of their tokens is.

    A decoder-only reader in `concatenated` context has one prompt a question, in `independent` context, as
    an encoder-decoder reader, `num_passages` prompts a question, question-major. Prompts are padded on the
    left (so that answers, when they are there, end together) unless the builder was told otherwise.

    Attributes:
        input_ids: token ids.
        attention_mask: True = real token.
        passage_of_token: index 0..K-1 of the retrieved passage whose title or text (or, with
            `token_scope="prompt"`, whose block) the token belongs to; -1 = none.
        content_mask: True = token of a passage's title or text, whatever the token scope; the tokens that
            the indicators look at.
        noun_mask: True = token of one of the question's nouns, in its last occurrence in the prompt; white
            space that is a token of its own is none.
        answer_mask: True = token of the answer; all False in prompts that end before the answer, and where
            the answer is decoded (`AnswerBatch`).
        target_mask: True = token of the answer that the indicators compare a passage's tokens with: one that
            is not white space alone, or any where the answer has no other.
        answer_rows_mask: True = position whose output *predicts* an answer token (one to the left of it).
        label_mask: True = position whose output is trained: the answer rows and the row that predicts the
            end of the answer.
        question_of_prompt: index of the question each prompt belongs to.
        num_questions: B.
        num_passages: K, retrieved passages a question; 0 in prompts that ask without any.
    """

    input_ids: Int[Tensor, "prompts tokens"]
    attention_mask: Bool[Tensor, "prompts tokens"]
    passage_of_token: Int[Tensor, "prompts tokens"]
    content_mask: Bool[Tensor, "prompts tokens"]
    noun_mask: Bool[Tensor, "prompts tokens"]
    answer_mask: Bool[Tensor, "prompts tokens"]
    target_mask: Bool[Tensor, "prompts tokens"]
    answer_rows_mask: Bool[Tensor, "prompts tokens"]
    label_mask: Bool[Tensor, "prompts tokens"]
    question_of_prompt: Int[Tensor, " prompts"]
    num_questions: int
    num_passages: int

    def to(self, device: torch.device | str) -> "PromptBatch":
        """The same batch with its tensors on `device`."""
        return _moved(self, device)

    def select(self, rows: Int[Tensor, " rows"]) -> "PromptBatch":
        """Some of the prompts, a prompt more than once if its row comes so; of the same questions."""
        tensors = {name: value[rows] for name, value in vars(self).items() if isinstance(value, Tensor)}
        return dataclasses.replace(self, **tensors)  # type: ignore[arg-type]


@dataclass(frozen=True)
class AnswerBatch:
    """The answers that an encoder-decoder reader decodes, beside the prompts that it encodes.

    Attributes:
        ids: token ids, the end-of-sequence token last; right-padded.
        label_mask: True = real token, the end-of-sequence token included.
        answer_mask: True = token of the answer itself.
        target_mask: as in `PromptBatch`.
    """

    ids: Int[Tensor, "batch labels"]
    label_mask: Bool[Tensor, "batch labels"]
    answer_mask: Bool[Tensor, "batch labels"]
    target_mask: Bool[Tensor, "batch labels"]

    def to(self, device: torch.device | str) -> "AnswerBatch":
        """The same batch with its tensors on `device`."""
        return _moved(self, device)


_BatchT = TypeVar("_BatchT", PromptBatch, AnswerBatch)


def _moved(batch: _BatchT, device: torch.device | str) -> _BatchT:
    tensors = {name: value.to(device) for name, value in vars(batch).items() if isinstance(value, Tensor)}
    return dataclasses.replace(batch, **tensors)  # type: ignore[arg-type]
