"""What is logged is what the pure functions say of the passes that distillation uses."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from lightning import Callback
from lightning.pytorch.loggers import TensorBoardLogger
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from callbacks.log_indicators import LogIndicators
from callbacks.refresh_index import RefreshIndex
from lightning_modules.metrics.indicators import AttentionNormalization, indicator_units, instance_means
from lightning_modules.metrics.question_values import QuestionValues
from lightning_modules.metrics.teacher_auc import teacher_auc
from lightning_modules.metrics.units import passage_units
from tests.tiny_models import tiny_reader
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
    collect, indicators = Collect(), LogIndicators(percentiles)
    index = RefreshIndex("-1", folder / "index", show_progress=False)
    trainer = toy_trainer(folder, [index, indicators, collect], limit_val_batches=1.0, logger=logger)
    # passages with and without answers, so that the teacher can be judged
    module = toy_module(folder, num_passages=20, num_read=num_read, **settings)
    getattr(trainer, stage)(module, toy_datamodule(evaluation_batch_size=3), verbose=False)
    logged = {name: float(value) for name, value in trainer.callback_metrics.items()}
    return logged, collect.outputs, indicators


def expected(outputs, target, percentile):
    """Attention, Spearman and lift of all questions, and the undefined units."""
    attentions, spearmans, lifts, undefined = [], [], [], 0
    for output in outputs:
        units = output.read.units
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
    logged, outputs, indicators = evaluate(tmp_path, attention_normalization=normalization)
    assert len(outputs) == 2, "several batches, the last one smaller"
    assert len(indicators.latest_questions.question_ids) == 4
    for units, output in ((output.read.units, output.read.output) for output in outputs):
        again = passage_units(output, tiny_reader(), normalization=normalization)
        torch.testing.assert_close(units.attention, again.attention)
    for number, target in ((1, "answer"), (2, "noun")):
        for p in (50, 90):
            attention, spearman, lift, undefined = expected(outputs, target, p)
            assert len(attention) == 4
            for name, values in (("attention", attention), ("spearman", spearman), ("lift", lift)):
                full = f"indicator{number}/{name}_p{p}"
                assert logged[full] == pytest.approx(np.nanmean(values), abs=1e-5), full
                assert logged[f"{full}_std"] == pytest.approx(np.nanstd(values, ddof=1), abs=1e-5), full
                assert indicators.latest[full] == logged[full]
            assert logged[f"indicator{number}/undefined_p{p}"] == undefined
    auc = torch.cat([teacher_auc(o.read.p_target, o.is_hit[:, :20]) for o in outputs])
    assert not auc.isnan().all()
    assert logged["teacher/auc"] == pytest.approx(float(auc.nanmean()), abs=1e-5)
    assert logged["indicator2/good_above"] == pytest.approx(0.3)


def test_every_question_has_its_own_values(tmp_path):
    logged, outputs, indicators = evaluate(tmp_path)
    found = indicators.latest_questions
    assert found.question_ids == [question.id for output in outputs for question in output.questions]
    attention, spearman, lift, _ = expected(outputs, "answer", 90)
    assert found.values["indicator1/attention_p90"] == pytest.approx(attention.tolist(), abs=1e-5)
    assert found.values["indicator1/spearman_p90"] == pytest.approx(spearman.tolist(), nan_ok=True)
    assert found.values["indicator1/lift_p90"] == pytest.approx(lift.tolist(), abs=1e-5)
    aucs = [float(v) for o in outputs for v in teacher_auc(o.read.p_target, o.is_hit[:, :20])]
    assert found.values["teacher/auc"] == pytest.approx(aucs, nan_ok=True)
    assert np.nanmean(found.values["teacher/auc"]) == pytest.approx(logged["teacher/auc"])


def test_names_are_those_of_the_specification(tmp_path):
    logged, _, _ = evaluate(tmp_path, percentiles=(90, 95))
    assert set(logged) >= NAMES
    tested, outputs, indicators = evaluate(tmp_path, "test", percentiles=(90, 95))
    assert {name for name in tested if "indicator" in name or "teacher" in name} >= {
        f"test/{name}" for name in (*NAMES, "teacher/auc")
    }
    assert not any(name.startswith(("indicator", "teacher")) for name in tested)
    assert len(indicators.latest_questions.question_ids) == sum(len(o.questions) for o in outputs) == 6


def test_a_second_evaluation_starts_anew(tmp_path):
    indicators = LogIndicators()
    index = RefreshIndex("-1", tmp_path / "index", show_progress=False)
    trainer = toy_trainer(tmp_path, [index, indicators], limit_val_batches=1.0)
    module = toy_module(tmp_path)
    for _ in range(2):
        trainer.validate(module, toy_datamodule(), verbose=False)
        assert len(indicators.latest_questions.question_ids) == 4


def test_nothing_is_logged_where_nothing_was_read(tmp_path):
    logged, outputs, indicators = evaluate(tmp_path, num_read=0)
    assert all(output.read is None for output in outputs)
    assert indicators.latest == {}
    assert indicators.latest_questions.question_ids == []
    assert not any(name.startswith(("indicator", "teacher")) for name in logged)
    assert "validation/hr_at_5" in logged


def test_only_what_was_read_counts(tmp_path):
    logged, outputs, indicators = evaluate(tmp_path, num_read=2)
    assert [output.num_read for output in outputs] == [2, 0], "of three questions in the first batch"
    assert logged["teacher/num_questions"] <= 2
    assert indicators.latest_questions.question_ids == [question.id for question in outputs[0].questions[:2]]


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
    assert indicators.latest_questions.question_ids == [q.id for q in outputs[0].questions[:2]]
    hits = indicators.latest_hits
    assert hits.question_ids == [question.id for output in outputs for question in output.questions]
    expected_hits = [float(hit) for output in outputs for hit in output.is_hit[:, :20].any(dim=1)]
    assert hits.values == {"retrieval/hit": expected_hits}


def test_values_of_different_questions_are_joined():
    read = QuestionValues(["b", "a"], {"teacher/auc": [0.5, 1.0]})
    retrieved = QuestionValues(["a", "b", "c"], {"retrieval/hit": [1.0, 0.0, 1.0]})
    joined = read.with_others(retrieved)
    assert joined.question_ids == ["b", "a", "c"]
    assert joined.values["retrieval/hit"] == [0.0, 1.0, 1.0]
    assert joined.values["teacher/auc"] == pytest.approx([0.5, 1.0, np.nan], nan_ok=True)


def test_without_nouns_it_is_said_once_why_indicator_2_is_undefined(tmp_path, caplog):
    datamodule = toy_datamodule()
    datamodule.validation = [replace(question, nouns=()) for question in datamodule.validation]
    indicators = LogIndicators((90,))
    index = RefreshIndex("-1", tmp_path / "index", show_progress=False)
    trainer = toy_trainer(tmp_path, [index, indicators], limit_val_batches=1.0)
    for _ in range(2):
        trainer.validate(toy_module(tmp_path), datamodule, verbose=False)
    assert caplog.text.count("Indicator 2 is undefined: none of the 4 questions read has nouns") == 1
    assert np.isnan(indicators.latest["indicator2/spearman_p90"])
