"""ScoredBy: the retriever learns what a function says of a question and a passage."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import ClassVar

import torch
from jaxtyping import Float
from torch import Tensor

from datamodules.batches import Batch, Passage, Question
from lightning_modules.objectives.base import Passes, TemperedObjective

PassageScore = Callable[[Question, Passage], float]
"""How much a passage should be retrieved for a question: the more, the higher."""


@dataclass(frozen=True)
class ScoredBy(TemperedObjective[Tensor]):
    """Scores of a function of one's own. No reader is asked.

    Attributes:
        score: the function.

    Example:
        >>> objective = ScoredBy(score=lambda question, passage: float(question.title == passage.title))
        >>> batch = Batch([Question("1", "who?", (), title="Ann")], [[Passage("a", "Ann", "She."),
        ...     Passage("b", "Bob", "He.")]], [""])
        >>> objective.read(None, batch)
        tensor([[1., 0.]])
    """

    name: ClassVar[str] = "scored_by"
    uses_reader: ClassVar[bool] = False

    score: PassageScore = field(kw_only=True)

    def read(self, reader: Passes | None, batch: Batch) -> Float[Tensor, "batch passages"]:
        """The function's score of each passage."""
        rows = [
            [float(self.score(question, passage)) for passage in found]
            for question, found in zip(batch.questions, batch.passages, strict=True)
        ]
        return torch.tensor(rows)

    def passage_scores(
        self, output: Float[Tensor, "batch passages"], log_p_retr: Float[Tensor, "batch passages"]
    ) -> Float[Tensor, "batch passages"]:
        """As the function gave them."""
        return output.to(log_p_retr.device)
