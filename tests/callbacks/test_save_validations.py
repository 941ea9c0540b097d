"""The metrics of each validation, once each, whatever interrupts the run."""

import json
import math

import pytest
from lightning import Callback

from callbacks.refresh_index import RefreshIndex
from callbacks.save_last import SaveLast
from callbacks.save_validations import SaveValidations
from tests.toy_training import LIGHTNING_ADVICE, toy_datamodule, toy_module, toy_trainer

pytestmark = pytest.mark.filterwarnings(*LIGHTNING_ADVICE)


class KilledError(Exception):
    pass


class KillAt(Callback):
    def __init__(self, step: int) -> None:
        self.step = step

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx) -> None:
        if trainer.global_step == self.step:
            raise KilledError


class LogNotFinite(Callback):
    def on_validation_epoch_end(self, trainer, pl_module) -> None:
        pl_module.log("indicator1/never", math.nan)


def prepare(folder, every=1, *others):
    callbacks = [
        RefreshIndex("-1", folder / "index", show_progress=False, before_validation=True),
        LogNotFinite(),
        SaveValidations(folder / "validations.jsonl"),
        SaveLast(folder / "last.ckpt", every),
        *others,
    ]
    settings = {"max_steps": 6, "limit_val_batches": 1.0, "val_check_interval": 2}
    return toy_trainer(folder, callbacks, **settings), toy_module(folder), toy_datamodule(batch_size=4)


def lines(folder) -> list[dict]:
    return [json.loads(line) for line in (folder / "validations.jsonl").read_text().splitlines()]


def test_a_line_each(tmp_path):
    trainer, module, datamodule = prepare(tmp_path)
    trainer.validate(module, datamodule, verbose=False)
    start = float(trainer.callback_metrics["validation/hr_at_5"])
    trainer.fit(module, datamodule, weights_only=True)
    found = lines(tmp_path)
    assert [line["step"] for line in found] == [0, 2, 4, 6]
    assert found[0]["metrics"]["validation/hr_at_5"] == start
    last = {name: float(value) for name, value in trainer.callback_metrics.items()}
    assert any(name.startswith("train/") for name in last)
    kept = {name: value for name, value in last.items() if name.startswith("validation/")}
    assert found[-1]["metrics"] == kept
    assert {"validation/hr_at_1", "validation/hr_at_5", "validation/em", "validation/kl"} <= set(kept)
    assert not list(tmp_path.glob("*.partial"))


@pytest.mark.parametrize("every", [1, 3])
def test_a_resumed_run_writes_no_step_twice(tmp_path, every):
    """Killed at step 5: its last checkpoint is of step 5, or of step 3, before the validation at 4."""
    for name in ("whole", "killed"):
        (tmp_path / name).mkdir()
    trainer, module, datamodule = prepare(tmp_path / "whole", every)
    trainer.validate(module, datamodule, verbose=False)
    trainer.fit(module, datamodule, weights_only=True)
    folder = tmp_path / "killed"
    trainer, module, datamodule = prepare(folder, every, KillAt(5))
    trainer.validate(module, datamodule, verbose=False)
    with pytest.raises(KilledError):
        trainer.fit(module, datamodule, weights_only=True)
    assert [line["step"] for line in lines(folder)] == [0, 2, 4]
    trainer, module, datamodule = prepare(folder, every)
    trainer.fit(module, datamodule, ckpt_path=folder / "last.ckpt", weights_only=True)
    assert [line["step"] for line in lines(folder)] == [0, 2, 4, 6]
    assert [line["metrics"] for line in lines(folder)] == [
        pytest.approx(line["metrics"]) for line in lines(tmp_path / "whole")
    ]
