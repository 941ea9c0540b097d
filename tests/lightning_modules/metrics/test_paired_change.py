"""Bounds against SciPy's paired t interval; false stops and power of the rule by simulation."""

import doctest
import math

import numpy as np
import pytest
from scipy import stats

from callbacks.stop_on_indicators import MONITORS
from lightning_modules.metrics import paired_change as module
from lightning_modules.metrics.paired_change import MIN_PAIRS, DeclineRule, paired_change

START, DECLINED = (0.227, 0.259), (0.145, 0.193)
"""Mean and deviation of Indicator 1's p90 Spearman in the paper, before and after off-the-shelf training."""

NUM_VALIDATIONS = 20
NUM_READINGS = len(MONITORS)
"""Watched by default."""


def test_examples():
    assert doctest.testmod(module).failed == 0


@pytest.mark.parametrize("level", [0.05, 0.0025])
@pytest.mark.parametrize("count", [2, 9, 300])
def test_bounds_are_those_of_the_t_test(count, level):
    rng = np.random.default_rng(count)
    before, after = rng.normal(0.2, 0.3, (2, count))
    change = paired_change(before, after, level)
    interval = stats.ttest_rel(after, before).confidence_interval(1 - 2 * level)
    assert (change.low, change.high) == pytest.approx((interval.low, interval.high))
    assert change.mean == pytest.approx((after - before).mean())
    assert change.num_pairs == count


def test_an_undefined_side_leaves_the_pair_out():
    before = np.array([0.1, np.nan, 0.3, 0.2, np.nan])
    after = np.array([0.4, 0.2, np.nan, 0.1, np.nan])
    change = paired_change(before, after)
    kept = paired_change(before[[0, 3]], after[[0, 3]])
    assert change == pytest.approx(kept)
    assert change.num_pairs == 2


@pytest.mark.parametrize("count", [0, 1])
def test_no_bounds_without_two_pairs(count):
    change = paired_change(np.zeros(count), np.full(count, -0.5))
    assert math.isnan(change.low)
    assert math.isnan(change.high)
    assert not DeclineRule().is_below(change)


def test_runs_are_independent_of_each_other():
    rng = np.random.default_rng(0)
    before, after = rng.normal(size=(2, 4, 30))
    after[2, :7] = np.nan
    together = paired_change(before, after)
    for run in range(4):
        alone = paired_change(before[run], after[run])
        assert [float(part[run]) for part in together] == pytest.approx([float(part) for part in alone])


def test_few_pairs_decide_nothing():
    rule = DeclineRule()
    changes = [paired_change(np.zeros(n), np.full(n, -1.0), rule.level) for n in (MIN_PAIRS - 1, MIN_PAIRS)]
    assert [bool(rule.is_below(change)) for change in changes] == [False, True]


@pytest.mark.parametrize(
    ("rule", "num_chances"),
    [
        (DeclineRule(patience=1), 20),
        (DeclineRule(patience=3), 6),
        (DeclineRule(patience=2, num_metrics=2), 20),
        (DeclineRule(patience=5, num_validations=3), 1),
    ],
)
def test_the_rate_is_shared_by_all_chances_to_stop(rule, num_chances):
    assert rule.level == pytest.approx(0.05 / num_chances)


@pytest.mark.parametrize(
    "settings",
    [
        {"margin": -0.1},
        {"margin": math.nan},
        {"patience": 0},
        {"num_validations": 0},
        {"num_metrics": 0},
        {"false_stop_rate": 0.0},
        {"false_stop_rate": 0.5},
    ],
)
def test_bad_settings_are_refused(settings):
    with pytest.raises(ValueError, match=next(iter(settings))):
        DeclineRule(**settings)


# ---- simulation ----


def stops(rule: DeclineRule, before: np.ndarray, after: np.ndarray) -> np.ndarray:
    """Which runs are stopped; `after` is [runs, validations, questions]."""
    is_below = rule.is_below(paired_change(np.broadcast_to(before, after.shape), after, rule.level))
    windows = np.lib.stride_tricks.sliding_window_view(is_below, rule.patience, axis=1)
    return windows.all(axis=-1).any(axis=1)


