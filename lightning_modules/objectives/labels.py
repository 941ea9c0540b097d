"""Labels: the control that teaches which passages hold an answer, the limit of what a teacher could know."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import ClassVar

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from datamodules.answer_matching import AnswerMatch
from datamodules.batches import Batch, Passage, Question
from lightning_modules.evaluation import find_hits
from lightning_modules.objectives.base import Objective, Passes


@dataclass(frozen=True)
class Labels(Objective[Bool[Tensor, "batch passages"]]):
    """All positive passages alike, and no other: as if somebody had labelled them.

    A question without a positive passage teaches nothing. Other questions' passages that hold an answer stand
    against none (`positives_among`). The reader is not asked. Positive is what holds an answer, which is what
    the Hit Rate counts, so this is a control and no method.

    Attributes:
        match: when a passage holds an answer; a module gives it the rule of its Hit Rate.
    """

    name: ClassVar[str] = "labels"
    uses_reader: ClassVar[bool] = False
    knows_answers: ClassVar[bool] = True

    match: AnswerMatch | str = AnswerMatch.TOKENS

    def __post_init__(self) -> None:
        super().__post_init__()
        self._choose("match", AnswerMatch)

    def judged_by(self, match: AnswerMatch | str) -> "Labels":
        return replace(self, match=match)

    def read(self, reader: Passes, batch: Batch) -> Bool[Tensor, "batch passages"]:
        """Which passages hold an answer."""
        return find_hits(batch.questions, batch.passages, AnswerMatch(self.match))

    def positives_among(
        self, questions: Sequence[Question], passages: Sequence[Sequence[Passage]]
    ) -> Bool[Tensor, "batch all passages"]:
        """For each question, which of all questions' passages hold an answer of it: none is its negative.

        Args:
            questions: of the batch.
            passages: those of each question, of other processes too.
        """
        flat = [passage for found in passages for passage in found]
        held = find_hits(questions, [flat] * len(questions), AnswerMatch(self.match))
        return held.view(len(questions), len(passages), -1)

    def passage_scores(
        self, output: Bool[Tensor, "batch passages"], log_p_retr: Float[Tensor, "batch passages"]
    ) -> Float[Tensor, "batch passages"]:
        """1 for a positive passage, 0 for a negative one."""
        return output.to(log_p_retr.device, torch.float32)

    def log_p_of_scores(self, scores: Float[Tensor, "batch passages"]) -> Float[Tensor, "batch passages"]:
        """Uniform over the positive passages, nothing on the others; uniform over all without a positive."""
        has_positive = scores.any(dim=-1, keepdim=True)
        # e^-100 is nothing to the loss, and its log is finite
        return torch.where(has_positive, (scores - 1) * 100.0, 0.0).log_softmax(dim=-1)

    def loss(
        self,
        log_p_target: Float[Tensor, "batch passages"],
        log_p_retr: Float[Tensor, "batch passages"],
        output: Bool[Tensor, "batch passages"],
    ) -> Float[Tensor, ""]:
        """The KL of the questions with a positive passage; the others count with 0."""
        has_positive = output.any(dim=-1, keepdim=True).to(log_p_retr.device)
        # where the target is what the retriever says already there is nothing to learn
        return super().loss(
            torch.where(has_positive, log_p_target, log_p_retr.detach()),
            torch.where(has_positive, log_p_retr, log_p_retr.detach()),
            output,
        )
