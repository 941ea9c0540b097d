"""The percentile bootstrap against SciPy's."""

import math

import numpy as np
import pytest
import torch
from scipy import stats

from lightning_modules.metrics import bootstrap
from lightning_modules.metrics.bootstrap import bootstrap_interval, crossed_bootstrap_interval

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


def test_seeds_that_differ_widen_the_interval():
    """Variance of the mean of S drawn seeds of n questions: between the seeds / S + of the questions / n."""
    random = np.random.default_rng(2)
    values = random.normal(size=200) + np.array([[-1.0], [0.0], [1.0], [2.0]])
    between, of_questions = values.mean(axis=1).var() / 4, values.mean(axis=0).var() / 200
    spread = 2 * stats.norm.ppf(0.9) * np.sqrt(between + of_questions)
    low, high = crossed_bootstrap_interval(values, num_samples=4000, level=0.8)
    assert high - low == pytest.approx(spread, rel=0.1)


def test_what_a_seed_has_not_measured_is_left_out(monkeypatch):
    values = np.array([[1.0, math.nan, 2.0, 5.0], [math.nan] * 4, [4.0, 0.0, math.nan, 1.0]])
    random = np.random.default_rng(0)
    found = []
    for _ in range(4000):
        seeds, questions = random.integers(0, 3, 3), random.integers(0, 4, 4)
        drawn = values[np.ix_(seeds, questions)]
        if not np.isnan(drawn).all():
            found.append(np.nanmean(drawn))
    expected = np.quantile(found, [0.025, 0.975])
    assert crossed_bootstrap_interval(values, num_samples=4000) == pytest.approx(expected, abs=0.15)
    monkeypatch.setattr(bootstrap, "_LARGEST_DRAW", 64)
    assert crossed_bootstrap_interval(values, num_samples=4000) == pytest.approx(expected, abs=0.15)
    assert np.isnan(crossed_bootstrap_interval(np.full((2, 3), math.nan))).all()


def test_crossed_draws_are_a_plain_loops():
    random = np.random.default_rng(0)
    values = random.normal(size=(3, 40)) + 2 * random.normal(size=40) + random.normal(size=(3, 1))
    found = []
    for _ in range(4000):
        seeds, questions = random.integers(0, 3, 3), random.integers(0, 40, 40)
        found.append(values[np.ix_(seeds, questions)].mean())
    expected = np.quantile(found, [0.025, 0.975])
    assert crossed_bootstrap_interval(values, num_samples=4000) == pytest.approx(expected, abs=0.06)


def test_questions_that_all_seeds_share_do_not_become_more_by_more_seeds():
    values = np.random.default_rng(1).normal(size=50)
    once = crossed_bootstrap_interval(values[None], num_samples=4000)
    assert once == pytest.approx(bootstrap_interval(values, num_samples=4000), abs=0.03)
    low, high = crossed_bootstrap_interval(np.tile(values, (5, 1)), num_samples=4000)
    assert high - low == pytest.approx(once[1] - once[0], rel=0.06)
