"""Ctrl-C: what is in hand is finished, and a run can go on from what was saved."""

import os
import signal

import pytest
import torch
from lightning import Callback

from callbacks.refresh_index import RefreshIndex
from callbacks.save_last import SaveLast
from callbacks.stop_on_interrupt import (
    SCHEDULER_SIGNALS,
    RunInterrupted,
    StopOnInterrupt,
    interrupted_by_scheduler,
)
from tests.toy_training import LIGHTNING_ADVICE, toy_datamodule, toy_module, toy_trainer

pytestmark = pytest.mark.filterwarnings(*LIGHTNING_ADVICE)


class Interrupt(Callback):
    """Sends signals to this very process in the middle of a batch."""

    def __init__(self, hook: str, batch: int, *signals: int) -> None:
        self.hook, self.batch, self.signals = hook, batch, signals
        self.finished: list[str] = []

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx) -> None:
        self._send("train", batch_idx)

    def on_validation_batch_start(self, trainer, pl_module, batch, batch_idx, dataloader_idx=0) -> None:
        self._send("validation", batch_idx)

    on_test_batch_start = on_validation_batch_start

    def on_before_optimizer_step(self, trainer, pl_module, optimizer) -> None:
        self.finished.append(f"step {trainer.global_step}")

    def _send(self, hook, batch_idx) -> None:
        if (hook, batch_idx) == (self.hook, self.batch):
            for number in self.signals:
                os.kill(os.getpid(), number)


def interrupted(folder, interrupt, error=RunInterrupted, stage="fit", **settings):
    """Whether a checkpoint was saved, and its step."""
    checkpoint = folder / "last.ckpt"
    index = RefreshIndex("-1", folder / "index", show_progress=False)
    trainer = toy_trainer(folder, [interrupt, index, StopOnInterrupt(checkpoint)], **settings)
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, *SCHEDULER_SIGNALS)}
    with pytest.raises(error) as raised:
        getattr(trainer, stage)(toy_module(folder), toy_datamodule())
    after = {number: signal.getsignal(number) for number in before}
    assert after == before, "the handlers are back"
    if error is RunInterrupted:
        assert raised.value.by_scheduler == (interrupt.signals[0] != signal.SIGINT)
    return torch.load(checkpoint, weights_only=True)["global_step"] if checkpoint.is_file() else None


@pytest.mark.parametrize("number", [signal.SIGINT, *SCHEDULER_SIGNALS])
def test_the_batch_is_finished_and_saved(tmp_path, number, capsys):
    interrupt = Interrupt("train", 1, number)
    assert interrupted(tmp_path, interrupt) == 2
    assert interrupt.finished == ["step 0", "step 1"]
    said = capsys.readouterr().err
    assert ("press Ctrl-C again" if number == signal.SIGINT else f"{number.name}: finishing the step") in said


def test_a_scheduler_that_insists_is_waited_out(tmp_path):
    interrupt = Interrupt("train", 1, signal.SIGUSR1, signal.SIGTERM, signal.SIGTERM)
    assert interrupted(tmp_path, interrupt) == 2
    assert interrupt.finished == ["step 0", "step 1"]


def test_what_is_ignored_stays_so(tmp_path, monkeypatch):
    """`nohup` ignores that the terminal closes."""
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        interrupt = Interrupt("train", 1, signal.SIGHUP)
        with interrupted_by_scheduler():
            index = RefreshIndex("-1", tmp_path / "index", show_progress=False)
            toy_trainer(tmp_path, [interrupt, index, StopOnInterrupt(tmp_path / "last.ckpt")]).fit(
                toy_module(tmp_path), toy_datamodule()
            )
        assert len(interrupt.finished) == 4
    finally:
        signal.signal(signal.SIGHUP, before)


@pytest.mark.parametrize("number", SCHEDULER_SIGNALS)
def test_where_no_trainer_is_at_work_a_scheduler_interrupts_at_once(number):
    before = signal.getsignal(number)
    with pytest.raises(RunInterrupted) as raised, interrupted_by_scheduler():
        signal.raise_signal(number)
    assert raised.value.by_scheduler
    assert signal.getsignal(number) is before


def test_accumulated_gradients_are_not_lost(tmp_path):
    interrupt = Interrupt("train", 2, signal.SIGINT)
    assert interrupted(tmp_path, interrupt, accumulate_grad_batches=2) == 2
    assert interrupt.finished == ["step 0", "step 1"]


def test_what_was_saved_can_be_gone_on_from(tmp_path):
    assert interrupted(tmp_path, Interrupt("train", 1, signal.SIGINT)) == 2
    index = RefreshIndex("-1", tmp_path / "index", show_progress=False)
    trainer = toy_trainer(tmp_path, [index, SaveLast(tmp_path / "new.ckpt", 99)])
    module, datamodule = toy_module(tmp_path), toy_datamodule()
    trainer.fit(module, datamodule, ckpt_path=tmp_path / "last.ckpt", weights_only=True)
    assert trainer.global_step == 4


def test_a_step_that_a_validation_follows_is_not_saved_without_it(tmp_path):
    interrupt = Interrupt("train", 1, signal.SIGINT)
    assert interrupted(tmp_path, interrupt, limit_val_batches=2, val_check_interval=2) is None
    assert interrupt.finished == ["step 0", "step 1"]


@pytest.mark.parametrize("stage", ["fit", "validate", "test"])
def test_evaluations_end_after_the_batch(tmp_path, stage):
    interrupt = Interrupt("validation", 0, signal.SIGINT)
    settings = {"limit_val_batches": 2, "val_check_interval": 2}
    assert interrupted(tmp_path, interrupt, stage=stage, **settings) is None


def test_a_second_interrupt_ends_at_once(tmp_path):
    interrupt = Interrupt("train", 1, signal.SIGINT, signal.SIGINT)
    assert interrupted(tmp_path, interrupt, error=(KeyboardInterrupt, SystemExit)) is None
    assert interrupt.finished == ["step 0"]


def test_handlers_are_back_after_a_run_that_nobody_interrupted(tmp_path):
    before = signal.getsignal(signal.SIGINT)
    index = RefreshIndex("-1", tmp_path / "index", show_progress=False)
    trainer = toy_trainer(tmp_path, [index, StopOnInterrupt(tmp_path / "last.ckpt")], max_steps=1)
    trainer.fit(toy_module(tmp_path), toy_datamodule())
    assert signal.getsignal(signal.SIGINT) is before
    assert not (tmp_path / "last.ckpt").exists()
