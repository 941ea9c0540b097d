"""Scripted readings in a real Trainer: when a run stops, when it goes on, and what it says."""

import math

import lightning as L
import pytest
import torch
from torchdata.stateful_dataloader import StatefulDataLoader

from callbacks.save_last import SaveLast
from callbacks.stop_on_indicators import StopOnIndicators
from tests.toy_training import LIGHTNING_ADVICE, toy_trainer

pytestmark = pytest.mark.filterwarnings(*LIGHTNING_ADVICE)

MONITOR = "indicator1/spearman_p90"


class Scripted(L.LightningModule):
    """Logs the readings one after the other, a validation each: at the start, then after every step."""

    def __init__(self, readings: list[float]) -> None:
        super().__init__()
        self.readings = list(readings)
        self.weight = torch.nn.Parameter(torch.zeros(1))

    def training_step(self, batch, batch_idx):
        return self.weight.sum()

    def validation_step(self, batch, batch_idx):
        self.log(MONITOR, self.readings.pop(0))

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.1)


def loader() -> StatefulDataLoader:
    return StatefulDataLoader([0.0] * 20)


def run(folder, readings, callbacks=(), ckpt_path=None, with_start=True, **settings):
    """The callback and the number of steps done; the first reading is the start's."""
    stopping = StopOnIndicators(**{"margin": 0.1, "patience": 2, **settings})
    module = Scripted(readings)
    trainer = toy_trainer(
        folder,
        [stopping, *callbacks],
        max_steps=len(readings) - with_start + (0 if ckpt_path is None else 2),
        limit_val_batches=1,
        val_check_interval=1,
    )
    if with_start:
        trainer.validate(module, loader(), verbose=False)
    trainer.fit(module, loader(), loader(), ckpt_path=ckpt_path, weights_only=True)
    return stopping, trainer.global_step


def test_the_start_is_the_baseline_and_no_validation_counts_before_it(tmp_path):
    stopping, steps = run(tmp_path, [0.5, 0.5, 0.5])
    assert stopping.baseline == pytest.approx(0.5)
    assert (stopping.reason, steps) == (None, 2)


def test_a_known_start_stays(tmp_path):
    stopping, steps = run(tmp_path, [0.3, 0.3, 0.3, 0.3], baseline=0.9, with_start=False)
    assert stopping.baseline == 0.9
    assert (stopping.reason, steps) == ("ineffective", 2)


def test_a_drop_within_the_margin_goes_on(tmp_path):
    stopping, steps = run(tmp_path, [0.5] + [0.41] * 6)
    assert (stopping.reason, steps, stopping.wait_count) == (None, 6, 0)


@pytest.mark.parametrize("patience", [1, 2, 3])
def test_a_larger_drop_stops_after_patience_validations(tmp_path, patience):
    stopping, steps = run(tmp_path, [0.5, 0.5] + [0.39] * 6, patience=patience)
    assert (stopping.reason, steps) == ("ineffective", 1 + patience)
    message = stopping.stopping_reason_message
    for part in (MONITOR, "0.390", "0.500", "0.100", f"{patience} validations in a row"):
        assert part in message


def test_recovery_resets_the_count(tmp_path):
    stopping, steps = run(tmp_path, [0.5, 0.3, 0.5, 0.3, 0.45, 0.3, 0.5])
    assert (stopping.reason, steps) == (None, 6)


def test_undefined_counts_as_below(tmp_path):
    stopping, steps = run(tmp_path, [0.5, 0.5, math.nan, 0.3, 0.5])
    assert (stopping.reason, steps) == ("ineffective", 3)


def test_an_undefined_start_is_compared_with_nothing(tmp_path):
    stopping, steps = run(tmp_path, [math.nan, 0.1, 0.0, -0.5])
    assert (stopping.reason, steps) == (None, 3)


def test_a_target_stops_at_once(tmp_path):
    stopping, steps = run(tmp_path, [0.5, 0.6, 0.75, 0.8], target=0.7)
    assert (stopping.reason, steps) == ("target", 2)
    assert f"{MONITOR} = 0.750 reached the target 0.700" in stopping.stopping_reason_message


def test_without_target_a_good_reading_goes_on(tmp_path):
    stopping, steps = run(tmp_path, [0.5, 0.9, 1.0])
    assert (stopping.reason, steps) == (None, 2)


def test_state_survives_a_checkpoint(tmp_path):
    path = tmp_path / "last.ckpt"
    run(tmp_path, [0.5, 0.5, 0.3], [SaveLast(path, 1)])
    resumed, steps = run(
        tmp_path, [0.3, 0.3], [SaveLast(tmp_path / "new.ckpt", 99)], ckpt_path=path, with_start=False
    )
    assert resumed.baseline == pytest.approx(0.5)
    assert (resumed.reason, steps) == ("ineffective", 3), "one validation below was in the checkpoint"


def test_settings_win_over_the_checkpoint(tmp_path):
    path = tmp_path / "last.ckpt"
    run(tmp_path, [0.5, 0.5, 0.3], [SaveLast(path, 1)])
    resumed, _ = run(
        tmp_path,
        [0.3, 0.3],
        [SaveLast(tmp_path / "new.ckpt", 99)],
        ckpt_path=path,
        with_start=False,
        patience=9,
    )
    assert (resumed.patience, resumed.reason) == (9, None)


def test_a_run_that_had_stopped_stays_stopped(tmp_path):
    path = tmp_path / "last.ckpt"
    first, steps = run(tmp_path, [0.5, 0.3, 0.3, 0.3], [SaveLast(path, 1)])
    assert steps == 2
    resumed, steps = run(
        tmp_path, [0.5] * 4, [SaveLast(tmp_path / "new.ckpt", 99)], ckpt_path=path, with_start=False
    )
    assert steps == 2
    assert (resumed.reason, resumed.stopping_reason_message) == (
        "ineffective",
        first.stopping_reason_message,
    )


@pytest.mark.parametrize("settings", [{"margin": -0.1}, {"patience": 0}, {"patience": -1}])
def test_bad_arguments_are_refused(settings):
    with pytest.raises(ValueError, match="must not be negative and patience"):
        StopOnIndicators(**settings)
