"""The best checkpoint is one of a validation that can be compared with the start."""

import math

import pytest
import torch
from lightning import Callback

from callbacks.refresh_index import RefreshIndex
from callbacks.save_best import SaveBest
from callbacks.save_last import SaveLast
from tests.toy_training import LIGHTNING_ADVICE, toy_datamodule, toy_module, toy_trainer

pytestmark = pytest.mark.filterwarnings(*LIGHTNING_ADVICE)


class Script(Callback):
    """Logs a reading that is best after the first step and falls from there."""

    def on_validation_epoch_end(self, trainer, pl_module) -> None:
        pl_module.log("reading", 1.0 / trainer.global_step)


def fit(folder, schedule, max_steps=6, ckpt_path=None) -> SaveBest:
    best = SaveBest(folder / "best", "reading")
    index = RefreshIndex(schedule, folder / "index", show_progress=False)
    trainer = toy_trainer(
        folder,
        [index, Script(), best, SaveLast(folder / "last.ckpt", 1)],
        max_steps=max_steps,
        limit_val_batches=1,
        val_check_interval=1,
    )
    trainer.fit(toy_module(folder), toy_datamodule(), ckpt_path=ckpt_path, weights_only=True)
    return best


@pytest.mark.parametrize(("schedule", "step", "num_left_out"), [("1", 1, 0), ("0-9:2", 2, 3), ("4", 4, 5)])
def test_the_best_of_the_fresh_validations_is_kept(tmp_path, schedule, step, num_left_out):
    best = fit(tmp_path, schedule)
    assert torch.load(best.path, weights_only=True)["global_step"] == best.step == step
    assert (best.num_left_out, best.left_out_all) == (num_left_out, False)


def test_none_is_kept_where_none_was_fresh(tmp_path):
    best = fit(tmp_path, "-1")
    assert (best.path, best.num_left_out, best.left_out_all) == (None, 6, True)


def test_a_resumed_run_knows_what_was_left_out(tmp_path):
    fit(tmp_path, "-1", max_steps=2)
    assert fit(tmp_path, "-1", max_steps=3, ckpt_path=tmp_path / "last.ckpt").num_left_out == 3


@pytest.mark.parametrize(
    ("score", "start", "is_better"),
    [
        (0.3, 0.2, True),
        (0.2, 0.2, False),
        (0.0, math.nan, True),
        (-math.inf, math.nan, False),  # as undefined as the start
        (-math.inf, 0.0, False),
        (None, math.nan, False),
    ],
)
def test_any_value_beats_an_undefined_start(tmp_path, score, start, is_better):
    best = SaveBest(tmp_path, "reading")
    best.score = score
    assert best.beats(start) is is_better
