"""What evaluating a batch of questions gives, and which of its passages hit."""

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from datamodules.answer_matching import AnswerMatch, HitMatcher
from datamodules.batches import Batch, Passage, Question
from lightning_modules.metrics.indicators import IndicatorUnits, indicator_units
from lightning_modules.metrics.units import PassageUnits
from lightning_modules.readers.outputs import TokenOutput


@dataclass(frozen=True)
class ScoredQuestions:
    """What a teacher makes of some questions: all that metrics of a teacher are computed from.

    Attributes:
        has_answer: True = the passage holds an answer.
        log_p_target: log of the teacher's distribution; p_ATTN, or what another objective has in its place.
            The order of passages is in it at every temperature, while small probabilities become 0 alike.
        units: its tokens as the indicators look at them.
    """

    has_answer: Bool[Tensor, "read passages"]
    log_p_target: Float[Tensor, "read passages"]
    units: PassageUnits
    _indicators: dict[tuple[int, int], IndicatorUnits] = field(
        default_factory=dict, init=False, repr=False, compare=False
    )

    def __len__(self) -> int:
        return len(self.has_answer)

    @property
    def p_target(self) -> Float[Tensor, "read passages"]:
        """The teacher's distribution."""
        return self.log_p_target.exp()

    def indicator(self, number: int, percentile: int) -> IndicatorUnits:
        """Indicator 1 (target: the answer) or 2 (the question's nouns) of each unit; computed once."""
        key = number, percentile
        if key not in self._indicators:
            units = self.units
            similarity = {1: units.answer_similarity, 2: units.noun_similarity}[number]
            self._indicators[key] = indicator_units(units.attention, similarity, units.mask, percentile)
        return self._indicators[key]


@dataclass(frozen=True)
class ReadQuestions(ScoredQuestions):
    """What reader and retriever make of the questions that are read.

    Attributes:
        batch: R questions with the K passages of each that the reader is shown, and the answers scored.
        output: the pass whose token scores say what the objective looks at: attention, or drops in
            likelihood.
        log_p_retr: log of the retriever's distribution.
        loss: the retriever's, over these questions.
    """

    batch: Batch
    output: TokenOutput
    log_p_retr: Float[Tensor, "read passages"]
    loss: Float[Tensor, ""]


@dataclass(frozen=True)
class Evaluation:
    """What evaluating a batch of questions gave; every metric is computed from it.

    Attributes:
        questions: B questions.
        passages: the passages retrieved for each, best first (as many as the largest Hit Rate needs).
        is_hit: True = the passage holds an answer.
        num_passages: K, of which the reader is shown the first.
        read: of the first R questions; None where the reader reads none of them.
        predictions: generated answers to the first questions; empty where none were asked for.
    """

    questions: list[Question]
    passages: list[list[Passage]]
    is_hit: Bool[Tensor, "batch retrieved"]
    num_passages: int
    read: ReadQuestions | None = None
    predictions: Sequence[str] = ()

    @property
    def num_read(self) -> int:
        """R."""
        return 0 if self.read is None else len(self.read)


def find_hits(
    questions: Sequence[Question], passages: Sequence[Sequence[Passage]], match: AnswerMatch
) -> Bool[Tensor, "batch retrieved"]:
    """Which passages are hits, see `HitMatcher`."""
    hits = []
    for question, found in zip(questions, passages, strict=True):
        matcher = HitMatcher(question, match)
        hits.append([matcher.matches(passage) for passage in found])
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
