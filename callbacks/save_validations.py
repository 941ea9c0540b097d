"""Keeps the metrics of every validation, for curves."""

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lightning import Callback, LightningModule, Trainer

from datamodules.durable_files import write_durably

_NOT_OF_VALIDATIONS = ("train/", "time/", "test/")


class SaveValidations(Callback):
    """Writes a JSON line for each validation: `{"step": N, "metrics": {"validation/hr_at_5": 0.5, ...}}`.

    Metrics that are not finite are left out. A checkpoint holds the lines up to it, so a resumed run writes
    the file anew, whatever has become of it, and none of its steps twice.

    Args:
        path: of the JSONL file.

    Attributes:
        metrics: of each validation so far, by step.
    """

    def __init__(self, path: Path | str) -> None:
        self.path = Path(path)
        self.metrics: dict[int, dict[str, float]] = {}

    def add(self, step: int, metrics: Mapping[str, Any]) -> None:
        """Puts a validation's metrics in the place of what is known of its step."""
        self.metrics[step] = {
            name: float(value)
            for name, value in sorted(metrics.items())
            # the step that Lightning is told for the loggers stands beside the metrics
            if name != "step" and not name.startswith(_NOT_OF_VALIDATIONS) and math.isfinite(value)
        }

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if self.metrics:
            self._write(trainer)

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if not trainer.sanity_checking:
            self.add(trainer.global_step, trainer.callback_metrics)
            self._write(trainer)

    def _write(self, trainer: Trainer) -> None:
        if trainer.is_global_zero:
            lines = [json.dumps({"step": step, "metrics": self.metrics[step]}) for step in self.metrics]
            write_durably(self.path, "\n".join(lines) + "\n")

    # ---- resuming ----

    def state_dict(self) -> dict[str, Any]:
        return {"metrics": dict(self.metrics)}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.metrics = dict(state_dict["metrics"])
