"""Training from Python in one call."""

import pytest
import torch

from experiments.distil import distil
from lightning_modules.objectives import Uniform
from tests.tiny_models import tiny_reader, tiny_retriever, toy_passages, toy_questions
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


def test_the_signals_of_a_reader_teach_where_nothing_else_is_said(tmp_path):
    made = distilled(tmp_path, reader=tiny_reader(context="independent"))
    assert made.module.objective.name == "signals"
    assert "indicator1/spearman_p90" in made.before


def test_weights_that_are_no_better_are_not_kept(tmp_path):
    made = distilled(tmp_path, objective=Uniform(), learning_rate=0.0)
    assert made.best_step is None
    assert made.after == pytest.approx(made.before, nan_ok=True)
    start = tiny_retriever(normalize=True).state_dict()
    assert all(torch.equal(weight, start[name]) for name, weight in made.retriever.state_dict().items())


def test_what_is_missing_is_said(tmp_path):
    with pytest.raises(ValueError, match="reader: objective signals asks one, and there is none"):
        distilled(tmp_path)
    with pytest.raises(ValueError, match="questions: no split 'test'"):
        distil({"train": toy_questions(), "validation": toy_questions()}, toy_passages(), "unused")
