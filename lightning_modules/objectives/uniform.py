"""Uniform: the control that teaches nothing."""

from dataclasses import dataclass
from typing import ClassVar

import torch
from jaxtyping import Float
from torch import Tensor

from datamodules.batches import Batch
from lightning_modules.objectives.base import Objective, Passes


@dataclass(frozen=True)
class Uniform(Objective[None]):
    """Every passage alike: what a retriever gains or loses by being trained on no information at all.

    The reader is not asked.
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
