"""Summaries over instances, some of which have no value."""

import doctest
import math

import numpy as np
import pytest
import torch
from torch import Tensor

from lightning_modules.metrics import instance_values
from lightning_modules.metrics.instance_values import InstanceValues, mean_and_std


class Lengths(InstanceValues):
    """The smallest metric that keeps values."""

    def __init__(self) -> None:
        super().__init__({"length": "text/length"})

    def update(self, lengths: Tensor) -> None:
        self.length.append(lengths)

    def compute(self) -> dict[str, Tensor]:
        mean, _ = mean_and_std(self.current_values()["text/length"])
        return {"text/length": mean}


@pytest.mark.parametrize("count", [2, 3, 50])
def test_mean_and_std_leave_out_nan(count):
    values = np.random.default_rng(count).standard_normal(count).astype(np.float32)
    with_gaps = torch.tensor(values).repeat_interleave(2)
    with_gaps[1::2] = torch.nan
    mean, std = mean_and_std(with_gaps)
    assert mean.item() == pytest.approx(values.mean(dtype=np.float64), abs=1e-6)
    assert std.item() == pytest.approx(values.std(ddof=1, dtype=np.float64), abs=1e-6)


@pytest.mark.parametrize(("values", "expected"), [([], math.nan), ([math.nan], math.nan), ([3.0], 3.0)])
def test_too_few_values_are_nan_without_warning(values, expected):
    mean, std = mean_and_std(torch.tensor(values))
    assert mean.item() == pytest.approx(expected, nan_ok=True)
    assert std.isnan()
    assert mean.shape == std.shape == ()


def test_values_keep_every_instance_and_reset_forgets_them():
    metric = Lengths()
    metric.update(torch.tensor([1.0, 2.0]))
    metric.update(torch.tensor([6.0]))
    assert metric.values()["text/length"].tolist() == [1.0, 2.0, 6.0]
    assert metric.compute()["text/length"] == 3.0
    assert metric.values()["text/length"].tolist() == [1.0, 2.0, 6.0]
    metric.reset()
    assert metric.values()["text/length"].shape == (0,)


def test_without_update_nothing_warns():
    metric = Lengths()
    assert metric.compute()["text/length"].isnan()
    metric.update(torch.tensor([1.0]))
    assert metric.compute()["text/length"] == 1.0


def test_forward_and_copies_compute_too():
    metric = Lengths()
    assert metric(torch.tensor([4.0]))["text/length"] == 4.0
    assert metric(torch.tensor([6.0]))["text/length"] == 6.0
    assert metric.clone().compute()["text/length"] == 5.0


def test_docstring_examples():
    assert doctest.testmod(instance_values).failed == 0
