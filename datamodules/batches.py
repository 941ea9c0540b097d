"""What travels between the parts: questions, passages and the prompts that the reader sees."""

import dataclasses
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import TypeVar, assert_never

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from datamodules.choices import Choice

NOTHING = -1
"""The passage of tokens that belong to none."""


class TokenScope(Choice):
    """Which tokens count towards a passage's score."""

    PASSAGE = "passage"
    """Those of its title and text."""
    PROMPT = "prompt"
    """Also the template's words around them and, where a prompt shows one passage, the question (Atlas)."""


@dataclass(frozen=True)
class Question:
    """A question Q with its acceptable answers A.

    Attributes:
        id: unique within its split.
        text: the question as the user typed it.
        answers: acceptable answers, the preferred one first; empty where nobody knows any, which is fine for
            training on signals that need none.
        title: title of the gold passage, where the data names one.
        topic: subject area, where the data names one.
        nouns: character spans (start, end) of the question's nouns (spaCy NOUN and PROPN), the
            target of Indicator 2; empty until a tagger has run.
        canonical_answer: the one that the data single out to train on; empty where they do not.
        positives: ids of the passages that somebody has judged relevant, which then are its hits in place of
            those that hold an answer; empty where nobody has.
    """

    id: str
    text: str
    answers: tuple[str, ...]
    title: str = ""
    topic: str = ""
    nouns: tuple[tuple[int, int], ...] = ()
    canonical_answer: str = ""
    positives: frozenset[str] = frozenset()

    @property
    def words(self) -> str:
        """Its text in lower case with single spaces, the same for a question that is asked twice."""
        return " ".join(self.text.split()).casefold()


@dataclass(frozen=True)
class Passage:
    """A passage n of the knowledge base D."""

    id: str
    title: str
    text: str

    @property
    def full_text(self) -> str:
        """Title and text, as retrievers and rerankers see it."""
        return f"{self.title} {self.text}".strip()


@dataclass(frozen=True)
class SolvedExample:
    """A question with its answer and the passage that holds it, shown to a reader before it is asked another.

    Attributes:
        question: that is answered.
        passage: that holds the answer.
        answer: as the reader is to give it.
    """

    question: Question
    passage: Passage
    answer: str


@dataclass(frozen=True)
class Batch:
    """Questions with their retrieved passages, and the answers that are scored: what a reader reads.

    Attributes:
        questions: B questions Q.
        passages: D_n, the K retrieved passages of each, best first.
        answers: the answer A of each, "" where none is known; empty where the reader is to find them.
        order_seed: what shuffled passages are ordered by, together with the question.
    """

    questions: Sequence[Question]
    passages: Sequence[Sequence[Passage]]
    answers: Sequence[str] = ()
    order_seed: int = 0

    def __len__(self) -> int:
        return len(self.questions)

    @property
    def num_passages(self) -> int:
        """K."""
        return len(self.passages[0])


