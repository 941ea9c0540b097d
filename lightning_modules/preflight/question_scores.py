"""What each variant makes of the questions that a pre-flight check has read."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from datamodules.batches import Passage, Question
from lightning_modules.metrics.head_search import HeadSums
from lightning_modules.metrics.teacher_auc import teacher_auc
from lightning_modules.preflight.placement import AttentionShares
from lightning_modules.preflight.variants import Order, Scores, Variant


@dataclass(frozen=True)
class Reranked:
    """What a cross-encoder makes of the same passages.

    Attributes:
        name: of the cross-encoder.
        scores: of the K passages of each question.
    """

    name: str
    scores: Float[Tensor, "questions passages"]


class QuestionScores:
    """Passage scores of every variant, question by question; NaN where a question was not read that way.

    Attributes:
        questions: that were read.
        passages: ids of the K passages retrieved for each.
        has_answer, log_p_retr, lengths: of their K retrieved passages.
        positions: where each passage stood in a concatenated prompt, by the order asked for.
        shares: attention on passages, first token and the rest, of the configured context.
        reranked: by what the reader is compared with; None where nothing is.
        bm25: BM25's scores of the K passages of each question; None without an index of it.
    """

    def __init__(self) -> None:
        self.questions: list[Question] = []
        self.passages: list[list[str]] = []
        self._has_answer: list[Tensor] = []
        self._log_p_retr: list[Tensor] = []
        self._lengths: list[Tensor] = []
        self._scores: dict[Variant, dict[int, Tensor]] = {}
        self._unrelated: dict[Variant, dict[int, Tensor]] = {}
        self._positions: dict[Order, dict[int, Tensor]] = {}
        self._head_sums: list[HeadSums] = []
        self._likelihoods: list[Tensor] = []
        self.reranked: Reranked | None = None
        self.bm25: Float[Tensor, "questions passages"] | None = None
        self.shares: dict[str, list[float]] = {"passages": [], "first_token": [], "rest": []}

    @property
    def has_answer(self) -> Bool[Tensor, "questions passages"]:
        return torch.cat(self._has_answer)

    @property
    def has_both(self) -> Bool[Tensor, " questions"]:
        """True = the question has a positive and a negative passage."""
        return self.has_answer.any(dim=1) & ~self.has_answer.all(dim=1)

    @property
    def log_p_retr(self) -> Float[Tensor, "questions passages"]:
        return torch.cat(self._log_p_retr)

    @property
    def lengths(self) -> Int[Tensor, "questions passages"]:
        return torch.cat(self._lengths)

    @property
    def head_sums(self) -> HeadSums:
        """Passage scores (`sum`) of every head alone, in the configured context."""
        return HeadSums.joined(self._head_sums)

    @property
    def likelihood(self) -> Float[Tensor, "questions passages"] | None:
        """Mean log-probability of an answer token given each passage alone; None where that was not read."""
        return torch.cat(self._likelihoods) if self._likelihoods else None

    @property
    def variants(self) -> list[Variant]:
        return list(self._scores)

    def scores(self, variant: Variant) -> Float[Tensor, "questions passages"]:
        """What the variant's target is a softmax of, NaN where it was not read."""
        return self._rows(self._scores[variant])

    def unrelated_scores(self, variant: Variant) -> Float[Tensor, "questions passages"]:
        """The same passages' scores when another question is asked of them, NaN where that was not read.

        They were shown in another order than to the question itself, whichever that was.
        """
        return self._rows(self._unrelated.get(replace(variant, order=Order.RANK), {}))

    def positions(self, order: Order) -> Float[Tensor, "questions passages"] | None:
        """As floats, NaN where it was not read; None where it never was."""
        return self._rows(self._positions[order]) if order in self._positions else None

    def auc(self, variant: Variant) -> Float[Tensor, " questions"]:
        """Teacher validity; NaN where all passages hold an answer or none does, or it was not read."""
        return teacher_auc(self.scores(variant), self.has_answer)

    def add_questions(
        self,
        questions: Sequence[Question],
        passages: Sequence[Sequence[Passage]],
        has_answer: Bool[Tensor, "batch passages"],
        log_p_retr: Float[Tensor, "batch passages"],
        lengths: Int[Tensor, "batch passages"],
    ) -> list[int]:
        """Rows of the new questions."""
        first = len(self.questions)
        self.questions += questions
        self.passages += [[passage.id for passage in found] for found in passages]
        self._has_answer.append(has_answer.cpu())
        self._log_p_retr.append(log_p_retr.float().cpu())
        self._lengths.append(lengths.cpu())
        return list(range(first, len(self.questions)))

    def add_scores(self, rows: Sequence[int], scores: Scores) -> None:
        for variant, values in scores.items():
            _put(values, rows, self._scores.setdefault(variant, {}))

    def add_unrelated_scores(self, rows: Sequence[int], scores: Scores) -> None:
        for variant, values in scores.items():
            _put(values, rows, self._unrelated.setdefault(variant, {}))

    def add_heads(self, sums: HeadSums, likelihood: Float[Tensor, "batch passages"] | None) -> None:
        self._head_sums.append(sums.cpu())
        if likelihood is not None:
            self._likelihoods.append(likelihood.float().cpu())

    def add_positions(
        self, rows: Sequence[int], order: Order, positions: Int[Tensor, "batch passages"]
    ) -> None:
        _put(positions, rows, self._positions.setdefault(order, {}))

    def add_shares(self, shares: AttentionShares) -> None:
        for name, values in self.shares.items():
            values += getattr(shares, name).tolist()

    def _rows(self, by_row: dict[int, Tensor]) -> Float[Tensor, "questions passages"]:
        all_rows = torch.full(self.has_answer.shape, torch.nan)
        for row, values in by_row.items():
            all_rows[row] = values
        return all_rows


def _put(values: Tensor, rows: Sequence[int], by_row: dict[int, Tensor]) -> None:
    by_row.update(zip(rows, values.float().cpu(), strict=True))
