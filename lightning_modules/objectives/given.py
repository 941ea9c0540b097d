"""Given scores: the retriever learns what another teacher has said of questions and passages."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import ClassVar

import torch
from jaxtyping import Float
from torch import Tensor

from datamodules.batches import Batch, Passage, Question
from datamodules.score_files import ScoredQuestion
from lightning_modules.objectives.base import Passes, TemperedObjective


@dataclass(frozen=True)
class Given(TemperedObjective[Tensor]):
    """Scores from a file: a cross-encoder's, a larger reader's, another run's. No reader is asked.

    A step's passages are those that the scores are of, and no others.

    Attributes:
        scored: the questions by id, with their candidates and scores.
    """

    name: ClassVar[str] = "given"
    uses_reader: ClassVar[bool] = False
    brings_passages: ClassVar[bool] = True

    scored: Mapping[str, ScoredQuestion] = field(default_factory=dict, repr=False)

    def passages_of(self, question: Question) -> Sequence[Passage]:
        """The candidates of a question, in the order of the file."""
        return self.scored[question.id].passages

    def read(self, reader: Passes, batch: Batch) -> Float[Tensor, "batch passages"]:
        """The scores of the batch's passages."""
        rows = []
        for question, found in zip(batch.questions, batch.passages, strict=True):
            known = self.scored[question.id]
            score_of = dict(zip((passage.id for passage in known.passages), known.scores, strict=True))
            rows.append([score_of[passage.id] for passage in found])
        return torch.tensor(rows)

    def passage_scores(
        self, output: Float[Tensor, "batch passages"], log_p_retr: Float[Tensor, "batch passages"]
    ) -> Float[Tensor, "batch passages"]:
        """As they were given."""
        return output.to(log_p_retr.device)
