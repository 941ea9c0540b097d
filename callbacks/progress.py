"""Progress of a run: optimizer steps with rate and time left, and a bar for each evaluation."""

import sys
from typing import Any, TextIO

from lightning import Callback, LightningModule, Trainer
from tqdm import tqdm

_PAUSE_S = 30.0
"""Between the lines of a log, and before the first: what takes less leaves it alone, but for downloads."""
_LINE = "{desc}: {n_fmt} of {total_fmt} ({percentage:.0f}%), {rate_fmt}, {remaining} left{postfix}"
_LINE_WITHOUT_END = "{desc}: {n_fmt}, {rate_fmt}{postfix}"


def progress_bar(
    total: int | None, description: str, unit: str, is_shown: bool = True, prefixes: bool = False
) -> tqdm:
    """A bar with rate and time left; where the output is no terminal, lines for a log in its place.

    With `prefixes`, as of downloads, numbers are short, 1.2G instead of 1200000000, and a log also says that
    it begins.
    """
    looks: dict[str, Any] = {"dynamic_ncols": True, "mininterval": 0.5}
    if not sys.stderr.isatty():
        line = _LINE_WITHOUT_END if total is None else _LINE
        looks = {"file": _Lines(sys.stderr), "bar_format": line, "delay": 0.0 if prefixes else _PAUSE_S}
        looks |= {"mininterval": _PAUSE_S, "maxinterval": _PAUSE_S}
    return tqdm(
        total=total,
        desc=description,
        unit=unit if prefixes else f" {unit}",
        unit_scale=prefixes,
        leave=False,
        disable=not is_shown,
        **looks,
    )


class _Lines:
    """A file that what tqdm would write over and over into one line of a terminal becomes lines of."""

    def __init__(self, file: TextIO) -> None:
        self._file = file

    def write(self, text: str) -> None:
        # the unit's space stands before it also where something takes longer than a second: 2.4s/ questions
        if line := text.strip().replace("s/ ", "s/"):
            self._file.write(f"{line}\n")

    def flush(self) -> None:
        self._file.flush()


class StepProgress(Callback):
    """Counts optimizer steps instead of the batches of an epoch, since runs are as long as their steps."""

    def __init__(self) -> None:
        self._training: tqdm | None = None
        self._evaluation: tqdm | None = None

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._training = progress_bar(trainer.max_steps, "Training", "steps", trainer.is_global_zero)
        self._training.update(trainer.global_step)

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *args: Any) -> None:
        if self._training is not None:
            shown = {name: f"{float(v):.3f}" for name, v in trainer.progress_bar_metrics.items()}
            self._training.set_postfix(shown, refresh=False)
            self._training.update(trainer.global_step - self._training.n)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._close()

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        self._close()

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._start_evaluation(trainer, "Validating", trainer.num_val_batches)

    def on_test_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._start_evaluation(trainer, "Testing", trainer.num_test_batches)

    def on_validation_batch_end(self, trainer: Trainer, pl_module: LightningModule, *args: Any) -> None:
        if self._evaluation is not None:
            self._evaluation.update()

    def on_test_batch_end(self, trainer: Trainer, pl_module: LightningModule, *args: Any) -> None:
        self.on_validation_batch_end(trainer, pl_module)

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if self._evaluation is not None:
            self._evaluation.close()
            self._evaluation = None

    on_test_end = on_validation_end

    def _start_evaluation(self, trainer: Trainer, description: str, num_batches: list[Any]) -> None:
        total = int(sum(num_batches))
        self._evaluation = progress_bar(total, description, "batches", trainer.is_global_zero)

    def _close(self) -> None:
        for bar in (self._evaluation, self._training):
            if bar is not None:
                bar.close()
        self._evaluation = self._training = None