@dataclass(frozen=True)
class PromptBatch:
    """Tokenised prompts that know what each of their tokens is.

    A decoder-only reader in `concatenated` context has one prompt a question, in `independent` context, as
    an encoder-decoder reader, `num_passages` prompts a question, question-major. Prompts are padded on the
    left (so that answers, when they are there, end together) unless the builder was told otherwise.

    Attributes:
        input_ids: token ids.
        attention_mask: True = real token.
        block_of_token: index 0..K-1 of the retrieved passage whose part of the prompt the token belongs to,
            words of the template included; -1 = none.
        content_mask: True = token of a passage's title or text; the tokens that the indicators look at.
        content_part: which title or text such a token is of, counted from 1 in the order of the prompt; 0 =
            none. Where a prompt has little room, it is the texts that are cut, so that the same part may go
            less far in another prompt.
        question_mask: True = token of the question, in its last occurrence in the prompt.
        noun_mask: True = token of one of the question's nouns, in its last occurrence in the prompt; white
            space that is a token of its own is none.
        answer_mask: True = token of the answer; all False in prompts that end before the answer, and where
            the answer is decoded (`AnswerBatch`).
        target_mask: True = token of the answer that the indicators compare a passage's tokens with: one that
            is not white space alone, or any where the answer has no other.
        answer_rows_mask: True = position whose output *predicts* an answer token (one to the left of it);
            without a known answer the position that would predict its first one.
        label_mask: True = position whose output is trained: the answer rows and the row that predicts the
            end of the answer.
        question_of_prompt: index of the question each prompt belongs to.
        num_questions: B.
        num_passages: K, retrieved passages a question; 0 in prompts that ask without any.
        is_fused: whether one softmax runs over all prompts of a question.
        prefix_ids: tokens that a reader sees before every prompt, those of the solved examples. They are no
            part of the prompts, and nothing above tells of them.
    """

    input_ids: Int[Tensor, "prompts tokens"]
    attention_mask: Bool[Tensor, "prompts tokens"]
    block_of_token: Int[Tensor, "prompts tokens"]
    content_mask: Bool[Tensor, "prompts tokens"]
    content_part: Int[Tensor, "prompts tokens"]
    question_mask: Bool[Tensor, "prompts tokens"]
    noun_mask: Bool[Tensor, "prompts tokens"]
    answer_mask: Bool[Tensor, "prompts tokens"]
    target_mask: Bool[Tensor, "prompts tokens"]
    answer_rows_mask: Bool[Tensor, "prompts tokens"]
    label_mask: Bool[Tensor, "prompts tokens"]
    question_of_prompt: Int[Tensor, " prompts"]
    num_questions: int
    num_passages: int
    is_fused: bool = False
    prefix_ids: tuple[int, ...] = ()

    def passage_of_token(self, scope: TokenScope = TokenScope.PASSAGE) -> Int[Tensor, "prompts tokens"]:
        """Index of the passage that each token counts for in a scope; -1 = none."""
        match scope:
            case TokenScope.PASSAGE:
                return self.block_of_token.masked_fill(~self.content_mask, NOTHING)
            case TokenScope.PROMPT:
                return self.block_of_token
            case _:
                assert_never(scope)

    @property
    def after_passages_mask(self) -> Bool[Tensor, "prompts tokens"]:
        """True = real token after the last passage: of the question, where it comes last, and the answer."""
        belongs = (self.block_of_token != NOTHING).int()
        num_following = belongs.flip(1).cumsum(dim=1).flip(1)
        return (num_following == 0) & self.attention_mask

    @property
    def question_rows_mask(self) -> Bool[Tensor, "prompts tokens"]:
        """True = position whose output *predicts* a token of the question, in its last occurrence."""
        return rows_predicting(self.question_mask)

    def to(self, device: torch.device | str) -> "PromptBatch":
        """The same batch with its tensors on `device`."""
        return _changed(self, lambda tensor: tensor.to(device))

    def select(self, rows: Int[Tensor, " rows"]) -> "PromptBatch":
        """Some of the prompts, a prompt more than once if its row comes so; of the same questions."""
        return _changed(self, lambda tensor: tensor[rows])


def rows_predicting(mask: Bool[Tensor, "prompts tokens"]) -> Bool[Tensor, "prompts tokens"]:
    """The positions whose outputs predict the tokens of `mask`: those one to the left."""
    shifted = torch.zeros_like(mask)
    shifted[:, :-1] = mask[:, 1:]
    return shifted


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
        return _changed(self, lambda tensor: tensor.to(device))

    def select(self, rows: Int[Tensor, " rows"]) -> "AnswerBatch":
        """Some of the answers, an answer more than once if its row comes so."""
        return _changed(self, lambda tensor: tensor[rows])


_ItemT = TypeVar("_ItemT")
_BatchT = TypeVar("_BatchT", PromptBatch, AnswerBatch)


def _changed(batch: _BatchT, change: Callable[[Tensor], Tensor]) -> _BatchT:
    """The same batch with each of its tensors changed."""
    tensors = {name: change(value) for name, value in vars(batch).items() if isinstance(value, Tensor)}
    return dataclasses.replace(batch, **tensors)  # type: ignore[arg-type]


def in_batches(items: Sequence[_ItemT], size: int) -> Iterator[list[_ItemT]]:
    """Lists of `size` items, the last one shorter."""
    iterator = iter(items)
    while batch := list(islice(iterator, size)):
        yield batch
