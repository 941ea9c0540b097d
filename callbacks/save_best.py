"""The checkpoint of the validation that was best, among those that can be compared."""

from typing import Any

from lightning import LightningModule, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint

from callbacks.refresh_index import searches_stale_index


class SaveBest(ModelCheckpoint):
    """Lightning's `ModelCheckpoint`, which leaves out the validations on a stale index.

    What an index of older weights finds says little of the present ones, and the start, which a checkpoint
    has to beat, was measured on a fresh index.

    Attributes:
        num_left_out: validations so far.
    """

    num_left_out = 0

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if searches_stale_index(pl_module):
            self.num_left_out += 1
        else:
            super().on_validation_end(trainer, pl_module)

    @property
    def left_out_all(self) -> bool:
        """Whether there were validations, and none that a checkpoint could be chosen by."""
        return self.num_left_out > 0 and self.best_model_score is None

    # ---- resuming ----

    def state_dict(self) -> dict[str, Any]:
        return {**super().state_dict(), "num_left_out": self.num_left_out}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        super().load_state_dict(state_dict)
        self.num_left_out = state_dict["num_left_out"]
        # which Lightning saves and does not load: a run may be resumed after its last validation
        self.current_score = state_dict["current_score"]
