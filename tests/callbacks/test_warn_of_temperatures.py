"""Temperatures that leave nothing to learn are named before training, with ones that fit."""

import logging

import pytest
import torch

from callbacks.refresh_index import RefreshIndex
from callbacks.warn_of_temperatures import USEFUL_SPREAD, WarnOfTemperatures, describe
from lightning_modules.metrics.teacher_checks import relative_entropy_of
from tests.toy_training import LIGHTNING_ADVICE, toy_datamodule, toy_module, toy_trainer

pytestmark = pytest.mark.filterwarnings(*LIGHTNING_ADVICE)


def warning_of(scores, temperature, is_tempered=True):
    log_p = (scores / temperature).log_softmax(dim=-1)
    spreads = log_p.std(dim=-1, correction=0)
    given = temperature if is_tempered else None
    return describe("target", relative_entropy_of(log_p), spreads, given, "tau")


def scores(size, questions=20):
    return torch.randn(questions, 8, generator=torch.Generator().manual_seed(0)) * size


@pytest.mark.parametrize(("size", "kind"), [(100.0, "one-hot"), (0.001, "flat")])
def test_the_temperature_to_use_gives_a_useful_spread(size, kind):
    said = warning_of(scores(size), 1.0)
    assert said.startswith(f"target is {kind} for")
    fitting = float(said.rpartition("tau=")[2])
    spread = (scores(size) / fitting).std(dim=-1, correction=0).median()
    assert spread == pytest.approx(USEFUL_SPREAD, rel=0.05)
    assert warning_of(scores(size), fitting) is None


def test_a_temperature_that_fits_is_not_spoken_of():
    assert warning_of(scores(1.0), 0.5) is None


def test_most_questions_must_be_so():
    mixed = torch.cat([scores(100.0, 9), scores(1.0, 11)])
    assert warning_of(mixed, 1.0) is None
    assert warning_of(scores(100.0, 3), 1.0) is None, "three questions are too few"


def test_without_a_temperature_there_is_none_to_recommend():
    assert "tau" not in warning_of(scores(100.0), 1.0, is_tempered=False)
    assert "are all equal" in warning_of(torch.zeros(9, 4), 1.0)


def test_the_first_validation_says_it_once(tmp_path, caplog):
    caplog.set_level(logging.WARNING)
    module = toy_module(tmp_path, attention_temperature=1e-5, retrieval_temperature=0.05)
    index = RefreshIndex("-1", tmp_path / "index", batch_size=8, show_progress=False)
    trainer = toy_trainer(
        tmp_path, [index, WarnOfTemperatures("objective.tau")], limit_val_batches=1.0, val_check_interval=2
    )
    trainer.validate(module, toy_datamodule(), verbose=False)
    said = [record.message for record in caplog.records if "one-hot" in record.message]
    assert len(said) == 1
    assert said[0].startswith(
        "target is one-hot for 100% of 4 questions at the start: objective.tau=1e-05 does"
    )
    caplog.clear()
    trainer.fit(module, toy_datamodule())
    assert not [record for record in caplog.records if "one-hot" in record.message]
