"""Training from Python in one call."""

import logging
import math
from dataclasses import replace

import pytest
import torch

from experiments import build
from experiments.config import load_config
from experiments.distil import Hardware, distil
from lightning_modules.objectives import ADist, Uniform
from lightning_modules.objectives.signals import Signals
from lightning_modules.optimization import LearningRate
from tests.tiny_models import tiny_reader, tiny_retriever, toy_passages, toy_questions
from tests.toy_files import save_noun_tagger
from tests.toy_training import LIGHTNING_ADVICE

pytestmark = pytest.mark.filterwarnings(*LIGHTNING_ADVICE, "ignore:.*lr_scheduler.*")

TOY = {"max_steps": 2, "validate_every_steps": 1, "batch_size": 2, "accelerator": "cpu"}


def is_gold(question, passage):
    """The limit: a question's own passage, whose number it has."""
    return float(passage.id == f"c{question.id[1:]}")


def distilled(tmp_path, questions=None, **changes):
    settings = {**TOY, "folder": tmp_path / "distilled", **changes}
    asked = questions or toy_questions()
    return distil(asked, toy_passages(), tiny_retriever(normalize=True), **settings)


def test_a_function_teaches(tmp_path):
    splits = dict.fromkeys(("train", "validation", "test"), toy_questions())  # what was learnt, is asked
    longer = {"learning_rate": 5e-3, "max_steps": 30, "validate_every_steps": 10}
    made = distilled(tmp_path, splits, objective=is_gold, **longer)
    assert made.best_step in (10, 20, 30)
    assert made.after["hr_at_5"] > made.before["hr_at_5"]
    assert made.after["hr_at_1"] > made.before["hr_at_1"]


def without_nouns():
    return [replace(question, nouns=()) for question in toy_questions()]


def test_the_signals_of_a_reader_teach_where_nothing_else_is_said(tmp_path, caplog):
    nouns = str(save_noun_tagger(tmp_path / "nouns"))
    made = distilled(tmp_path, without_nouns(), reader=tiny_reader(context="independent"), noun_model=nouns)
    assert made.module.objective.name == "signals"
    for name in ("indicator1/attention_p90", "indicator2/attention_p90", "indicator2/spearman_p90"):
        for measured in (made.before, made.after):
            assert not math.isnan(measured[name]), name
    assert "Indicator 2" not in caplog.text


def test_without_a_noun_tagger_all_else_is_measured_and_a_useless_temperature_is_said(tmp_path, caplog):
    caplog.set_level(logging.WARNING)
    made = distilled(
        tmp_path,
        {**dict.fromkeys(("train", "test"), toy_questions()), "validation": without_nouns()},
        reader=tiny_reader(context="independent"),
        noun_model="no_such_model",
        objective=Signals(scale="standardised", attention_temperature=1e4),
    )
    assert "Indicator 2 is left undefined, since no nouns can be found: the spaCy model 'no_such_model'" in (
        caplog.text
    )
    assert not math.isnan(made.after["indicator2/attention_p90"]), "nouns that questions came with are kept"
    assert "target is flat for 100% of 12 questions at the start: attention_temperature=" in caplog.text


def test_weights_that_are_no_better_are_not_kept(tmp_path):
    made = distilled(tmp_path, objective=Uniform(), learning_rate=0.0)
    assert made.best_step is None
    assert made.after == pytest.approx(made.before, nan_ok=True)
    start = tiny_retriever(normalize=True).state_dict()
    assert all(torch.equal(weight, start[name]) for name, weight in made.retriever.state_dict().items())


def test_a_reader_that_taught_nothing_better_is_not_kept_either(tmp_path):
    """What is measured at the end is the start, in both models."""
    reader = tiny_reader(context="independent")
    start = {name: weight.clone() for name, weight in reader.state_dict().items()}
    rates = {"learning_rate": 0.0, "reader_rate": LearningRate(1e-1)}
    made = distilled(
        tmp_path, reader=reader, objective=ADist(), train_reader=True, noun_model="none", **rates
    )
    assert made.best_step is None
    assert made.module.reader is reader
    assert all(torch.equal(weight, start[name]) for name, weight in reader.state_dict().items())
    assert made.after == pytest.approx(made.before, nan_ok=True)


@pytest.mark.parametrize("has_bf16", [True, False])
@pytest.mark.parametrize("accelerator", ["auto", "gpu", "cpu"])
def test_a_gpu_is_used_as_the_command_line_uses_it(accelerator, has_bf16, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation=True: has_bf16)
    found = Hardware.of(accelerator, trains_reader=False)
    config = load_config("own_data", [f"trainer.accelerator={accelerator}", "reader.dtype=auto"])
    assert found.on_gpu == build.searches_on_gpu(config) == (accelerator != "cpu")
    if found.on_gpu:
        assert found.precision == build.hardware(config)["precision"]
        assert found.reader_dtype == build.reader_dtype(config)
    else:
        assert found == Hardware("cpu", False, "32-true", torch.float32)
    assert Hardware.of(accelerator, trains_reader=True).reader_dtype == torch.float32


def test_without_a_gpu_nothing_of_it_is_asked_for(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert Hardware.of("auto", trains_reader=False) == Hardware("auto", False, "32-true", torch.float32)
    assert Hardware.of("gpu", trains_reader=False).accelerator == "gpu", "Lightning refuses it"


def test_what_is_missing_is_said(tmp_path):
    with pytest.raises(ValueError, match="reader: objective signals asks one, and there is none"):
        distilled(tmp_path)
    with pytest.raises(ValueError, match="questions: no split 'test'"):
        distil({"train": toy_questions(), "validation": toy_questions()}, toy_passages(), "unused")
