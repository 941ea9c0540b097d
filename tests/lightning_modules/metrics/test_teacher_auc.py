"""Teacher validity against loops over pairs and over sorted passages."""

import doctest
import math

import numpy as np
import pytest
import torch

from lightning_modules.metrics import teacher_auc as module
from lightning_modules.metrics.teacher_auc import TeacherAUC, teacher_auc, teacher_reciprocal_rank


def pairwise_auc(p_attn: list[float], has_answer: list[bool]) -> float:
    wins, pairs = 0.0, 0
    for p_with, answers in zip(p_attn, has_answer, strict=True):
        for p_without, other_answers in zip(p_attn, has_answer, strict=True):
            if answers and not other_answers:
                pairs += 1
                wins += 1.0 if p_with > p_without else 0.5 if p_with == p_without else 0.0
    return wins / pairs if pairs else math.nan


def sorted_reciprocal_rank(p_attn: list[float], has_answer: list[bool]) -> float:
    """Between the best and the worst place that sorting may give, among ties, to the best with an answer."""
    if all(has_answer) or not any(has_answer):
        return math.nan

    def place(ties: int) -> int:
        ranking = sorted(zip(p_attn, has_answer, strict=True), key=lambda p: (-p[0], ties * p[1]))
        return next(place for place, (_, answers) in enumerate(ranking, start=1) if answers)

    return 1 / ((place(ties=-1) + place(ties=1)) / 2)


def random_questions(seed: int, batch: int = 40, passages: int = 5) -> tuple[torch.Tensor, torch.Tensor]:
    """Teachers with many ties, and questions of every kind."""
    rng = np.random.default_rng(seed)
    p_attn = rng.integers(1, 4, (batch, passages)) / 10
    has_answer = rng.random((batch, passages)) < rng.random((batch, 1))
    return torch.tensor(p_attn, dtype=torch.float32), torch.tensor(has_answer)


@pytest.mark.parametrize("passages", [1, 2, 5, 9])
@pytest.mark.parametrize(
    ("batched", "reference"), [(teacher_auc, pairwise_auc), (teacher_reciprocal_rank, sorted_reciprocal_rank)]
)
def test_equals_the_loop(batched, reference, passages):
    for seed in range(10):
        p_attn, has_answer = random_questions(seed, passages=passages)
        expected = [reference(p, a) for p, a in zip(p_attn.tolist(), has_answer.tolist(), strict=True)]
        np.testing.assert_allclose(batched(p_attn, has_answer), expected, atol=1e-6)


@pytest.mark.parametrize("function", [teacher_auc, teacher_reciprocal_rank])
def test_a_teacher_that_is_not_a_number_has_no_validity(function):
    p_attn = torch.tensor([[0.5, torch.nan, 0.2], [0.5, 0.3, 0.2]])
    values = function(p_attn, torch.tensor([[True, False, False], [True, False, False]]))
    assert values.isnan().tolist() == [True, False]


def test_known_teachers():
    has_answer = torch.tensor([[True, False, True, False]] * 3)
    p_attn = torch.tensor([[0.4, 0.1, 0.4, 0.1], [0.1, 0.4, 0.1, 0.4], [0.25] * 4])
    assert teacher_auc(p_attn, has_answer).tolist() == [1.0, 0.0, 0.5]
    assert teacher_reciprocal_rank(p_attn, has_answer).tolist() == pytest.approx([1.0, 1 / 3, 1 / 2])


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_teachers(dtype):
    p_attn, has_answer = random_questions(seed=1)
    half = p_attn.to(dtype)
    expected = teacher_auc(half.float(), has_answer)
    torch.testing.assert_close(teacher_auc(half, has_answer), expected, equal_nan=True)


class TestTeacherAUC:
    def test_summarises_the_questions_of_all_batches(self):
        metric, aucs, reciprocal_ranks = TeacherAUC(), [], []
        for seed in range(3):
            p_attn, has_answer = random_questions(seed, batch=7 + seed)
            metric.update(p_attn, has_answer)
            for p, a in zip(p_attn.tolist(), has_answer.tolist(), strict=True):
                aucs.append(pairwise_auc(p, a))
                reciprocal_ranks.append(sorted_reciprocal_rank(p, a))
        defined = [auc for auc in aucs if not math.isnan(auc)]
        assert 0 < len(defined) < len(aucs)
        expected = {
            "teacher/auc": np.mean(defined),
            "teacher/auc_std": np.std(defined, ddof=1),
            "teacher/mrr": np.nanmean(reciprocal_ranks),
            "teacher/num_questions": len(defined),
            "teacher/share_with_both": len(defined) / len(aucs),
        }
        summary = {name: value.item() for name, value in metric.compute().items()}
        assert summary == pytest.approx(expected, abs=1e-6)
        np.testing.assert_allclose(metric.values()["teacher/auc"], aucs, atol=1e-6)
        np.testing.assert_allclose(metric.values()["teacher/mrr"], reciprocal_ranks, atol=1e-6)

    def test_before_any_update_is_nan_without_warning(self):
        summary = TeacherAUC().compute()
        assert summary.pop("teacher/num_questions") == 0
        assert all(value.isnan() and value.shape == () for value in summary.values())

    def test_without_a_question_of_both_kinds_is_nan(self):
        metric = TeacherAUC()
        metric.update(torch.tensor([[0.6, 0.4]]), torch.tensor([[True, True]]))
        assert metric.compute()["teacher/auc"].isnan()
        assert metric.compute()["teacher/share_with_both"] == 0


def test_docstring_examples():
    assert doctest.testmod(module).failed == 0
