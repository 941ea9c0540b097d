"""The table of measures against the public metrics, on the same questions."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy.stats import entropy

from datamodules.batches import Batch, Passage
from lightning_modules.evaluation import Evaluation, ScoredQuestions
from lightning_modules.metrics.hit_rate import HitRate
from lightning_modules.metrics.indicators import Indicator
from lightning_modules.metrics.measures import (
    RETRIEVAL_HIT,
    Prominence,
    all_measures,
    hit_rate_measure,
    indicator_measures,
)
from lightning_modules.metrics.reader_measures import ReaderMeasures
from lightning_modules.metrics.teacher_auc import TeacherAUC
from lightning_modules.metrics.units import passage_units
from lightning_modules.objectives import PDist
from tests.tiny_models import tiny_reader, toy_passages, toy_questions

PERCENTILES = (50, 90)
K = 4
BATCHES = [
    Batch(
        toy_questions()[start : start + size],
        [[toy_passages()[(b + j) % 24] for j in (0, 3, 12, 17)] for b in range(start, start + size)],
        [question.answers[0] for question in toy_questions()[start : start + size]],
    )
    for start, size in ((0, 3), (3, 2))
]


@torch.no_grad()
def scored() -> list[ScoredQuestions]:
    """Two batches; a question whose passages are all without an answer, and a constant teacher among them."""
    reader, generator, made = tiny_reader("independent"), torch.Generator().manual_seed(0), []
    for batch in BATCHES:
        has_answer = torch.rand(len(batch), K, generator=generator) < 0.5
        has_answer[0] = False
        p_target = torch.rand(len(batch), K, generator=generator).softmax(dim=-1)
        p_target[-1] = 1 / K
        made.append(ScoredQuestions(has_answer, p_target.log(), passage_units(reader.read(batch), reader)))
    return made


def public_metrics() -> dict[str, torch.Tensor]:
    """What `Indicator` and `TeacherAUC` say of the same questions, one value a question and all means."""
    auc, indicators = TeacherAUC(), [Indicator(f"indicator{n}", PERCENTILES) for n in (1, 2)]
    for batch in scored():
        auc.update(batch.log_p_target, batch.has_answer)
        units = batch.units
        for indicator, similarity in zip(
            indicators, (units.answer_similarity, units.noun_similarity), strict=True
        ):
            indicator.update(units.attention, similarity, units.mask, units.question_of_unit, len(batch))
    metrics = (auc, *indicators)
    of_questions = {name: values for metric in metrics for name, values in metric.values().items()}
    means = {name: value for metric in metrics for name, value in metric.compute().items()}
    return {**{f"{name} each": values for name, values in of_questions.items()}, **means}


def test_every_row_is_what_the_public_metric_says():
    expected, measures = public_metrics(), ReaderMeasures(PERCENTILES)
    for batch in scored():
        measures.update(batch)
    values, compared = measures.question_values(), 0
    for name, of_questions in values.items():
        public = f"{name} each"
        if public in expected:
            torch.testing.assert_close(of_questions, expected[public], equal_nan=True)
            compared += 1
    assert compared == 2 * 3 * len(PERCENTILES) + 2
    computed = measures.compute()
    public = {name for name in expected if not name.endswith((" each", "num_instances"))}
    assert public - computed.keys() == set()
    for name in public:
        torch.testing.assert_close(computed[name].float(), expected[name].float(), equal_nan=True)
    assert not computed["indicator1/spearman_p50"].isnan()
    assert 0 < computed["teacher/share_with_both"] < 1


def test_names_are_unique_and_all_are_explained():
    measures = all_measures(PERCENTILES)
    names = [measure.name for measure in measures]
    assert len(set(names)) == len(names)
    assert len({name.replace("/", "_") for name in names}) == len(names), "as the metric's states"
    assert all(measure.label and measure.meaning and measure.decimals > 0 for measure in measures)
    of_one_kind = [(m.of_read, m.of_retrieved, m.of_answer) for m in measures]
    assert all(sum(function is not None for function in functions) <= 1 for functions in of_one_kind)


def test_before_any_update_there_is_nothing_and_no_warning():
    computed = ReaderMeasures(PERCENTILES).compute()
    counts = {measure.name for measure in all_measures(PERCENTILES) if measure.prominence is Prominence.COUNT}
    undefined = {f"indicator{number}/undefined_p{p}" for number in (1, 2) for p in PERCENTILES}
    assert counts == {"teacher/num_questions", *undefined}
    for name, value in computed.items():
        assert value.shape == ()
        assert value == 0 if name in counts else value.isnan(), name


def test_a_second_percentile_is_a_detail():
    shown = {measure.name: measure.prominence for measure in indicator_measures((90, 95))}
    assert shown["indicator1/lift_p90"] is Prominence.EVERYWHERE
    assert shown["indicator1/lift_p95"] is Prominence.DETAIL


@pytest.mark.parametrize("k", [1, 2, 5])
def test_measures_of_what_is_retrieved(k):
    is_hit = torch.tensor([[False, True, False], [False, False, True], [False, False, False]])
    texts = [["a", "b c", "d e f g"]] * 3
    passages = [[Passage(str(i), "a title", text) for i, text in enumerate(found)] for found in texts]
    evaluation = Evaluation(toy_questions()[:3], passages, is_hit, num_passages=2)
    hit_rate = HitRate((k,))
    hit_rate.update(torch.tensor([1, 2, -1]))
    of_questions = hit_rate_measure(k).of_retrieved(evaluation)
    torch.testing.assert_close(of_questions.mean(), hit_rate.compute()[f"hr_at_{k}"].float())
    assert RETRIEVAL_HIT.of_retrieved(evaluation).tolist() == [1.0, 0.0, 0.0]
    words = next(measure for measure in all_measures() if measure.name == "passage_words")
    np.testing.assert_allclose(words.of_retrieved(evaluation), [1.5] * 3)


def test_the_entropy_of_a_teacher_is_scipys():
    [batch, *_] = scored()
    expected = [entropy(row) / np.log(len(row)) for row in batch.p_target.numpy()]
    [measure] = [measure for measure in all_measures() if measure.name == "teacher/entropy"]
    np.testing.assert_allclose(measure.of_read(batch).numpy(), expected, atol=1e-6)
    sure = replace(batch, log_p_target=torch.eye(K)[: len(batch)].log())
    assert measure.of_read(sure).tolist() == [0.0] * len(batch)


def test_the_order_of_passages_is_that_of_every_temperature():
    """Also of those to which a low temperature gives a probability of 0."""
    values = {}
    for temperature in (1.0, 0.1, 0.01):
        measures, generator, num_nothing = ReaderMeasures(PERCENTILES), torch.Generator().manual_seed(1), 0
        objective = PDist(attention_temperature=temperature)
        for batch in scored():
            scores = torch.randn(len(batch), K, generator=generator) * 3 - 5
            of_scores = replace(batch, log_p_target=objective.log_p_of_scores(scores))
            num_nothing += int((of_scores.p_target == 0).sum())
            measures.update(of_scores)
        values[temperature] = measures.question_values()
    assert num_nothing > 1
    for name in ("teacher/auc", "teacher/mrr"):
        for temperature in (0.1, 0.01):
            torch.testing.assert_close(values[temperature][name], values[1.0][name], equal_nan=True)
    assert len(set(values[1.0]["teacher/auc"].tolist())) > 2
