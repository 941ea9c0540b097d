"""What counts as a step's or an evaluation's time."""

from types import SimpleNamespace

import pytest
from lightning import Callback
from lightning.pytorch.callbacks import Checkpoint

from callbacks.refresh_index import RefreshIndex
from callbacks.time_stages import TimeStages
from lightning_modules import part_timer
from tests.toy_training import LIGHTNING_ADVICE, toy_datamodule, toy_module, toy_trainer

pytestmark = pytest.mark.filterwarnings(*LIGHTNING_ADVICE)


def test_what_is_done_before_and_what_is_saved_after_do_not_count(tmp_path, monkeypatch):
    clock = SimpleNamespace(now=0.0)
    monkeypatch.setattr(part_timer, "time", SimpleNamespace(perf_counter=lambda: clock.now))

    def takes(seconds):
        def advance(self, *_):
            clock.now += seconds

        return advance

    class Others(Callback):
        on_train_batch_start = on_validation_epoch_start = on_test_epoch_start = takes(100)
        on_train_batch_end, on_validation_epoch_end, on_test_epoch_end = takes(1), takes(10), takes(20)

    class Save(Checkpoint):
        on_train_batch_end = on_validation_end = takes(1000)

    index = RefreshIndex("-1", tmp_path / "index", show_progress=False)
    callbacks = [Save(), index, Others(), TimeStages()]
    trainer = toy_trainer(tmp_path, callbacks, limit_val_batches=1, val_check_interval=2)
    module = toy_module(tmp_path)
    trainer.fit(module, toy_datamodule())
    trainer.test(module, toy_datamodule(), verbose=False)
    stages = {name: module.timer.totals_s[name] for name in ("steps", "validation", "testing")}
    assert stages == {"steps": 4, "validation": 2 * 10, "testing": 20}
