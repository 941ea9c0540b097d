"""What evaluating a batch of questions gives, and which of its passages hit."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from datamodules.answer_matching import AnswerMatch, AnswerMatcher
from datamodules.batches import Passage, Question
from lightning_modules.readers.reader import Reading


@dataclass(frozen=True)
class Evaluation:
    """What validating a batch of questions gave; callbacks compute their metrics from it.

    Attributes:
        questions: B questions.
        passages: the passages retrieved for each, best first (as many as the largest Hit Rate needs).
        is_hit: True = the passage holds an answer.
        answers: the answer A that is scored, for each question.
        num_read: the reader read the first R of the questions; the others were retrieved for only.
        reading: of the first `num_passages` passages of each; None where there are no questions to read.
            Its token scores are what the objective looks at: attention, or drops in likelihood.
        log_p_attn: the teacher's distribution; p_ATTN, or what another objective has in its place.
        log_p_retr: the retriever's.
        predictions: generated answers, of the questions that were read.
    """

    questions: list[Question]
    passages: list[list[Passage]]
    is_hit: Bool[Tensor, "batch retrieved"]
    answers: list[str]
    num_read: int = 0
    reading: Reading | None = None
    log_p_attn: Float[Tensor, "read passages"] | None = None
    log_p_retr: Float[Tensor, "read passages"] | None = None
    predictions: list[str] | None = None

    @property
    def read_questions(self) -> list[Question]:
        """Those that the reader read."""
        return self.questions[: self.num_read]


def find_hits(
    questions: Sequence[Question], passages: Sequence[Sequence[Passage]], match: AnswerMatch
) -> Bool[Tensor, "batch retrieved"]:
    """Whether a passage's text holds an answer (its title does not count: DPR, FiD)."""
    hits = []
    for question, found in zip(questions, passages, strict=True):
        matcher = AnswerMatcher(question.answers, match)
        hits.append([matcher.matches(passage.text) for passage in found])
    return torch.tensor(hits)


def mean_words(passages: Sequence[Sequence[Passage]], num_passages: int) -> float:
    """Words in the text of a passage, over the first `num_passages` of each question."""
    counts = [len(passage.text.split()) for found in passages for passage in found[:num_passages]]
    return sum(counts) / len(counts)


def first_hit_ranks(is_hit: Bool[Tensor, "batch retrieved"]) -> Int[Tensor, " batch"]:
    """Rank of the first hit, -1 where there is none."""
    if is_hit.shape[1] == 0:
        return torch.full((len(is_hit),), -1, device=is_hit.device)
    return torch.where(is_hit.any(dim=1), is_hit.int().argmax(dim=1), -1)
