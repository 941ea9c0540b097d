"""Every check of a teacher equals what plain numbers say."""

import math

import numpy as np
import pytest
import torch

from lightning_modules.metrics.teacher_checks import (
    best_temperature,
    gold_above_longest,
    kendall_tau,
    mass_by_position,
    mass_on_answers,
    relative_entropy_of,
    temperature_grid,
)


def slow_kendall_tau(first, second):
    """tau-b by counting pairs."""
    concordant = discordant = ties_first = ties_second = 0
    for i in range(len(first)):
        for j in range(i):
            a, b = np.sign(first[i] - first[j]), np.sign(second[i] - second[j])
            concordant += a * b > 0
            discordant += a * b < 0
            ties_first += a == 0
            ties_second += b == 0
    pairs = len(first) * (len(first) - 1) / 2
    return (concordant - discordant) / math.sqrt((pairs - ties_first) * (pairs - ties_second))


def test_kendall_tau_counts_pairs():
    rng = np.random.default_rng(0)
    first, second = rng.integers(0, 4, size=(2, 20, 6)).astype(np.float32)
    found = kendall_tau(torch.tensor(first), torch.tensor(second))
    expected = [slow_kendall_tau(a, b) for a, b in zip(first, second, strict=True)]
    assert found.tolist() == pytest.approx(expected, abs=1e-6)


def test_kendall_tau_of_equal_or_missing_scores_is_undefined():
    rising = torch.tensor([[1.0, 2.0, 3.0]])
    assert kendall_tau(rising, torch.ones(1, 3)).isnan().all()
    assert kendall_tau(rising, torch.tensor([[1.0, math.nan, 3.0]])).isnan().all()


def test_entropy():
    log_p = torch.tensor([[0.25] * 4, [1.0, 0.0, 0.0, 0.0], [0.5, 0.5, 0.0, 0.0]]).log()
    assert relative_entropy_of(log_p).tolist() == pytest.approx([1.0, 0.0, 0.5])


def test_mass_on_answers_needs_both_kinds():
    log_p = torch.tensor([[0.6, 0.3, 0.1]] * 3).log()
    has_answer = torch.tensor([[False, True, True], [True] * 3, [False] * 3])
    assert mass_on_answers(log_p, has_answer).tolist() == pytest.approx(
        [0.4, math.nan, math.nan], nan_ok=True
    )


def test_mass_follows_the_position():
    p = torch.tensor([[0.7, 0.2, 0.1], [0.1, 0.8, 0.1]])
    positions = torch.tensor([[2, 0, 1], [0, 1, 2]])
    # question 0 shows passage 1, 2, 0; question 1 shows 0, 1, 2
    expected = [(0.2 + 0.1) / 2, (0.1 + 0.8) / 2, (0.7 + 0.1) / 2]
    assert mass_by_position(p.log(), positions).tolist() == pytest.approx(expected)


def test_the_best_temperature_is_where_answers_are_likeliest():
    """Scores that are log-odds at temperature 0.2: no other temperature explains the answers as well."""
    generator = torch.Generator().manual_seed(0)
    log_odds = torch.randn(4000, 5, generator=generator)
    drawn = torch.multinomial(log_odds.softmax(dim=-1), 1, generator=generator)
    has_answer = torch.zeros(4000, 5, dtype=torch.bool).scatter(1, drawn, True)
    candidates = [0.05, 0.1, 0.2, 0.4, 0.8]
    assert best_temperature(0.2 * log_odds, has_answer, candidates) == 0.2
    unread = torch.full((10, 5), torch.nan)
    with_unread = torch.cat([0.2 * log_odds, unread])
    hits = torch.cat([has_answer, has_answer[:10]])
    assert best_temperature(with_unread, hits, candidates) == 0.2


def test_a_teacher_that_errs_gets_the_flattest_distribution():
    has_answer = torch.tensor([[True, False, False]])
    assert best_temperature(torch.tensor([[-1.0, 0.0, 0.0]]), has_answer, [0.1, 1.0, 10.0]) == 10.0


def test_the_grid_has_the_scale_of_the_scores():
    scores = torch.randn(50, 5, generator=torch.Generator().manual_seed(0))
    small, large = temperature_grid(1e-3 * scores), temperature_grid(scores)
    assert np.allclose(np.array(large) / np.array(small), 1e3)
    assert large == sorted(large)
    assert large[0] < 0.02 < 50 < large[-1]
    assert temperature_grid(torch.ones(3, 5)) == [1.0]


def test_gold_above_the_longest_is_what_plain_loops_find():
    random = np.random.default_rng(5)
    scores = torch.tensor(random.integers(0, 4, (300, 5)), dtype=torch.float32)
    has_answer = torch.tensor(random.random((300, 5)) < 0.4)
    lengths = torch.tensor(random.permuted(np.tile([10.0, 19.0, 40.0, 77.0, 90.0], (300, 1)), axis=1))
    expected = []
    for row_scores, positive, row_lengths in zip(
        scores.tolist(), has_answer.tolist(), lengths.tolist(), strict=True
    ):
        gold = [i for i in range(5) if positive[i]]
        others = [i for i in range(5) if not positive[i]]
        if not gold or not others:
            expected.append(math.nan)
            continue
        best = max(gold, key=lambda i: row_scores[i])
        longest = max(others, key=lambda i: row_lengths[i])
        if 2 * row_lengths[best] > row_lengths[longest]:
            expected.append(math.nan)
        else:
            ahead = row_scores[best] - row_scores[longest]
            expected.append(0.5 if ahead == 0 else float(ahead > 0))
    found = gold_above_longest(scores, has_answer, lengths.float())
    assert found.tolist() == pytest.approx(expected, nan_ok=True)
    assert {0.0, 0.5, 1.0} <= set(found[~found.isnan()].tolist())
