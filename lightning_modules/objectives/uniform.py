"""Uniform: the control that knows nothing of a question's candidates."""

from dataclasses import dataclass
from typing import ClassVar

import torch
from jaxtyping import Float
from torch import Tensor

from datamodules.batches import Batch
from lightning_modules.objectives.base import Objective, Passes


@dataclass(frozen=True)
class Uniform(Objective[None]):
    """Every candidate alike: what a retriever gains or loses without a teacher. The reader is not asked.

    With the batch's other passages as negatives that is much: whoever found the candidates teaches then,
    since a question's own are to stand above other questions'.
    """

    name: ClassVar[str] = "uniform"
    uses_reader: ClassVar[bool] = False

    def read(self, reader: Passes, batch: Batch) -> None:
        """Nothing is needed."""

    def passage_scores(
        self, output: None, log_p_retr: Float[Tensor, "batch passages"]
    ) -> Float[Tensor, "batch passages"]:
        """0 for each."""
        return torch.zeros_like(log_p_retr)

    def log_p_of_scores(self, scores: Float[Tensor, "batch passages"]) -> Float[Tensor, "batch passages"]:
        """-log K for each."""
        return scores.log_softmax(dim=-1)
