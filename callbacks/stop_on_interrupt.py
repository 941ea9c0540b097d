"""Ctrl-C, or a scheduler, ends a run cleanly, with a checkpoint."""

import contextlib
import signal
import sys
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NoReturn

from lightning import Callback, LightningModule, Trainer
from lightning.pytorch.trainer.states import TrainerFn

from callbacks.save_last import ends_step, validation_follows

SCHEDULER_SIGNALS = (signal.SIGTERM, signal.SIGUSR1, signal.SIGHUP)
"""What schedulers and terminals send to a run that they are about to end."""


class RunInterrupted(BaseException):
    """A signal: the work in hand was finished and, between validations, a checkpoint was saved.

    Attributes:
        by_scheduler: whether it was one of `SCHEDULER_SIGNALS`, after which the run should be started again;
            False = Ctrl-C.
    """

    def __init__(self, by_scheduler: bool = False) -> None:
        super().__init__(by_scheduler)
        self.by_scheduler = by_scheduler


@contextmanager
def interrupted_by_scheduler() -> Iterator[None]:
    """Inside, the signals of a scheduler raise `RunInterrupted` at once, where no trainer is at work.

    One that is ignored, as `nohup` has it, stays so.
    """

    def interrupt(number: int, frame: Any) -> None:
        raise RunInterrupted(by_scheduler=True)

    previous = _install(SCHEDULER_SIGNALS, interrupt)
    try:
        yield
    finally:
        _restore(previous)


class StopOnInterrupt(Callback):
    """Finishes the batch in hand after Ctrl-C or a scheduler's signal, saves, and raises `RunInterrupted`.

    Where gradients are accumulated it is the optimizer step that is finished. In a validation nothing is
    saved: the run goes on from the last regular checkpoint. Where one of several processes gets the signal,
    all of them stop. A second signal is waited out, but for Ctrl-C, which then interrupts at once.

    Args:
        checkpoint: where a training run is saved.
    """

    def __init__(self, checkpoint: Path | str) -> None:
        self.checkpoint = Path(checkpoint)
        self._is_interrupted = self._by_scheduler = False
        self._previous: dict[signal.Signals, Any] = {}

    # Installed in `setup` they would be Lightning's "original" handlers, which it puts back at the very end.
    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._install()

    on_validation_start = on_test_start = on_train_start

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._restore()

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if trainer.state.fn != TrainerFn.FITTING:
            self._restore()

    on_test_end = on_train_end

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        self._restore()

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        # a step is finished first; one that a validation follows cannot be gone on from (see `SaveLast`)
        if self._decided(trainer) and ends_step(trainer, batch_idx) and not validation_follows(trainer):
            trainer.save_checkpoint(self.checkpoint)
            self._stop(trainer)

    def on_validation_batch_end(self, trainer: Trainer, pl_module: LightningModule, *args: Any) -> None:
        self.stop_if_interrupted(trainer)

    def on_test_batch_end(self, trainer: Trainer, pl_module: LightningModule, *args: Any) -> None:
        self.stop_if_interrupted(trainer)

    def stop_if_interrupted(self, trainer: Trainer) -> None:
        """For what takes long within a step or a validation: nothing is saved, as in a validation."""
        if self._decided(trainer):
            self._stop(trainer)

    def _decided(self, trainer: Trainer) -> bool:
        """Whether any process was interrupted."""
        return trainer.strategy.reduce_boolean_decision(self._is_interrupted, all=False)

    def _stop(self, trainer: Trainer) -> NoReturn:
        raise RunInterrupted(trainer.strategy.reduce_boolean_decision(self._by_scheduler, all=False))

    def _note(self, number: int, frame: Any) -> None:
        is_ctrl_c = number == signal.SIGINT
        if self._is_interrupted and is_ctrl_c:
            raise KeyboardInterrupt
        if not self._is_interrupted:
            name = "" if is_ctrl_c else f"{signal.Signals(number).name}: "
            with contextlib.suppress(OSError):  # the terminal may be gone
                print(
                    f"\n{name}finishing the step in hand, then stopping; press Ctrl-C "
                    f"{'again ' if is_ctrl_c else ''}to stop at once",
                    file=sys.stderr,
                )
        self._is_interrupted = True
        self._by_scheduler = self._by_scheduler or not is_ctrl_c

    def _install(self) -> None:
        if not self._previous:
            self._previous = _install((signal.SIGINT, *SCHEDULER_SIGNALS), self._note)

    def _restore(self) -> None:
        _restore(self._previous)
        self._previous = {}


def stop_if_interrupted(trainer: Trainer) -> None:
    """Ends a long piece of work, such as an encoding, after a signal; all processes ask equally often.

    Raises:
        RunInterrupted: any process was told to stop, and the trainer has a `StopOnInterrupt`.
    """
    for callback in trainer.callbacks:  # type: ignore[attr-defined]
        if isinstance(callback, StopOnInterrupt):
            callback.stop_if_interrupted(trainer)


def _install(signals: Sequence[signal.Signals], handler: Any) -> dict[signal.Signals, Any]:
    """Sets a handler, but for signals that are ignored; returns the previous ones."""
    if threading.current_thread() is not threading.main_thread():
        return {}
    heeded = [number for number in signals if signal.getsignal(number) != signal.SIG_IGN]
    return {number: signal.signal(number, handler) for number in heeded}


def _restore(previous: Mapping[signal.Signals, Any]) -> None:
    for number, handler in previous.items():
        signal.signal(number, handler)
