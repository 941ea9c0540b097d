"""What a token view shows: the pieces of each passage, how much they are attended to, and what they are."""

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from datamodules.batches import Question
from lightning_modules.evaluation import Evaluation
from lightning_modules.readers.reader import Reading

_INCOMPLETE = "\N{REPLACEMENT CHARACTER}"


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
        is_attention: False = the token scores are drops in the answer's likelihood.
    """

    question: Question
    passages: list[PassageView]
    prediction: str | None
    is_attention: bool


def view_question(evaluation: Evaluation, row: int, tokenizer: PreTrainedTokenizerBase) -> QuestionView:
    """The view of one question of an evaluation that was read."""
    reading, question = evaluation.reading, evaluation.questions[row]
    assert reading is not None
    assert evaluation.log_p_attn is not None
    assert evaluation.log_p_retr is not None
    nouns = [question.text[start:end] for start, end in question.nouns]
    passages = []
    for k in range(reading.prompts.num_passages):
        title, text = _runs(reading, row, k, has_title=bool(evaluation.passages[row][k].title.strip()))
        scores = torch.cat([reading.token_scores[at] for at in (title, text)]).float()
        even = float(scores.mean()) if len(scores) else 0.0
        passages.append(
            PassageView(
                _pieces(reading, title, even, tokenizer, question.answers, nouns),
                _pieces(reading, text, even, tokenizer, question.answers, nouns),
                bool(evaluation.is_hit[row, k]),
                float(evaluation.log_p_attn[row, k].exp()),
                float(evaluation.log_p_retr[row, k].exp()),
            )
        )
    prediction = None if evaluation.predictions is None else evaluation.predictions[row]
    return QuestionView(question, passages, prediction, is_attention=reading.row_scores is not None)


def token_texts(tokenizer: PreTrainedTokenizerBase, ids: list[int]) -> list[tuple[str, int]]:
    """The text of tokens in a row, as (text, number of tokens); together it is the text of all.

    A token's text depends on what is before it: SentencePiece drops a first space, and a character may take
    several byte-level tokens, which are then given together.
    """
    texts, shown, start = [], "", 0
    for end in range(1, len(ids) + 1):
        so_far = str(tokenizer.decode(ids[:end], clean_up_tokenization_spaces=False))
        if so_far.endswith(_INCOMPLETE) and end < len(ids):
            continue
        texts.append((so_far[len(shown) :], end - start))
        shown, start = so_far, end
    return texts


def word_spans(text: str, words: Iterable[str]) -> list[tuple[int, int]]:
    """Where one of the words (or runs of words) is in a text, whole and in any case."""
    patterns = [r"\s+".join(map(re.escape, word.split())) for word in words if word.strip()]
    return [
        match.span()
        for pattern in patterns
        for match in re.finditer(rf"(?<!\w){pattern}(?!\w)", text, re.IGNORECASE)
    ]


def _pieces(
    reading: Reading,
    at: tuple[Tensor, Tensor],
    even: float,
    tokenizer: PreTrainedTokenizerBase,
    answers: Sequence[str],
    nouns: Sequence[str],
) -> list[Piece]:
    ids, scores = reading.prompts.input_ids[at].tolist(), reading.token_scores[at].tolist()
    texts = token_texts(tokenizer, ids)
    whole = "".join(text for text, _ in texts)
    answer_spans, noun_spans = word_spans(whole, answers), word_spans(whole, nouns)
    pieces, first, start = [], 0, 0
    for text, num_tokens in texts:
        end = start + len(text)
        score = sum(scores[first : first + num_tokens]) / num_tokens
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
        first, start = first + num_tokens, end
    return pieces


def _runs(
    reading: Reading, row: int, k: int, has_title: bool
) -> tuple[tuple[Tensor, Tensor], tuple[Tensor, Tensor]]:
    """Places (prompt, position) of a passage's title and of its text; template words part the two."""
    prompts = reading.prompts
    of_question = (prompts.question_of_prompt == row)[:, None]
    shown: Bool[Tensor, "prompts tokens"] = (
        of_question & (prompts.passage_of_token == k) & prompts.content_mask
    )
    prompt, position = shown.nonzero(as_tuple=True)
    gaps = (position.diff() > 1).nonzero()
    cut = int(gaps[0]) + 1 if len(gaps) else (len(position) if has_title else 0)
    return (prompt[:cut], position[:cut]), (prompt[cut:], position[cut:])
