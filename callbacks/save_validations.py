"""Keeps the metrics of every validation, for curves."""

import json
import math
from pathlib import Path

from lightning import Callback, LightningModule, Trainer

from datamodules.text_files import write_whole

_NOT_OF_VALIDATIONS = ("train/", "time/", "test/")


class SaveValidations(Callback):
    """Writes a JSON line for each validation: `{"step": N, "metrics": {"validation/hr_at_5": 0.5, ...}}`.

    Metrics that are not finite are left out. A resumed run validates again from where it goes on, so a
    line replaces all those of its step and later ones.

    Args:
        path: of the JSONL file.
    """

    def __init__(self, path: Path | str) -> None:
        self.path = Path(path)

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if trainer.sanity_checking or not trainer.is_global_zero:
            return
        metrics = {
            name: float(value)
            for name, value in sorted(trainer.callback_metrics.items())
            # the step that Lightning is told for the loggers stands beside the metrics
            if name != "step" and not name.startswith(_NOT_OF_VALIDATIONS) and math.isfinite(value)
        }
        step = trainer.global_step
        earlier = self.path.read_text().splitlines() if self.path.is_file() else []
        lines = [line for line in earlier if json.loads(line)["step"] < step]
        lines.append(json.dumps({"step": step, "metrics": metrics}))
        write_whole(self.path, "\n".join(lines) + "\n")
