"""Length: the control that teaches to prefer long passages."""

from dataclasses import dataclass
from typing import ClassVar

import torch
from jaxtyping import Float
from torch import Tensor

from datamodules.batches import Batch
from lightning_modules.objectives.base import Passes, TemperedObjective


@dataclass(frozen=True)
class Length(TemperedObjective[Tensor]):
    """Passage length: what a good teacher must beat, since long passages hold answers more often.

    The reader is not asked.
    """

    name: ClassVar[str] = "length"
    uses_reader: ClassVar[bool] = False

    def read(self, reader: Passes, batch: Batch) -> Float[Tensor, "batch passages"]:
        """Words of each passage's text."""
        words = [[len(passage.text.split()) for passage in found] for found in batch.passages]
        return torch.tensor(words, dtype=torch.float32)

    def passage_scores(
        self, output: Float[Tensor, "batch passages"], log_p_retr: Float[Tensor, "batch passages"]
    ) -> Float[Tensor, "batch passages"]:
        """log(words): the score by which `lightning_modules.length_control` lengthens passages, too."""
        return output.clamp(min=1).log().to(log_p_retr.device)
