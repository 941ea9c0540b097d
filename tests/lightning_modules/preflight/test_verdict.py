"""Good teachers get go, bad ones no-go, and too little evidence neither."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from lightning_modules.metrics.matched_auc import MatchedAUC, matched_auc
from lightning_modules.metrics.teacher_auc import teacher_auc
from lightning_modules.preflight.verdict import FEWEST_PAIRS, FEWEST_QUESTIONS, Advice, judge


def aucs(mean, n=60, spread=0.25, seed=0):
    values = np.random.default_rng(seed).normal(mean, spread, size=n)
    return values - values.mean() + mean


CHANCE = aucs(0.5, seed=1)
KNOWS = MatchedAUC(0.80, 0.70, 0.90, 60, 50)
SEES_LENGTH = MatchedAUC(0.50, 0.42, 0.58, 60, 50)
LOOSELY = aucs(0.15, spread=0.4, seed=3)
"""How the paper's `sum` goes with passage length."""


@pytest.mark.parametrize(
    ("teacher", "retriever", "at_equal_length", "advice"),
    [
        (aucs(0.85), CHANCE, KNOWS, Advice.GO),
        (aucs(0.50), CHANCE, KNOWS, Advice.NO_GO),
        (aucs(0.20), CHANCE, KNOWS, Advice.NO_GO),
        (aucs(0.68), CHANCE, KNOWS, Advice.UNSURE),
        # better than chance, but the retriever knows better
        (aucs(0.80), aucs(0.95, spread=0.1, seed=2), KNOWS, Advice.NO_GO),
        # nothing but length
        (aucs(0.85), CHANCE, SEES_LENGTH, Advice.NO_GO),
        (aucs(0.85), CHANCE, replace(SEES_LENGTH, high=0.70), Advice.UNSURE),
        (aucs(0.85), CHANCE, MatchedAUC(0.3, 0.2, 0.4, 60, 50), Advice.NO_GO),
        # the same numbers from next to no pairs
        (aucs(0.85), CHANCE, replace(KNOWS, num_pairs=FEWEST_PAIRS - 1), Advice.UNSURE),
        (aucs(0.85), CHANCE, replace(SEES_LENGTH, num_pairs=FEWEST_PAIRS - 1), Advice.UNSURE),
        (aucs(0.50), CHANCE, replace(KNOWS, num_pairs=FEWEST_PAIRS - 1), Advice.NO_GO),
    ],
)
def test_advice(teacher, retriever, at_equal_length, advice):
    verdict = judge(teacher, retriever, at_equal_length, LOOSELY)
    assert verdict.advice is advice
    assert len(verdict.reasons) == 4


def test_what_decided_is_said_first():
    reasons = judge(aucs(0.80), aucs(0.95, spread=0.1, seed=2), KNOWS, LOOSELY).reasons
    assert reasons[0].startswith("teacher AUC less the retriever's own")
    assert "the whole interval is below 0" in reasons[0]


def test_too_few_questions_decide_nothing():
    few = np.full(200, np.nan)
    few[: FEWEST_QUESTIONS - 1] = 1.0
    verdict = judge(few, np.zeros(200), KNOWS, LOOSELY)
    assert verdict.advice is Advice.UNSURE
    assert f"only {FEWEST_QUESTIONS - 1} questions" in verdict.reasons[0]
    few[FEWEST_QUESTIONS] = 1.0
    assert judge(few, np.zeros(200), KNOWS, LOOSELY).advice is Advice.GO


@pytest.mark.parametrize(
    ("mean", "advice", "said"),
    [
        (0.15, Advice.GO, "not surely beyond 0.5"),
        (0.33, Advice.GO, "not surely beyond 0.5"),
        (-0.42, Advice.GO, "not surely beyond 0.5"),
        # beyond, but not surely
        (0.52, Advice.GO, "not surely beyond 0.5"),
        (-0.52, Advice.GO, "not surely beyond 0.5"),
        (0.71, Advice.NO_GO, "the teacher puts long passages first"),
        (-0.71, Advice.NO_GO, "the teacher puts short passages first"),
    ],
)
def test_a_teacher_of_length_is_refused_whatever_its_aucs(mean, advice, said):
    verdict = judge(aucs(0.85), CHANCE, KNOWS, aucs(mean, spread=0.4, seed=3))
    assert verdict.advice is advice
    (reason,) = [reason for reason in verdict.reasons if said in reason]
    assert f"Kendall's tau of its order with passage length is {mean:.2f} [" in reason
    assert "over 60 questions" in reason
    if advice is Advice.NO_GO:
        assert verdict.reasons[0] == reason