def readings(
    rng: np.random.Generator, shape: tuple[int, int, int], mean: float, std: float, level_of_question, share
) -> np.ndarray:
    """Readings of which `share` of the variance belongs to the question, the rest to the validation."""
    noise = rng.standard_normal(shape)
    return mean + std * (math.sqrt(share) * level_of_question + math.sqrt(1 - share) * noise)


def rate_of_stops(
    rule, after, num_questions, validations, share=0.3, num_runs=2000, shared_start=True, seed=0
):
    """Runs from `START`, in batches that fit into memory."""
    rng, stopped, batch = np.random.default_rng(seed), 0, 100
    for _ in range(num_runs // batch):
        level = rng.standard_normal((batch, 1, num_questions))
        starts = 1 if shared_start else validations
        before = readings(rng, (batch, starts, num_questions), *START, level, share)
        now = readings(rng, (batch, validations, num_questions), *after, level, share)
        stopped += stops(rule, before, now).sum()
    return stopped / num_runs


@pytest.mark.parametrize("shared_start", [True, False], ids=["shared start", "independent"])
@pytest.mark.parametrize(("num_questions", "num_runs"), [(30, 4000), (200, 1500), (1000, 500)])
@pytest.mark.parametrize("patience", [1, 2])
def test_noise_alone_rarely_stops_a_run(num_questions, num_runs, shared_start, patience):
    """The rate for one of the readings must stay below its share of the whole."""
    rule = DeclineRule(patience=patience, num_validations=NUM_VALIDATIONS, num_metrics=NUM_READINGS)
    rate = rate_of_stops(
        rule, START, num_questions, NUM_VALIDATIONS, num_runs=num_runs, shared_start=shared_start
    )
    assert rate < rule.false_stop_rate / NUM_READINGS


def test_without_the_correction_noise_stops_runs():
    """What the levels are for: a bound of 5% at each of 20 validations."""
    naive = DeclineRule(patience=1, num_validations=1)
    assert rate_of_stops(naive, START, 30, NUM_VALIDATIONS) > 0.15


@pytest.mark.parametrize(
    ("num_questions", "share", "power"), [(200, 0.3, 0.8), (200, 0.6, 0.97), (1000, 0.3, 0.999)]
)
def test_the_decline_of_the_paper_is_found_within_three_validations(num_questions, share, power):
    rule = DeclineRule(num_validations=NUM_VALIDATIONS, num_metrics=NUM_READINGS)
    assert rate_of_stops(rule, DECLINED, num_questions, 3, share, num_runs=500) > power


@pytest.mark.parametrize(("share", "low", "high"), [(0.3, 0.01, 0.1), (0.6, 0.05, 0.2)])
def test_32_questions_rarely_show_the_decline_within_three_validations(share, low, high):
    """The honest limit of small validations: most declines of the paper's size are not found so soon."""
    rule = DeclineRule(num_validations=NUM_VALIDATIONS, num_metrics=NUM_READINGS)
    assert low < rate_of_stops(rule, DECLINED, 32, 3, share, num_runs=3000) < high


def test_a_tolerated_decline_does_not_stop_a_run():
    rule = DeclineRule(margin=0.1, num_validations=NUM_VALIDATIONS)
    assert rate_of_stops(rule, DECLINED, 1000, 3, num_runs=200) == 0


def test_the_first_decline_is_the_last_of_a_row_of_validations_below():
    random = np.random.default_rng(0)
    start = (random.random(200) < 0.6).astype(float)
    ruined = start * (random.random(200) < 0.5)
    rule = DeclineRule(patience=2, num_validations=5)
    assert rule.first_decline(start, np.stack([start, ruined, ruined, start])) == 2
    assert rule.first_decline(start, np.stack([ruined, start, ruined, start])) is None
    assert rule.first_decline(start, np.empty((0, 200))) is None
    at_once = DeclineRule(patience=1, num_validations=5)
    assert at_once.first_decline(start, np.stack([start, ruined])) == 1
