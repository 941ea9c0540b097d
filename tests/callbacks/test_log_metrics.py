"""Metrics of one's own beside those of the suite."""

import pytest
import torch

from callbacks.log_metrics import LogMetrics
from callbacks.refresh_index import RefreshIndex
from tests.toy_training import LIGHTNING_ADVICE, toy_datamodule, toy_module, toy_trainer

pytestmark = pytest.mark.filterwarnings(*LIGHTNING_ADVICE)


def hit_rate(evaluation):
    return evaluation.is_hit[:, :5].any(dim=1).float()


def hits_where_any(evaluation):
    """Of the questions with a hit alone."""
    found = hit_rate(evaluation)
    return torch.where(found > 0, found, torch.nan)


def test_they_are_means_over_questions(tmp_path):
    index = RefreshIndex("-1", tmp_path / "index", show_progress=False)
    metrics = LogMetrics({"mine": hit_rate, "defined": hits_where_any})
    trainer = toy_trainer(tmp_path, [index, metrics], limit_val_batches=1.0)
    # batches of 3 and 1: the mean of their means would be another
    module, data = toy_module(tmp_path, num_read=0), toy_datamodule(evaluation_batch_size=3)
    for _ in range(2):  # each evaluation begins anew
        trainer.validate(module, data, verbose=False)
        found = trainer.callback_metrics
        assert found["validation/mine"] == pytest.approx(float(found["validation/hr_at_5"]))
        assert found["validation/defined"] == 1
    trainer.test(module, data, verbose=False)
    assert trainer.callback_metrics["test/mine"] == pytest.approx(
        float(trainer.callback_metrics["test/hr_at_5"])
    )


def test_a_value_for_each_question_is_asked_for(tmp_path):
    index = RefreshIndex("-1", tmp_path / "index", show_progress=False)
    trainer = toy_trainer(
        tmp_path, [index, LogMetrics({"mine": lambda evaluation: torch.zeros(1)})], limit_val_batches=1.0
    )
    with pytest.raises(ValueError, match=r"metric 'mine' gave a tensor of shape \[1\] for 2 questions"):
        trainer.validate(toy_module(tmp_path, num_read=0), toy_datamodule(), verbose=False)
