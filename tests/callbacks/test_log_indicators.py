"""What is logged is what the pure functions say of the readings that distillation uses."""

import numpy as np
import pytest
import torch
from lightning import Callback
from lightning.pytorch.loggers import TensorBoardLogger
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from callbacks.log_indicators import InstanceReadings, LogIndicators
from callbacks.refresh_index import RefreshIndex
from lightning_modules.metrics.indicators import AttentionNormalization, indicator_units, instance_means
from lightning_modules.metrics.reading_indicators import reading_units
from lightning_modules.metrics.teacher_auc import teacher_auc
from tests.toy_training import LIGHTNING_ADVICE, toy_datamodule, toy_module, toy_trainer

pytestmark = pytest.mark.filterwarnings(*LIGHTNING_ADVICE)

NAMES = {
    f"indicator{number}/{part}_p{p}"
    for number in (1, 2)
    for part in ("attention", "spearman", "lift")
    for p in (90, 95)
}


class Collect(Callback):
    """Keeps every `Evaluation`."""

    def __init__(self) -> None:
        self.outputs = []

    def on_validation_batch_end(self, trainer, pl_module, outputs, *_args) -> None:
        self.outputs.append(outputs)

    on_test_batch_end = on_validation_batch_end


def evaluate(folder, stage="validate", num_read=None, percentiles=(50, 90), logger=False, **settings):
    collect, indicators = Collect(), LogIndicators(percentiles, **settings)
    index = RefreshIndex("-1", folder / "index", show_progress=False)
    trainer = toy_trainer(folder, [index, indicators, collect], limit_val_batches=1.0, logger=logger)
    # passages with and without answers, so that the teacher can be judged
    module = toy_module(folder, num_passages=20, num_read=num_read)
    getattr(trainer, stage)(module, toy_datamodule(evaluation_batch_size=3), verbose=False)
    logged = {name: float(value) for name, value in trainer.callback_metrics.items()}
    return logged, collect.outputs, indicators


def expected(outputs, target, percentile, normalization=AttentionNormalization.PASSAGE):
    """Attention, Spearman and lift of all questions, and the undefined units."""
    attentions, spearmans, lifts, undefined = [], [], [], 0
    for output in outputs:
        units = reading_units(output.reading, normalization)
        attention, spearman, lift = indicator_units(
            units.attention, getattr(units, f"{target}_similarity"), units.mask, percentile
        )
        count = len(output.questions)
        attentions += instance_means(attention, units.question_of_unit, count)[0].tolist()
        lifts += instance_means(lift, units.question_of_unit, count)[0].tolist()
        means, num_undefined = instance_means(spearman, units.question_of_unit, count)
        spearmans += means.tolist()
        undefined += int(num_undefined)
    return np.array(attentions), np.array(spearmans), np.array(lifts), undefined


@pytest.mark.parametrize("normalization", list(AttentionNormalization))
def test_values_are_those_of_the_pure_functions(tmp_path, normalization):
    logged, outputs, indicators = evaluate(tmp_path, normalization=normalization)
    assert len(outputs) == 2, "several batches, the last one smaller"
    for number, target in ((1, "answer"), (2, "noun")):
        for p in (50, 90):
            attention, spearman, lift, undefined = expected(outputs, target, p, normalization)
            assert len(attention) == 4
            for name, values in (("attention", attention), ("spearman", spearman), ("lift", lift)):
                full = f"indicator{number}/{name}_p{p}"
                assert logged[full] == pytest.approx(np.nanmean(values), abs=1e-5), full
                assert logged[f"{full}_std"] == pytest.approx(np.nanstd(values, ddof=1), abs=1e-5), full
                assert indicators.latest[full] == logged[full]
            assert logged[f"indicator{number}/undefined_p{p}"] == undefined
        assert logged[f"indicator{number}/num_instances"] == 4
    auc = torch.cat([teacher_auc(o.log_p_attn.exp(), o.is_hit[:, :20]) for o in outputs])
    assert not auc.isnan().all()
    assert logged["teacher/auc"] == pytest.approx(float(auc.nanmean()), abs=1e-5)
    assert logged["indicator2/good_above"] == pytest.approx(0.3)


