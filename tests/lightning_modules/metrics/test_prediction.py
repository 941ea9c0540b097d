"""Measures against gains over teachers: against SciPy and plain loops."""

import numpy as np
import pytest
from scipy.stats import spearmanr

from lightning_modules.metrics.prediction import (
    balanced_accuracy,
    correlation_with_gain,
    difference_of_correlations,
    predict_left_out,
    rank_correlation,
)


def test_the_correlation_is_scipys_with_ties_and_nan_where_one_side_is_constant():
    random = np.random.default_rng(0)
    first, second = random.integers(0, 4, (20, 9)).astype(float), random.normal(size=(20, 9))
    found = rank_correlation(first, second)
    assert found == pytest.approx([spearmanr(a, b).statistic for a, b in zip(first, second, strict=True)])
    assert np.isnan(rank_correlation(np.ones(5), second[0, :5]))


def noisy_gains(quality: np.ndarray, num_seeds: int, num_questions: int, noise: float) -> np.ndarray:
    random = np.random.default_rng(1)
    of_question = random.normal(size=num_questions)
    drawn = random.normal(scale=noise, size=(len(quality), num_seeds, num_questions))
    return quality[:, None, None] + of_question + drawn


def test_the_value_is_that_of_the_mean_gains_and_the_interval_is_a_plain_bootstraps():
    quality = np.linspace(0, 1, 12)
    measure = quality + np.random.default_rng(2).normal(scale=0.3, size=12)
    gains = noisy_gains(quality, 3, 40, 1.5)
    found = correlation_with_gain(measure, gains)
    assert found.mean == pytest.approx(spearmanr(measure, gains.mean(axis=(1, 2))).statistic)
    assert found.n == 12
    low, high = plain_interval(measure, gains)
    assert (found.low, found.high) == pytest.approx((low, high), abs=0.04)
    assert found.low < found.mean < found.high


def plain_interval(measure: np.ndarray, gains: np.ndarray) -> tuple[float, float]:
    """With another generator, one draw after the other."""
    random = np.random.default_rng(3)
    num_teachers, num_seeds, num_questions = gains.shape
    found = []
    for _ in range(2000):
        questions = random.integers(0, num_questions, num_questions)
        x, y = [], []
        for _ in range(num_teachers):
            teacher = random.integers(0, num_teachers)
            of_seeds = [gains[teacher, random.integers(0, num_seeds)] for _ in range(num_seeds)]
            x.append(measure[teacher])
            y.append(np.mean([values[questions].mean() for values in of_seeds]))
        found.append(spearmanr(x, y).statistic)
    low, high = np.quantile(found, [0.025, 0.975])
    return float(low), float(high)


def test_teachers_without_the_measure_are_left_out_and_few_say_nothing():
    gains = noisy_gains(np.arange(6.0), 2, 10, 0.1)
    measure = np.array([0.0, 1.0, 2.0, 3.0, np.nan, 5.0])
    found = correlation_with_gain(measure, gains)
    assert (found.mean, found.n) == (pytest.approx(1.0), 5)
    few = correlation_with_gain(np.array([0.0, 1.0, 2.0, np.nan, np.nan, np.nan]), gains)
    assert np.isnan(few.mean)
    assert few.n == 3
    constant = correlation_with_gain(np.ones(6), gains)
    assert np.isnan(constant.mean)
    assert np.isnan(constant.low)


def test_a_difference_is_that_of_the_correlations_and_none_of_a_measure_and_its_mirror_image():
    quality = np.linspace(0, 1, 15)
    random = np.random.default_rng(6)
    good, bad = quality + random.normal(scale=0.1, size=15), random.normal(size=15)
    gains = noisy_gains(quality, 3, 40, 1.0)
    means = gains.mean(axis=(1, 2))
    found = difference_of_correlations(good, bad, gains)
    expected = abs(spearmanr(good, means).statistic) - abs(spearmanr(bad, means).statistic)
    assert found.mean == pytest.approx(expected)
    assert 0 < found.low < found.mean < found.high
    mirrored = difference_of_correlations(good, -good, gains)
    assert (mirrored.mean, mirrored.low, mirrored.high) == pytest.approx((0, 0, 0))
    assert difference_of_correlations(good, np.full(15, np.nan), gains).n == 0


def test_a_rule_made_without_a_family_never_sees_it():
    families = ["a", "a", "b", "b", "c", "c"]
    good = np.array([0.1, 0.2, 0.3, 0.4, 0.5, 0.6])
    gains = 2 * good - 0.1
    noise = np.array([3.0, 1.0, 2.0, 3.0, 1.0, 2.0])
    found = predict_left_out({"noise": noise, "good": good}, gains, families)
    assert found.predicted == pytest.approx(gains)
    assert found.chosen == dict.fromkeys("abc", "good")
    assert found.from_mean[:2] == pytest.approx(np.full(2, gains[2:].mean()))
    # what the left-out family gained makes no difference to what is said of it
    other = predict_left_out({"noise": noise, "good": good}, np.array([9.0, -9.0, *gains[2:]]), families)
    assert other.predicted[:2] == pytest.approx(found.predicted[:2])


def test_a_rule_is_least_squares_with_either_sign_and_of_the_best_measure_without_the_family():
    random = np.random.default_rng(4)
    families = ["a"] * 4 + ["b"] * 4 + ["c"] * 4
    gains = random.normal(size=12)
    measures = {"one": random.normal(size=12), "two": -gains + random.normal(scale=0.4, size=12)}
    found = predict_left_out(measures, gains, families)
    for family in "abc":
        inside = np.array([name == family for name in families])
        best = max(
            measures, key=lambda name: abs(spearmanr(measures[name][~inside], gains[~inside]).statistic)
        )
        line = np.polynomial.Polynomial.fit(measures[best][~inside], gains[~inside], 1)
        assert found.chosen[family] == best
        assert found.predicted[inside] == pytest.approx(line(measures[best][inside]))


def test_one_family_is_no_test():
    with pytest.raises(ValueError, match="needs another"):
        predict_left_out({"m": np.arange(3.0)}, np.arange(3.0), ["a", "a", "a"])


def test_a_constant_measure_predicts_the_mean():
    found = predict_left_out({"m": np.ones(4)}, np.arange(4.0), ["a", "a", "b", "b"])
    assert found.predicted == pytest.approx(found.from_mean)


def test_balanced_accuracy_of_one_kind_alone_is_unknown():
    assert np.isnan(balanced_accuracy([True, False], [True, True]))
    assert balanced_accuracy([True, True], [True, False]) == 0.5
