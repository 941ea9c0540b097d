import doctest

import pytest
import torch

from datamodules.errors import DataError
from lightning_modules.metrics import hit_rate as module
from lightning_modules.metrics.hit_rate import HitRate, has_answer


def hit_rate_reference(ranks, k):
    return sum(1 for rank in ranks if rank in range(k)) / len(ranks)


def test_an_answer_is_found_by_the_rule():
    assert not has_answer("Parisian", ["Paris"], "tokens")
    assert has_answer("Parisian", ["Paris"], "substring")


def test_hit_rates_equal_counting_by_hand():
    ranks = torch.randint(-1, 30, (200,), generator=torch.Generator().manual_seed(0))
    hit_rate = HitRate()
    for part in ranks.split(64):
        hit_rate.update(part)
    expected = {f"hr_at_{k}": torch.tensor(hit_rate_reference(ranks.tolist(), k)) for k in (1, 5, 20)}
    torch.testing.assert_close(hit_rate.compute(), expected)


def test_ranks_with_unequal_shares_add_up():
    ranks = torch.tensor([0, 4, 5, 19, 20, -1, -1])
    whole, first, second = HitRate(), HitRate(), HitRate()
    whole.update(ranks)
    first.update(ranks[:2])
    second.update(ranks[2:])
    first.merge_state(second)
    torch.testing.assert_close(first.compute(), whole.compute())


@pytest.mark.parametrize("ks", [(), (0, 5)])
def test_cutoffs_below_one_are_refused(ks):
    with pytest.raises(DataError, match="cut-offs"):
        HitRate(ks)


def test_docstring_examples():
    assert doctest.testmod(module).failed == 0
