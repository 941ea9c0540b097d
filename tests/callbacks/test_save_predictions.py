"""A line for each test question that was read."""

import json

import pytest

from callbacks.refresh_index import RefreshIndex
from callbacks.save_predictions import SavePredictions
from lightning_modules.metrics.answers import exact_match, f1_score
from tests.toy_training import LIGHTNING_ADVICE, toy_datamodule, toy_module, toy_trainer

pytestmark = pytest.mark.filterwarnings(*LIGHTNING_ADVICE)


def evaluate(folder, stage="test", times=1, **settings):
    path = folder / "predictions.jsonl"
    index = RefreshIndex("-1", folder / "index", show_progress=False)
    trainer = toy_trainer(folder, [index, SavePredictions(path)], limit_val_batches=1.0)
    module, datamodule = toy_module(folder, **settings), toy_datamodule()
    for _ in range(times):
        getattr(trainer, stage)(module, datamodule, verbose=False)
    readings = {name: float(value) for name, value in trainer.callback_metrics.items()}
    lines = path.read_text().splitlines() if path.is_file() else None
    return lines and [json.loads(line) for line in lines], readings, datamodule


def test_a_line_each_in_the_latest_test(tmp_path):
    records, readings, datamodule = evaluate(tmp_path, times=2)
    assert [record["id"] for record in records] == [question.id for question in datamodule.test]
    for record, question in zip(records, datamodule.test, strict=True):
        assert (record["question"], record["answers"]) == (question.text, list(question.answers))
        assert record["em"] == exact_match(record["prediction"], question.answers)
        assert record["f1"] == f1_score(record["prediction"], question.answers)
        assert len(record["passages"]) == len(record["holds_answer"]) == 5
        gold = f"c{question.id.removeprefix('q')}"
        assert record["holds_answer"] == [passage == gold for passage in record["passages"]]
    hits = [any(record["holds_answer"]) for record in records]
    assert sum(hits) / len(hits) == pytest.approx(readings["test/hr_at_5"])
    assert sum(record["em"] for record in records) / len(records) == pytest.approx(readings["test/em"])
    assert not list(tmp_path.glob("*.partial"))


def test_only_questions_that_were_read(tmp_path):
    records, _, datamodule = evaluate(tmp_path, num_read=3)
    assert [record["id"] for record in records] == [question.id for question in datamodule.test[:3]]


@pytest.mark.parametrize("settings", [{"stage": "validate"}, {"generate": False}])
def test_no_file_without_predictions(tmp_path, settings):
    records, _, _ = evaluate(tmp_path, **settings)
    assert records is None
