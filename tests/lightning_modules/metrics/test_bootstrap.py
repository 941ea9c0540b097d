"""The percentile bootstrap against SciPy's."""

import math

import numpy as np
import pytest
import torch
from scipy import stats

from lightning_modules.metrics import bootstrap
from lightning_modules.metrics.bootstrap import bootstrap_interval

VALUES = np.random.default_rng(7).normal(0.3, 0.2, size=41)


def scipys(values, num_samples=2000, level=0.95, seed=0):
    interval = stats.bootstrap(
        (values,),
        np.mean,
        n_resamples=num_samples,
        confidence_level=level,
        method="percentile",
        rng=np.random.default_rng(seed),
    ).confidence_interval
    return interval.low, interval.high


@pytest.mark.parametrize("settings", [{}, {"num_samples": 333, "level": 0.8, "seed": 3}])
def test_equals_scipy(settings):
    assert bootstrap_interval(VALUES, **settings) == pytest.approx(scipys(VALUES, **settings), abs=1e-12)


def test_drawing_in_parts_changes_nothing(monkeypatch):
    whole = bootstrap_interval(VALUES)
    monkeypatch.setattr(bootstrap, "_LARGEST_DRAW", 10 * len(VALUES))
    assert bootstrap_interval(VALUES) == whole


def test_undefined_instances_are_left_out():
    with_gaps = np.insert(VALUES, [0, 20, 41], np.nan)
    assert bootstrap_interval(with_gaps) == bootstrap_interval(VALUES)


def test_lists_and_tensors_are_as_good_as_arrays():
    expected = bootstrap_interval(VALUES)
    assert bootstrap_interval(VALUES.tolist()) == expected
    assert bootstrap_interval(torch.from_numpy(VALUES)) == expected


@pytest.mark.parametrize("values", [[], [0.5], [float("nan"), 0.5, float("nan")]])
def test_fewer_than_two_values_have_no_interval(values):
    assert all(math.isnan(end) for end in bootstrap_interval(values))
