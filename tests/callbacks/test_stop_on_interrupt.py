"""Ctrl-C: what is in hand is finished, and a run can go on from what was saved."""

import os
import signal

import pytest
import torch
from lightning import Callback

from callbacks.refresh_index import RefreshIndex
from callbacks.save_last import SaveLast
from callbacks.stop_on_interrupt import RunInterrupted, StopOnInterrupt
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
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    with pytest.raises(error):
        getattr(trainer, stage)(toy_module(folder), toy_datamodule())
    after = {number: signal.getsignal(number) for number in before}
    assert after == before, "the handlers are back"
    return torch.load(checkpoint, weights_only=True)["global_step"] if checkpoint.is_file() else None


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_the_batch_is_finished_and_saved(tmp_path, number, capsys):
    interrupt = Interrupt("train", 1, number)
    assert interrupted(tmp_path, interrupt) == 2
    assert interrupt.finished == ["step 0", "step 1"]
    assert "press Ctrl-C again" in capsys.readouterr().err


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
