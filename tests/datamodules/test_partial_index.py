"""The rows of a part of a knowledge base, and search in it, against plain loops."""

import numpy as np
import pytest

from datamodules.partial_index import PartialIndex, choose_rows
from datamodules.passage_index import UnusableEmbeddingsError


def test_what_is_needed_first_comes_first():
    needed = [[5, 6, 7], [8], [], [5, 9]]
    assert choose_rows(needed, 2, 100, 0).tolist() == [5, 8]
    assert choose_rows(needed, 4, 100, 0).tolist() == [5, 6, 8, 9]
    rows = choose_rows(needed, 50, 100, 0)
    assert {5, 6, 7, 8, 9} <= set(rows.tolist())
    assert len(set(rows.tolist())) == 50
    assert rows.tolist() == sorted(rows)
    assert rows.max() > 60, "the rest is a sample of all"


def test_the_sample_is_seeded():
    first, again, other = (choose_rows([[3]], 20, 1000, seed).tolist() for seed in (0, 0, 1))
    assert first == again != other


@pytest.mark.parametrize("num_rows", [10, 11])
def test_a_part_that_would_be_all_is_all(num_rows):
    assert choose_rows([[9, 9, 2]], num_rows, 10, 0).tolist() == list(range(10))


def test_search_finds_the_rows_of_the_whole():
    generator = np.random.default_rng(0)
    whole = generator.normal(size=(200, 8)).astype(np.float16)
    queries = generator.normal(size=(5, 8)).astype(np.float32)
    rows = choose_rows([], 40, 200, 0)
    index = PartialIndex(whole[rows], rows)
    whole = whole.astype(np.float32)
    scores, found = index.search(queries, 7)
    assert len(index) == 40
    for query, of_query, values in zip(queries, found, scores, strict=True):
        expected = sorted(rows.tolist(), key=lambda row: -float(whole[row] @ query))[:7]
        assert of_query.tolist() == expected
        np.testing.assert_allclose(values, whole[expected] @ query, rtol=1e-5)
    with pytest.raises(ValueError, match="cannot retrieve k = 41 passages from an index of 40"):
        index.search(queries, 41)
    assert [found.shape for found in index.search(queries[:0], 7)] == [(0, 7), (0, 7)]


def test_embeddings_that_nothing_can_be_found_by_are_refused():
    halves = np.ones((3, 8), dtype=np.float16)
    halves[1] = 0
    with pytest.raises(UnusableEmbeddingsError, match="row 7 is all zeros"):
        PartialIndex(halves, np.array([2, 7, 9]))
