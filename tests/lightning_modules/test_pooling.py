"""Poolings against loops over each text's real tokens."""

import pytest
import torch

from lightning_modules.pooling import Pooling, pool

REAL = {
    Pooling.MEAN: lambda rows: sum(rows) / len(rows),
    Pooling.CLS: lambda rows: rows[0],
    Pooling.LAST_TOKEN: lambda rows: rows[-1],
}


@pytest.mark.parametrize("how", Pooling)
def test_pooling_equals_a_loop_wherever_the_padding_is(how):
    hidden = torch.randn(3, 4, 2, generator=torch.Generator().manual_seed(0))
    mask = torch.tensor([[True, True, True, True], [False, False, True, True], [True, True, False, False]])
    expected = torch.stack([REAL[how](list(hidden[b][mask[b]])) for b in range(3)])
    torch.testing.assert_close(pool(hidden, mask, how), expected)
