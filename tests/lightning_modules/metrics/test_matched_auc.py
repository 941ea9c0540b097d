"""AUC at equal length: against a slow reference, and on teachers that see length, content, or both."""

import doctest
import math

import numpy as np
import pytest
import torch

from lightning_modules.metrics import matched_auc as module
from lightning_modules.metrics.matched_auc import NUM_STRATA, matched_auc
from lightning_modules.metrics.teacher_auc import teacher_auc


def corpus(seed, questions=400, passages=5, longer_with_answer=0.6, spread=0.7):
    """Lengths and which passages hold an answer: these are longer, by `longer_with_answer` in logs."""
    rng = torch.Generator().manual_seed(seed)
    has_answer = torch.rand(questions, passages, generator=rng) < 0.3
    log_lengths = spread * torch.randn(questions, passages, generator=rng) + longer_with_answer * has_answer
    return has_answer, (60 * log_lengths.exp()).round().clamp(min=1)


def noise(seed, like):
    return torch.randn(like.shape, generator=torch.Generator().manual_seed(seed))


def slowly(scores, has_answer, lengths):
    """The formula of the docstring, pair by pair."""
    pairs = []
    for of_question, hits, of_passage in zip(
        scores.tolist(), has_answer.tolist(), lengths.tolist(), strict=True
    ):
        for i, j in ((i, j) for i in range(len(hits)) for j in range(len(hits)) if hits[i] and not hits[j]):
            win = 1.0 if of_question[i] > of_question[j] else 0.5 if of_question[i] == of_question[j] else 0.0
            pairs.append((math.log(of_passage[i] / of_passage[j]), win))
    sizes = [abs(gap) for gap, _ in pairs if gap != 0]
    edges = np.quantile(sizes, [k / NUM_STRATA for k in range(1, NUM_STRATA)])
    equal = [win for gap, win in pairs if gap == 0]
    above, below = sum(equal), len(equal)
    for stratum in range(NUM_STRATA):
        inside = [(gap, win) for gap, win in pairs if sum(abs(gap) > edge for edge in edges) == stratum]
        longer, shorter = [win for gap, win in inside if gap > 0], [win for gap, win in inside if gap < 0]
        if longer and shorter:
            weight = 4 / (1 / len(longer) + 1 / len(shorter))
            rates = sum(longer) / len(longer), sum(shorter) / len(shorter)
            above, below = above + weight * sum(rates) / 2, below + weight
    return above / below


def test_examples():
    assert doctest.testmod(module).failed == 0


@pytest.mark.parametrize("seed", range(4))
def test_equals_a_slow_reference(seed):
    has_answer, lengths = corpus(seed, questions=30)
    lengths[::3] = lengths[::3].clamp(max=60)  # ties of length
    scores = noise(seed + 10, lengths).round(decimals=1) + lengths.log() + has_answer
    found = matched_auc(scores, has_answer, lengths)
    assert found.mean == pytest.approx(slowly(scores, has_answer, lengths), abs=1e-12)


@pytest.mark.parametrize("blur", [0.0, 0.3, 1.0, 3.0])
def test_a_teacher_that_sees_length_is_at_chance(blur):
    """However noisily it sees it, and although its plain AUC is well above chance."""
    has_answer, lengths = corpus(seed=0, questions=4000)
    scores = lengths.log() + blur * noise(1, lengths)
    if blur < 1:
        assert teacher_auc(scores, has_answer).nanmean() > 0.65
    found = matched_auc(scores, has_answer, lengths)
    assert found.mean == pytest.approx(0.5, abs=0.02)
    assert found.low < 0.5 < found.high or abs(found.mean - 0.5) < 0.01


def test_length_itself_is_exactly_at_chance():
    """Also where many passages are equally long, and few answers are in the shorter one."""
    has_answer, lengths = corpus(seed=8, questions=60, longer_with_answer=1.5)
    lengths = (lengths / 40).round()
    found = matched_auc(lengths, has_answer, lengths)
    assert (found.mean, found.low, found.high) == (0.5, 0.5, 0.5)


def test_a_teacher_that_does_not_look_at_length_keeps_its_auc():
    has_answer, lengths = corpus(seed=2, questions=4000)
    scores = has_answer + noise(3, lengths)
    plain = float(teacher_auc(scores, has_answer).nanmean())
    assert matched_auc(scores, has_answer, lengths).mean == pytest.approx(plain, abs=0.015)


def test_one_stratum_would_not_do(monkeypatch):
    """Pairs in which the answer is with the longer passage differ more in length, so noise tells on fewer."""
    has_answer, lengths = corpus(seed=4, questions=4000, longer_with_answer=1.2)
    scores = lengths.log() + noise(5, lengths)
    biases = []
    for num_strata in (1, NUM_STRATA):
        monkeypatch.setattr(module, "NUM_STRATA", num_strata)
        biases.append(abs(matched_auc(scores, has_answer, lengths).mean - 0.5))
    assert biases[1] < 0.02 < biases[0]


def test_the_interval_holds_the_truth():
    """In about 95% of samples of 50 questions; a teacher of length alone, whose truth is 0.5."""
    inside = []
    for seed in range(200):
        has_answer, lengths = corpus(seed, questions=60)
        found = matched_auc(lengths.log() + noise(seed + 1000, lengths), has_answer, lengths, num_samples=400)
        inside.append(found.low <= 0.5 <= found.high)
    assert 0.9 < np.mean(inside) < 0.99


def test_what_cannot_be_matched():
    has_answer = torch.tensor([[True, False], [True, False], [True, True]])
    lengths = torch.tensor([[9.0, 3.0], [8.0, 4.0], [1.0, 2.0]])
    found = matched_auc(lengths, has_answer, lengths)
    assert math.isnan(found.mean)
    assert math.isnan(found.low)
    assert (found.num_questions, found.num_pairs) == (2, 0)
    nothing = matched_auc(lengths, torch.zeros(3, 2).bool(), lengths)
    assert math.isnan(nothing.mean)
    assert (nothing.num_questions, nothing.num_pairs) == (0, 0)


def test_what_was_not_read_is_left_out():
    has_answer, lengths = corpus(seed=6, questions=40)
    scores = noise(7, lengths)
    expected = matched_auc(scores[:30], has_answer[:30], lengths[:30])
    scores[30:] = torch.nan
    assert matched_auc(scores, has_answer, lengths) == expected
