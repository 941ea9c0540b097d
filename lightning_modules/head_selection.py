"""Chooses attention heads by a published method: reads questions with every head kept, trains nothing."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import assert_never

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from datamodules.batches import Batch, Passage, Question, TokenScope, in_batches
from lightning_modules.eval_mode import eval_mode
from lightning_modules.evaluation import find_hits
from lightning_modules.head_lists import HeadRows
from lightning_modules.metrics.head_methods import (
    HEAD_METHODS,
    HeldOutHeads,
    judge_heads,
    ranked_heads,
)
from lightning_modules.metrics.head_search import head_passage_scores
from lightning_modules.readers.base import Reader
from lightning_modules.retrieval import RETRIEVED_TOGETHER, RetrievalModule
from lightning_modules.retriever_reader import preferred_answers
from lightning_modules.scores import PassageTokens

FEWEST_QUESTIONS = 50
"""Below that a choice among hundreds of heads is a choice by luck."""
COUNTS = (1, 2, 4, 8, 16, 32, 64)
"""Numbers of heads that are judged beside the one asked for."""


@dataclass(frozen=True)
class CandidateQuestion:
    """A question with a positive and a negative passage among those retrieved.

    Attributes:
        question: with its answers.
        passages: K of them, best first.
        has_answer: True = the passage holds an answer.
    """

    question: Question
    passages: list[Passage]
    has_answer: Bool[Tensor, " passages"]


@dataclass(frozen=True)
class HeadScores:
    """What every head makes of the passages of some questions.

    Attributes:
        scores: sum of s_t over the passage (Eq. 1), by every head alone.
        has_answer: True = the passage holds an answer; each question has both kinds.
        lengths: of the passages, in tokens.
    """

    scores: Float[Tensor, "questions layers heads passages"]
    has_answer: Bool[Tensor, "questions passages"]
    lengths: Float[Tensor, "questions passages"]


@dataclass(frozen=True)
class HeadSelection:
    """Heads in the order of their scores, and what the best of them are worth.

    Attributes:
        heads: score of each head, named `layer.head`, the best first; of all questions.
        held_out: by number of heads, measured on questions that had no part in the choice; all heads last.
        num_questions: that both are of.
    """

    heads: dict[str, float]
    held_out: list[HeldOutHeads]
    num_questions: int


def find_candidates(
    module: RetrievalModule, questions: Sequence[Question], num_questions: int
) -> list[CandidateQuestion]:
    """The first questions whose retrieved passages do and do not hold an answer, as many as are asked for.

    Args:
        module: with its index.
        questions: with their answers.
        num_questions: how many; at least `FEWEST_QUESTIONS`.

    Raises:
        ValueError: fewer than `FEWEST_QUESTIONS` are asked for, or found.
    """
    if num_questions < FEWEST_QUESTIONS:
        raise ValueError(f"questions is {num_questions}; to choose heads takes at least {FEWEST_QUESTIONS}")
    found: list[CandidateQuestion] = []
    for batch in in_batches(questions, RETRIEVED_TOGETHER):
        passages = module.retrieve_candidates(batch)
        hits = find_hits(batch, passages, module.answer_match)
        for question, retrieved, is_hit in zip(batch, passages, hits, strict=True):
            if bool(is_hit.any()) and not bool(is_hit.all()):
                found.append(CandidateQuestion(question, retrieved, is_hit))
        if len(found) >= num_questions:
            return found[:num_questions]
    if len(found) < FEWEST_QUESTIONS:
        raise ValueError(
            f"only {len(found)} of {len(questions)} questions have passages with and without an answer among "
            f"the {module.num_passages} retrieved, and choosing attention heads needs {FEWEST_QUESTIONS}; "
            "give more questions, or more passages for each"
        )
    return found


@torch.no_grad()
def score_heads(
    reader: Reader,
    candidates: Sequence[CandidateQuestion],
    rows: HeadRows,
    batch_size: int = 4,
    progress: Callable[[int], object] | None = None,
) -> HeadScores:
    """Reads each question with its passages once, in eval mode, and keeps the passage scores of every head.

    Args:
        reader: as training shows it the passages.
        candidates: at least one.
        rows: whose attention.
        batch_size: questions read together.
        progress: called with numbers of questions read.

    Raises:
        ValueError: the reader has no such rows.
    """
    scores, lengths = [], []
    for batch in in_batches(candidates, batch_size):
        questions = [candidate.question for candidate in batch]
        passages = [candidate.passages for candidate in batch]
        shown = Batch(questions, passages, preferred_answers(questions))
        with eval_mode(reader):
            by_head, tokens = _read(reader, shown, rows)
        scores.append(head_passage_scores(by_head, tokens).cpu())
        lengths.append(tokens.count().float().cpu())
        if progress is not None:
            progress(len(batch))
    has_answer = torch.stack([candidate.has_answer for candidate in candidates])
    return HeadScores(torch.cat(scores), has_answer, torch.cat(lengths))


def _read(
    reader: Reader, batch: Batch, rows: HeadRows
) -> tuple[Float[Tensor, "prompts layers heads tokens"], PassageTokens]:
    match rows:
        case HeadRows.QUESTION:
            with_question = reader.read_question_heads(batch)
            prompts, by_head = with_question.prompts, with_question.question_head_scores
        case HeadRows.ANSWER:
            output = reader.read_heads(batch)
            prompts, by_head = output.prompts, output.head_scores
        case _:
            assert_never(rows)
    return by_head, PassageTokens.of(prompts, TokenScope.PASSAGE)


def select_heads(found: HeadScores, method: str, num_heads: int, seed: int = 0) -> HeadSelection:
    """Ranks all heads by a published method, and judges the best of them by cross-validation.

    Args:
        found: of `score_heads`.
        method: of `HEAD_METHODS`.
        num_heads: to be judged beside `COUNTS`.
        seed: of the folds.

    Raises:
        ValueError: more heads than the reader has.
    """
    _, num_layers, heads_of_layer, _ = found.scores.shape
    num_all = num_layers * heads_of_layer
    if not 1 <= num_heads <= num_all:
        raise ValueError(f"num_heads is {num_heads}; the reader has {num_all} heads in all")
    score = HEAD_METHODS[method]
    of_heads = score(found.scores, found.has_answer)
    counts = sorted({count for count in (*COUNTS, num_heads) if count < num_all})
    return HeadSelection(
        {
            f"{layer}.{head}": round(float(of_heads[layer, head]), 6)
            for layer, head in ranked_heads(of_heads).tolist()
        },
        judge_heads(found.scores, found.has_answer, found.lengths, score, counts, seed=seed),
        len(found.scores),
    )
