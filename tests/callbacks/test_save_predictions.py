"""A line for each test question, with what was measured on it."""

import json
import math

import pytest

from callbacks.log_indicators import LogIndicators
from callbacks.refresh_index import RefreshIndex
from callbacks.save_predictions import SavePredictions
from datamodules.trec import read_run
from lightning_modules.metrics.answers import exact_match, f1_score
from tests.toy_training import LIGHTNING_ADVICE, toy_datamodule, toy_module, toy_trainer

pytestmark = pytest.mark.filterwarnings(*LIGHTNING_ADVICE)


def evaluate(folder, stage="test", times=1, **settings):
    path = folder / "predictions.jsonl"
    index = RefreshIndex("-1", folder / "index", show_progress=False)
    indicators = LogIndicators()
    # metrics are complete at the end of the epoch, so the order of the two must not matter
    callbacks = [index, SavePredictions(path, indicators), indicators]
    trainer = toy_trainer(folder, callbacks, limit_val_batches=1.0)
    module, datamodule = toy_module(folder, **settings), toy_datamodule()
    for _ in range(times):
        getattr(trainer, stage)(module, datamodule, verbose=False)
    logged = {name: float(value) for name, value in trainer.callback_metrics.items()}
    lines = path.read_text().splitlines() if path.is_file() else None
    return lines and [json.loads(line) for line in lines], logged, datamodule


def test_a_line_each_in_the_latest_test(tmp_path):
    records, logged, datamodule = evaluate(tmp_path, times=2)
    assert [record["id"] for record in records] == [question.id for question in datamodule.test]
    for record, question in zip(records, datamodule.test, strict=True):
        assert (record["question"], record["answers"]) == (question.text, list(question.answers))
        assert record["em"] == exact_match(record["prediction"], question.answers)
        assert record["f1"] == f1_score(record["prediction"], question.answers)
        assert len(record["passages"]) == len(record["holds_answer"]) == 5
        gold = f"c{question.id.removeprefix('q')}"
        assert record["holds_answer"] == [passage == gold for passage in record["passages"]]
        expected = record["passages"].index(gold) if gold in record["passages"] else None
        assert record["first_hit_rank"] == expected
    hits = [record["first_hit_rank"] is not None for record in records]
    assert 0 < sum(hits) < len(hits)
    assert sum(hits) / len(hits) == pytest.approx(logged["test/hr_at_5"])
    assert sum(record["em"] for record in records) / len(records) == pytest.approx(logged["test/em"])
    assert not list(tmp_path.glob("*.partial"))


def test_the_run_and_the_judgements_for_trec_tools(tmp_path):
    records, *_ = evaluate(tmp_path)
    found = read_run(tmp_path / "predictions.run.trec")
    assert {of: [id for id, _ in ranked] for of, ranked in found.items()} == {
        record["id"]: record["passages"] for record in records
    }
    lines = [line.split() for line in (tmp_path / "predictions.qrels.trec").read_text().splitlines()]
    assert len(lines) == 5 * len(records)
    relevant = {(of, id) for of, _, id, relevance in lines if relevance == "1"}
    assert relevant == {
        (record["id"], id)
        for record in records
        for id, holds in zip(record["passages"], record["holds_answer"], strict=True)
        if holds
    }


def test_metrics_of_each_question(tmp_path):
    records, logged, _ = evaluate(tmp_path)
    undefined = 0
    for name in ("indicator1/spearman_p90", "indicator2/attention_p95", "teacher/auc"):
        values = [record["metrics"][name] for record in records]
        defined = [value for value in values if value is not None]
        undefined += len(values) - len(defined)
        expected = logged[f"test/{name}"]
        if defined:
            assert sum(defined) / len(defined) == pytest.approx(expected, abs=1e-6)
        else:
            assert math.isnan(expected)
    assert undefined, "no passage that holds the answer was found, so no AUC"


def test_questions_that_were_only_retrieved_for(tmp_path):
    records, _, datamodule = evaluate(tmp_path, num_read=3)
    assert [record["id"] for record in records] == [question.id for question in datamodule.test]
    for name in ("prediction", "em", "f1", "metrics"):
        assert [name in record for record in records] == [True] * 3 + [False] * 3
    assert all("first_hit_rank" in record for record in records)


def test_metrics_without_answers(tmp_path):
    records, _, _ = evaluate(tmp_path, generate=False)
    assert all("metrics" in record and "prediction" not in record for record in records)


def test_no_file_of_a_validation(tmp_path):
    records, _, _ = evaluate(tmp_path, stage="validate")
    assert records is None
