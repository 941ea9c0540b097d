"""Collapsed and healthy embeddings against NumPy, and how often chance looks like a crash."""

import doctest
import math

import numpy as np
import pytest
import torch
from scipy import stats

from lightning_modules.metrics import embedding_health as module
from lightning_modules.metrics.embedding_health import (
    effective_rank,
    embedding_health,
    has_crashed,
    near_duplicate_share,
)


def test_examples():
    assert doctest.testmod(module).failed == 0


def random_embeddings(count: int = 60, dim: int = 16, seed: int = 0) -> torch.Tensor:
    return torch.from_numpy(np.random.default_rng(seed).normal(size=(count, dim))).float()


def test_effective_rank_is_that_of_the_definition():
    embeddings = random_embeddings() @ torch.diag(torch.linspace(0.01, 3, 16))
    singular = np.linalg.svd(embeddings.double().numpy(), compute_uv=False)
    p = singular / singular.sum()
    assert effective_rank(embeddings) == pytest.approx(math.exp(-(p * np.log(p)).sum()), abs=1e-5)


@pytest.mark.parametrize("scale", [1e-30, 1.0, 1e30])
def test_scale_does_not_matter(scale):
    embeddings = random_embeddings()
    embeddings[1] = 2 * embeddings[0]
    scaled = embedding_health(embeddings * scale)
    assert scaled.effective_rank == pytest.approx(embedding_health(embeddings).effective_rank, abs=1e-3)
    assert scaled.near_duplicates == pytest.approx(2 / 60)
    assert scaled.unusable == 0


def test_a_point_and_a_line_are_collapses():
    direction = torch.ones(16)
    point = direction + 1e-4 * random_embeddings()
    line = torch.linspace(0.1, 2, 60)[:, None] * direction
    for collapsed in (point, line):
        assert effective_rank(collapsed) < 1.1
        assert near_duplicate_share(collapsed) == 1.0
    assert effective_rank(random_embeddings()) > 12
    assert near_duplicate_share(random_embeddings()) == 0.0


def test_unusable_embeddings_do_not_hide_the_others():
    embeddings = random_embeddings()
    rest = embedding_health(embeddings[3:])
    embeddings[0], embeddings[1], embeddings[2, 5] = 0.0, torch.nan, -torch.inf
    health = embedding_health(embeddings)
    assert health.unusable == pytest.approx(3 / 60)
    assert health.effective_rank == pytest.approx(rest.effective_rank)
    assert health.near_duplicates == rest.near_duplicates


def test_nothing_usable():
    health = embedding_health(torch.full((4, 3), torch.nan))
    assert (health.effective_rank, health.near_duplicates, health.unusable) == (0.0, 0.0, 1.0)


@pytest.mark.parametrize(
    ("before", "now", "count", "crashed"),
    [
        (70, 34, 100, True),
        (70, 36, 100, False),  # less than half is lost
        (6, 0, 20, False),  # everything is lost, but there was little
        (18, 2, 20, True),
        (4, 0, 4, False),
        (0, 0, 100, False),
        (0, 0, 0, False),
    ],
)
def test_a_crash_is_large_and_not_by_chance(before, now, count, crashed):
    assert has_crashed(before, now, count, drop=0.5) is crashed


@pytest.mark.parametrize(("before", "now", "count"), [(9, 1, 10), (60, 40, 100), (300, 260, 300), (5, 0, 5)])
def test_chance_is_that_of_fishers_exact_test(monkeypatch, before, now, count):
    table = [[now, count - now], [before, count - before]]
    expected = float(stats.fisher_exact(table, alternative="less").pvalue)
    for level, crashed in ((expected * 1.001, True), (expected * 0.999, False)):
        monkeypatch.setattr(module, "_BY_CHANCE", level)
        assert has_crashed(before, now, count, drop=0.0) is crashed


@pytest.mark.parametrize("rate", [0.1, 0.35, 0.8])
@pytest.mark.parametrize("count", [10, 50, 300])
def test_chance_hardly_ever_looks_like_a_crash(count, rate):
    """Two independent draws at the same rate, and any drop counts: worse than the same questions again."""
    drawn = np.random.default_rng(count).binomial(count, rate, (2, 5000))
    pairs, times = np.unique(drawn, axis=1, return_counts=True)
    alarms = [has_crashed(int(before), int(now), count, drop=0.0) for before, now in pairs.T]
    assert np.average(alarms, weights=times) < 0.002
