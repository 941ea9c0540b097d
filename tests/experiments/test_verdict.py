"""Good teachers get go, bad ones no-go, and too little evidence neither."""

import numpy as np
import pytest

from experiments.verdict import FEWEST_QUESTIONS, Decision, estimate, judge


def aucs(mean, n=60, spread=0.25, seed=0):
    values = np.random.default_rng(seed).normal(mean, spread, size=n)
    return values - values.mean() + mean


CHANCE = aucs(0.5, seed=1)


@pytest.mark.parametrize(
    ("teacher", "retriever", "length", "decision"),
    [
        (aucs(0.85), CHANCE, CHANCE, Decision.GO),
        (aucs(0.50), CHANCE, CHANCE, Decision.NO_GO),
        (aucs(0.20), CHANCE, CHANCE, Decision.NO_GO),
        (aucs(0.68), CHANCE, CHANCE, Decision.UNSURE),
        # better than chance, but the retriever knows better
        (aucs(0.80), aucs(0.95, spread=0.1, seed=2), CHANCE, Decision.NO_GO),
        # nothing but length
        (aucs(0.74), CHANCE, aucs(0.74), Decision.NO_GO),
        (aucs(0.74) + aucs(0.0, spread=0.15, seed=5), CHANCE, aucs(0.74), Decision.NO_GO),
        (aucs(0.85), CHANCE, aucs(0.80, seed=3), Decision.UNSURE),
        (aucs(0.85), CHANCE, aucs(0.97, spread=0.05, seed=2), Decision.NO_GO),
    ],
)
def test_decisions(teacher, retriever, length, decision):
    verdict = judge(teacher, retriever, length)
    assert verdict.decision is decision
    assert len(verdict.reasons) == 3


def test_what_decided_is_said_first():
    reasons = judge(aucs(0.80), aucs(0.95, spread=0.1, seed=2), CHANCE).reasons
    assert reasons[0].startswith("teacher AUC less the retriever's own")
    assert "the whole interval is below 0" in reasons[0]


def test_too_few_questions_decide_nothing():
    few = np.full(200, np.nan)
    few[: FEWEST_QUESTIONS - 1] = 1.0
    verdict = judge(few, np.zeros(200), np.zeros(200))
    assert verdict.decision is Decision.UNSURE
    assert f"only {FEWEST_QUESTIONS - 1} questions" in verdict.reasons[0]
    few[FEWEST_QUESTIONS] = 1.0
    assert judge(few, np.zeros(200), np.zeros(200)).decision is Decision.GO


@pytest.mark.parametrize("n", [20, 60])
def test_chance_rarely_gets_go(n):
    """A teacher that knows nothing, judged on AUCs as they come with one answer among five passages."""
    rng = np.random.default_rng(0)
    decisions = []
    for _ in range(200):
        teacher, retriever, length = rng.integers(0, 5, size=(3, n)) / 4
        decisions.append(judge(teacher, retriever, length).decision)
    assert decisions.count(Decision.GO) == 0
    assert decisions.count(Decision.NO_GO) > (100 if n == 60 else 40)


def test_estimates_leave_out_what_is_undefined():
    found = estimate([0.2, np.nan, 0.4])
    assert (found.mean, found.n) == (pytest.approx(0.3), 2)
    assert found.text == "0.30 [0.20, 0.40]"
    assert estimate([np.nan]).text == "-"
