"""The percentile bootstrap against SciPy's."""

import math

import numpy as np
import pytest
import torch
from scipy import stats

from lightning_modules.metrics import bootstrap
from lightning_modules.metrics.bootstrap import bootstrap_interval, hierarchical_bootstrap_interval

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


def test_undefined_values_of_groups_are_left_out():
    expected = hierarchical_bootstrap_interval([[1.0, 2.0], [4.0]])
    assert hierarchical_bootstrap_interval([[1.0, math.nan, 2.0], [math.nan], [4.0]]) == expected
    assert np.isnan(hierarchical_bootstrap_interval([[math.nan], []])).all()


def test_groups_that_differ_widen_the_interval():
    """Variance of the mean of G drawn groups of n: between the groups / G + within them / (G n)."""
    random = np.random.default_rng(2)
    groups = [random.normal(loc=loc, size=200) for loc in (-1.0, 0.0, 1.0, 2.0)]
    between = np.var([group.mean() for group in groups]) / len(groups)
    within = np.mean([group.var() for group in groups]) / (200 * len(groups))
    spread = 2 * stats.norm.ppf(0.9) * np.sqrt(between + within)
    low, high = hierarchical_bootstrap_interval(groups, num_samples=4000, level=0.8)
    assert high - low == pytest.approx(spread, rel=0.1)
    pooled_low, pooled_high = bootstrap_interval(np.concatenate(groups), level=0.8)
    assert pooled_high - pooled_low < (high - low) / 4


def test_a_single_group_is_the_plain_bootstrap():
    values = np.random.default_rng(3).normal(size=400)
    expected = bootstrap_interval(values, num_samples=4000)
    assert hierarchical_bootstrap_interval([values], num_samples=4000) == pytest.approx(expected, abs=0.01)