def test_every_question_has_its_own_values(tmp_path):
    logged, outputs, indicators = evaluate(tmp_path)
    instances = indicators.latest_instances
    assert instances.question_ids == [question.id for output in outputs for question in output.questions]
    attention, spearman, lift, _ = expected(outputs, "answer", 90)
    assert instances.values["indicator1/attention_p90"] == pytest.approx(attention.tolist(), abs=1e-5)
    assert instances.values["indicator1/spearman_p90"] == pytest.approx(spearman.tolist(), nan_ok=True)
    assert instances.values["indicator1/lift_p90"] == pytest.approx(lift.tolist(), abs=1e-5)
    aucs = [float(v) for o in outputs for v in teacher_auc(o.log_p_attn.exp(), o.is_hit[:, :20])]
    assert instances.values["teacher/auc"] == pytest.approx(aucs, nan_ok=True)
    assert np.nanmean(instances.values["teacher/auc"]) == pytest.approx(logged["teacher/auc"])


def test_names_are_those_of_the_specification(tmp_path):
    logged, _, _ = evaluate(tmp_path, percentiles=(90, 95))
    assert set(logged) >= NAMES
    tested, outputs, _ = evaluate(tmp_path, "test", percentiles=(90, 95))
    assert {name for name in tested if "indicator" in name or "teacher" in name} >= {
        f"test/{name}" for name in (*NAMES, "teacher/auc")
    }
    assert not any(name.startswith(("indicator", "teacher")) for name in tested)
    assert tested["test/indicator1/num_instances"] == sum(len(o.questions) for o in outputs) == 6


def test_a_second_evaluation_starts_anew(tmp_path):
    indicators = LogIndicators()
    index = RefreshIndex("-1", tmp_path / "index", show_progress=False)
    trainer = toy_trainer(tmp_path, [index, indicators], limit_val_batches=1.0)
    module = toy_module(tmp_path)
    for _ in range(2):
        trainer.validate(module, toy_datamodule(), verbose=False)
        assert indicators.latest["indicator1/num_instances"] == 4


def test_nothing_is_logged_where_nothing_was_read(tmp_path):
    logged, outputs, indicators = evaluate(tmp_path, num_read=0)
    assert all(output.reading is None for output in outputs)
    assert indicators.latest == {}
    assert indicators.latest_instances.question_ids == []
    assert not any(name.startswith(("indicator", "teacher")) for name in logged)
    assert "validation/hr_at_5" in logged


def test_only_what_was_read_counts(tmp_path):
    logged, outputs, indicators = evaluate(tmp_path, num_read=2)
    assert [output.num_read for output in outputs] == [2, 0], "of three questions in the first batch"
    assert logged["indicator1/num_instances"] == 2
    assert indicators.latest_instances.question_ids == [question.id for question in outputs[0].questions[:2]]


def test_histograms_arrive_in_tensorboard(tmp_path):
    logger = TensorBoardLogger(tmp_path, name="", version="events")
    _, outputs, _ = evaluate(tmp_path, logger=logger)
    logger.finalize("success")
    events = EventAccumulator(str(tmp_path / "events"))
    events.Reload()
    histograms = events.Tags()["histograms"]
    assert "instances/indicator1/attention_p90" in histograms
    assert "instances/teacher/auc" in histograms
    attention, *_ = expected(outputs, "noun", 50)
    [event] = events.Histograms("instances/indicator2/attention_p50")
    value = event.histogram_value
    assert value.num == len(attention)
    assert value.sum == pytest.approx(attention.sum(), abs=1e-5)


def test_hits_are_of_every_question(tmp_path):
    _, outputs, indicators = evaluate(tmp_path, num_read=2)
    assert indicators.latest_instances.question_ids == [q.id for q in outputs[0].questions[:2]]
    hits = indicators.latest_hits
    assert hits.question_ids == [question.id for output in outputs for question in output.questions]
    expected_hits = [float(hit) for output in outputs for hit in output.is_hit[:, :20].any(dim=1)]
    assert hits.values == {"retrieval/hit": expected_hits}


def test_readings_of_different_questions_are_joined():
    read = InstanceReadings(["b", "a"], {"teacher/auc": [0.5, 1.0]})
    retrieved = InstanceReadings(["a", "b", "c"], {"retrieval/hit": [1.0, 0.0, 1.0]})
    joined = read.with_others(retrieved)
    assert joined.question_ids == ["b", "a", "c"]
    assert joined.values["retrieval/hit"] == [0.0, 1.0, 1.0]
    assert joined.values["teacher/auc"] == pytest.approx([0.5, 1.0, np.nan], nan_ok=True)
