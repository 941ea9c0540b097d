"""Bootstrap intervals against SciPy, and against the standard errors of theory."""

import numpy as np
import pytest
from scipy import stats

from lightning_modules.metrics import bootstrap
from lightning_modules.metrics.bootstrap import bootstrap_interval, hierarchical_bootstrap_interval

NAN = float("nan")


@pytest.mark.parametrize("level", [0.95, 0.8])
@pytest.mark.parametrize("block", [40, 4_000_000])
def test_as_scipy_has_it(monkeypatch, level, block):
    monkeypatch.setattr(bootstrap, "_BLOCK", block)
    values = np.random.default_rng(1).exponential(size=30)
    expected = stats.bootstrap(
        (values,), np.mean, n_resamples=500, confidence_level=level, method="percentile", rng=7
    ).confidence_interval
    assert bootstrap_interval(values, num_samples=500, level=level, seed=7) == pytest.approx(expected)


def test_undefined_values_are_left_out():
    assert bootstrap_interval([NAN, 1.0, 3.0, NAN, 2.0]) == bootstrap_interval([1.0, 3.0, 2.0])
    assert np.isnan(bootstrap_interval([NAN])).all()
    assert np.isnan(bootstrap_interval([])).all()
    groups = [[1.0, 2.0], [4.0]]
    expected = hierarchical_bootstrap_interval(groups)
    assert hierarchical_bootstrap_interval([[1.0, NAN, 2.0], [NAN], [4.0]]) == expected
    assert np.isnan(hierarchical_bootstrap_interval([[NAN], []])).all()


def test_same_seed_same_interval():
    values = np.random.default_rng(1).normal(size=50)
    assert bootstrap_interval(values, seed=3) == bootstrap_interval(values, seed=3)
    assert bootstrap_interval(values, seed=3) != bootstrap_interval(values, seed=4)


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
