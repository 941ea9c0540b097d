"""Drift and overlap against slow loops."""

import doctest

import numpy as np
import pytest
import torch

from lightning_modules.metrics import staleness
from lightning_modules.metrics.staleness import cosine_drift, relative_l2_drift, top_k_overlap


@pytest.fixture
def embeddings():
    generator = torch.Generator().manual_seed(0)
    old = torch.randn(30, 8, generator=generator)
    return old, old + 0.5 * torch.randn(30, 8, generator=generator)


def test_drift_against_loops(embeddings):
    old, fresh = embeddings
    for row, (u, v) in enumerate(zip(old.double().numpy(), fresh.double().numpy(), strict=True)):
        cosine = u @ v / np.sqrt(u @ u) / np.sqrt(v @ v)
        assert float(cosine_drift(old, fresh)[row]) == pytest.approx(1 - cosine, abs=1e-6)
        change = np.sqrt(((v - u) ** 2).sum()) / np.sqrt((u**2).sum())
        assert float(relative_l2_drift(old, fresh)[row]) == pytest.approx(change, abs=1e-6)


def test_equal_embeddings_have_no_drift_at_all(embeddings):
    old, _ = embeddings
    assert cosine_drift(old, old.clone()).max() == 0
    assert relative_l2_drift(old, old.clone()).max() == 0
    assert cosine_drift(old, 3 * old).max() < 1e-12, "length is no matter of the cosine"
    assert relative_l2_drift(old, 3 * old).min() == pytest.approx(2)


@pytest.mark.parametrize("k", [1, 4])
def test_overlap_against_sets(embeddings, k):
    old, fresh = embeddings
    queries = torch.randn(7, 8, generator=torch.Generator().manual_seed(1))
    candidates = torch.arange(0, 60, 2)  # rows of a larger index
    stale_rows = candidates[(queries @ old.T).topk(k).indices]
    found = top_k_overlap(stale_rows, candidates, queries @ fresh.T)
    expected = []
    for b in range(7):
        ranked = sorted(range(30), key=lambda i: -float(queries[b] @ fresh[i]))
        expected.append(len({int(candidates[i]) for i in ranked[:k]} & set(stale_rows[b].tolist())) / k)
    assert found.tolist() == pytest.approx(expected)
    assert 0 < found.mean() < 1


def test_a_tie_with_the_last_place_is_in():
    candidates, stale_rows = torch.tensor([3, 5, 9]), torch.tensor([[3, 9]])
    noise = 1e-7
    assert top_k_overlap(stale_rows, candidates, torch.tensor([[0.9, 0.5 + noise, 0.5]])).item() == 1
    assert top_k_overlap(stale_rows, candidates, torch.tensor([[0.9, 0.5, 0.4]])).item() == 0.5
    assert top_k_overlap(stale_rows, candidates, torch.tensor([[-0.9, -0.5, -0.4]])).item() == 0.5


def test_docstring_examples():
    assert doctest.testmod(staleness).failed == 0