def test_length_is_seen_where_too_few_questions_have_an_auc():
    few = np.full(200, np.nan)
    few[: FEWEST_QUESTIONS - 1] = 1.0
    verdict = judge(few, np.zeros(200), KNOWS, aucs(-0.71, n=200))
    assert verdict.advice is Advice.NO_GO
    assert "short passages first" in verdict.reasons[0]
    assert f"only {FEWEST_QUESTIONS - 1} questions" in verdict.reasons[1]
    # of a handful of questions nothing is said
    taus = np.full(200, np.nan)
    taus[: FEWEST_QUESTIONS - 1] = -1.0
    assert judge(few, np.zeros(200), KNOWS, taus).advice is Advice.UNSURE


def test_passages_of_one_length_refuse_nothing():
    verdict = judge(aucs(0.85), CHANCE, KNOWS, np.full(60, np.nan))
    assert verdict.advice is Advice.GO
    assert len(verdict.reasons) == 3


@pytest.mark.parametrize(
    ("mean", "num_asked", "advice", "said"),
    [
        (0.05, 24, Advice.GO, "not above 0.3"),
        (0.28, 24, Advice.GO, "not above 0.3"),
        (0.34, 24, Advice.UNSURE, "above 0.3, but not surely"),
        (0.70, 24, Advice.NO_GO, "it prefers the same passages whatever is asked"),
        # of a handful of questions nothing follows
        (0.70, FEWEST_QUESTIONS - 1, Advice.GO, None),
        (0.70, 0, Advice.GO, None),
    ],
)
def test_a_teacher_must_order_passages_by_what_is_asked(mean, num_asked, advice, said):
    asked = np.full(60, np.nan)
    asked[:num_asked] = aucs(mean, n=num_asked, spread=0.3, seed=4) if num_asked else []
    verdict = judge(aucs(0.85), CHANCE, KNOWS, LOOSELY, fixed_preference=asked)
    assert verdict.advice is advice
    about = [reason for reason in verdict.reasons if "unrelated question" in reason]
    assert len(about) == (said is not None)
    for reason in about:
        assert said in reason
        assert f"{mean:.2f} [" in reason
        assert f"over {num_asked} questions" in reason
    if advice is not Advice.GO:
        assert verdict.reasons[0] == about[0]


@pytest.mark.parametrize("sees_length", [False, True])
@pytest.mark.parametrize("n", [20, 60])
def test_a_bad_teacher_rarely_gets_go(n, sees_length):
    """One that knows nothing, or nothing but length, which tells something of the answers."""
    found = []
    for seed in range(150):
        generator = torch.Generator().manual_seed(seed)
        has_answer = torch.arange(5).expand(n, 5) == torch.randint(5, (n, 1), generator=generator)
        lengths = (0.7 * torch.randn(n, 5, generator=generator) + 0.8 * has_answer).exp()
        blurred = lengths.log() + 0.3 * torch.randn(n, 5, generator=generator)
        scores = blurred if sees_length else torch.randn(n, 5, generator=generator)
        retriever = torch.randn(n, 5, generator=generator)
        verdict = judge(
            teacher_auc(scores, has_answer),
            teacher_auc(retriever, has_answer),
            matched_auc(scores, has_answer, lengths, num_samples=400),
            np.full(n, np.nan),  # the AUCs have to find it by themselves
        )
        found.append(verdict.advice)
    assert found.count(Advice.GO) <= 2
    assert found.count(Advice.NO_GO) > (90 if n == 60 else 25)
