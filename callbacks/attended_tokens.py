"""What a token view shows: the pieces of each passage, how much they are attended to, and what they are."""

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from datamodules.batches import Question
from datamodules.token_pieces import token_pieces
from lightning_modules.evaluation import ReadQuestions
from lightning_modules.readers.outputs import TokenOutput


@dataclass(frozen=True)
class Piece:
    """A token, or several that share a character.

    Attributes:
        text: with the space before it, if there is one.
        attention: over that of an even share, 1 = as if attention were the same all over the passage.
        in_answer, in_noun: part of one of the answers, or of a noun of the question.
    """

    text: str
    attention: float
    in_answer: bool
    in_noun: bool


@dataclass(frozen=True)
class PassageView:
    """A passage as the reader saw it, which may be cut.

    Attributes:
        title, text: pieces.
        holds_answer: whether the whole passage does.
        p_attn, p_retr: its share of the two distributions.
    """

    title: list[Piece]
    text: list[Piece]
    holds_answer: bool
    p_attn: float
    p_retr: float


@dataclass(frozen=True)
class QuestionView:
    """A question with its passages, best first.

    Attributes:
        question: with its nouns.
        passages: those that were read.
        prediction: the reader's answer, where it gave one.
        scores_are: what the shades show, in words.
    """

    question: Question
    passages: list[PassageView]
    prediction: str | None
    scores_are: str


def view_question(
    read: ReadQuestions, row: int, prediction: str | None, tokenizer: PreTrainedTokenizerBase
) -> QuestionView:
    """The view of one of the questions that were read, with the reader's answer where it gave one."""
    question, passages = read.batch.questions[row], []
    nouns = [question.text[start:end] for start, end in question.nouns]
    for k, passage in enumerate(read.batch.passages[row]):
        title, text = _runs(read.output, row, k, has_title=bool(passage.title.strip()))
        scores = torch.cat([read.output.token_scores[at] for at in (title, text)]).float()
        even = float(scores.mean()) if len(scores) else 0.0
        passages.append(
            PassageView(
                _pieces(read.output, title, even, tokenizer, question.answers, nouns),
                _pieces(read.output, text, even, tokenizer, question.answers, nouns),
                bool(read.has_answer[row, k]),
                float(read.p_target[row, k]),
                float(read.log_p_retr[row, k].exp()),
            )
        )
    return QuestionView(question, passages, prediction, read.output.scores_are)


def word_spans(text: str, words: Iterable[str]) -> list[tuple[int, int]]:
    """Where one of the words (or runs of words) is in a text, whole and in any case."""
    patterns = [r"\s+".join(map(re.escape, word.split())) for word in words if word.strip()]
    return [
        match.span()
        for pattern in patterns
        for match in re.finditer(rf"(?<!\w){pattern}(?!\w)", text, re.IGNORECASE)
    ]


def _pieces(
    output: TokenOutput,
    at: tuple[Tensor, Tensor],
    even: float,
    tokenizer: PreTrainedTokenizerBase,
    answers: Sequence[str],
    nouns: Sequence[str],
) -> list[Piece]:
    ids, scores = output.prompts.input_ids[at].tolist(), output.token_scores[at].tolist()
    texts = token_pieces(tokenizer, ids)
    whole = "".join(texts)
    answer_spans, noun_spans = word_spans(whole, answers), word_spans(whole, nouns)
    pieces, first, start = [], 0, 0
    for last, text in enumerate(texts):
        if not text and last + 1 < len(texts):  # a character of several tokens stands at the last of them
            continue
        end = start + len(text)
        score = sum(scores[first : last + 1]) / (last + 1 - first)
        # the space before a word is no part of it
        begin = end - len(text.lstrip())
        pieces.append(
            Piece(
                text,
                score / even if even > 0 else 0.0,
                any(a < end and begin < b for a, b in answer_spans),
                any(a < end and begin < b for a, b in noun_spans),
            )
        )
        first, start = last + 1, end
    return pieces


def _runs(
    output: TokenOutput, row: int, k: int, has_title: bool
) -> tuple[tuple[Tensor, Tensor], tuple[Tensor, Tensor]]:
    """Places (prompt, position) of a passage's title and of its text; template words part the two."""
    prompts = output.prompts
    of_question = (prompts.question_of_prompt == row)[:, None]
    shown: Bool[Tensor, "prompts tokens"] = of_question & (prompts.block_of_token == k) & prompts.content_mask
    prompt, position = shown.nonzero(as_tuple=True)
    gaps = (position.diff() > 1).nonzero()
    cut = int(gaps[0]) + 1 if len(gaps) else (len(position) if has_title else 0)
    return (prompt[:cut], position[:cut]), (prompt[cut:], position[cut:])
