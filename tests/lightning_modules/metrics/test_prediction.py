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
    reliability,
)


def test_the_correlation_is_scipys_with_ties_and_nan_where_one_side_is_constant():
    random = np.random.default_rng(0)
    first, second = random.integers(0, 4, (20, 9)).astype(float), random.normal(size=(20, 9))
    found = rank_correlation(first, second)
    assert found == pytest.approx([spearmanr(a, b).statistic for a, b in zip(first, second, strict=True)])
    assert np.isnan(rank_correlation(np.ones(5), second[0, :5]))


def test_what_differs_in_its_last_bits_alone_is_a_tie():
    """As means of the same values do that were summed in another order."""
    first, second = np.array([0.1 + 0.2, 0.3, 0.3 - 1e-16, 1e-18, 0.0]), np.arange(5.0)
    assert len(set(first.tolist())) == 5
    expected = spearmanr([2, 2, 2, 0, 0], second).statistic
    assert float(rank_correlation(first, second)) == pytest.approx(expected)
    assert float(rank_correlation(second, 1e-12 * first)) == pytest.approx(expected), "whatever its unit"
    apart = np.array([0.3 + 1e-8, 0.3, 0.3 - 1e-8, 1e-8, 0.0])
    assert float(rank_correlation(apart, -second)) == pytest.approx(1.0)


def test_the_interval_does_not_hang_on_the_order_of_summing():
    """Several teachers have equal gains, with errors as another number of threads makes them."""
    random = np.random.default_rng(0)
    gains = random.integers(-1, 2, (9, 3, 20)).astype(float)
    gains[4:] = gains[[0, 1, 2, 0, 1], :, ::-1]  # so that samples of teachers are full of ties
    shaken = gains + random.uniform(-1e-15, 1e-15, gains.shape)
    measure, families = random.normal(size=9), [str(i) for i in range(9)]
    assert correlation_with_gain(measure, shaken, families) == correlation_with_gain(measure, gains, families)


def noisy_gains(quality: np.ndarray, num_seeds: int, num_questions: int, noise: float) -> np.ndarray:
    random = np.random.default_rng(1)
    of_question = random.normal(size=num_questions)
    drawn = random.normal(scale=noise, size=(len(quality), num_seeds, num_questions))
    return quality[:, None, None] + of_question + drawn


FAMILIES = ["a", "a", "a", "b", "b", "c", "d", "d", "d", "d", "e", "e"]


def test_the_value_is_that_of_the_mean_gains_and_the_interval_is_a_plain_bootstraps():
    quality = np.linspace(0, 1, 12)
    measure = quality + np.random.default_rng(2).normal(scale=0.3, size=12)
    gains = noisy_gains(quality, 3, 40, 1.5)
    found = correlation_with_gain(measure, gains, FAMILIES)
    assert found.mean == pytest.approx(spearmanr(measure, gains.mean(axis=(1, 2))).statistic)
    assert found.n == 12
    low, high = plain_interval(measure, gains, FAMILIES)
    assert (found.low, found.high) == pytest.approx((low, high), abs=0.04)
    assert found.low < found.mean < found.high


def plain_interval(measure: np.ndarray, gains: np.ndarray, families: list[str]) -> tuple[float, float]:
    """With another generator, one draw after the other."""
    random = np.random.default_rng(3)
    _, num_seeds, num_questions = gains.shape
    names = sorted(set(families))
    found = []
    for _ in range(2000):
        questions = random.integers(0, num_questions, num_questions)
        seeds = random.integers(0, num_seeds, num_seeds)
        x, y = [], []
        for _ in names:
            family = names[random.integers(0, len(names))]
            members = [i for i, of in enumerate(families) if of == family]
            for _ in members:
                teacher = members[random.integers(0, len(members))]
                x.append(measure[teacher])
                y.append(np.mean([gains[teacher, seed, questions].mean() for seed in seeds]))
        found.append(spearmanr(x, y).statistic if len(set(x)) > 1 else np.nan)
    low, high = np.nanquantile(found, [0.025, 0.975])
    return float(low), float(high)


def test_teachers_that_are_alike_are_fewer_than_they_look():
    """Four families of five copies each say no more than four teachers."""
    quality = np.repeat([0.0, 0.2, 0.4, 0.6], 5)
    measure = np.repeat([0.1, 0.0, 0.3, 0.2], 5) + np.tile([0.0, 0.001, 0.002, 0.003, 0.004], 4)
    gains = noisy_gains(quality, 2, 50, 0.01)
    alone = correlation_with_gain(measure, gains, [str(i) for i in range(20)])
    together = correlation_with_gain(measure, gains, [str(i // 5) for i in range(20)])
    assert together.mean == alone.mean
    assert together.high - together.low > 1.5 * (alone.high - alone.low)


def test_teachers_without_the_measure_are_left_out_and_few_say_nothing():
    gains = noisy_gains(np.arange(6.0), 2, 10, 0.1)
    families = list("abcdef")
    measure = np.array([0.0, 1.0, 2.0, 3.0, np.nan, 5.0])
    found = correlation_with_gain(measure, gains, families)
    assert (found.mean, found.n) == (pytest.approx(1.0), 5)
    assert np.isnan([found.low, found.high]).all(), "an interval over five would hold everything"
    few = correlation_with_gain(np.array([0.0, 1.0, 2.0, np.nan, np.nan, np.nan]), gains, families)
    assert np.isnan(few.mean)
    assert few.n == 3
    constant = correlation_with_gain(np.ones(6), gains, families)
    assert np.isnan(constant.mean)
    assert np.isnan(constant.low)


def test_a_difference_is_that_of_the_correlations_and_none_of_a_measure_and_itself():
    quality = np.linspace(0, 1, 15)
    random = np.random.default_rng(6)
    good, bad = quality + random.normal(scale=0.1, size=15), random.normal(size=15)
    gains, families = noisy_gains(quality, 3, 40, 1.0), [str(i) for i in range(15)]
    means = gains.mean(axis=(1, 2))
    found = difference_of_correlations(good, bad, gains, families)
    expected = spearmanr(good, means).statistic - spearmanr(bad, means).statistic
    assert found.mean == pytest.approx(expected)
    assert 0 < found.low < found.mean < found.high
    same = difference_of_correlations(good, 2 * good, gains, families)
    assert (same.mean, same.low, same.high) == pytest.approx((0, 0, 0))
    mirrored = difference_of_correlations(good, -good, gains, families)
    assert mirrored.mean == pytest.approx(2 * spearmanr(good, means).statistic)
    assert difference_of_correlations(good, np.full(15, np.nan), gains, families).n == 0


def test_reliability_is_how_well_two_measurements_of_all_questions_would_agree():
    quality = np.linspace(0, 1, 40)
    random = np.random.default_rng(7)
    first, second = (quality[:, None, None] + random.normal(scale=6.0, size=(40, 2, 200)) for _ in range(2))
    agree = spearmanr(first.mean(axis=(1, 2)), second.mean(axis=(1, 2))).statistic
    assert reliability(first) == pytest.approx(agree, abs=0.15)
    assert 0.2 < reliability(first) < 0.95
    assert reliability(quality[:, None, None] + np.zeros((40, 2, 20))) == pytest.approx(1.0)


def test_a_rule_for_a_teacher_never_sees_one_that_is_like_it():
    traits = [{"a", "x"}, {"a", "y"}, *({name} for name in "bcdef")]
    good = np.array([0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7])
    gains = 2 * good - 0.1
    noise = np.array([3.0, 1.0, 2.0, 3.0, 1.0, 2.0, 2.5])
    measures = {"noise": noise, "good": good}
    found = predict_left_out(measures, gains, traits)
    assert found.predicted == pytest.approx(gains)
    assert found.chosen == ["good"] * 7
    assert found.from_mean[:2] == pytest.approx(np.full(2, gains[2:].mean()))
    # what those that are like it gained makes no difference to what is said of it
    other = predict_left_out(measures, np.array([9.0, -9.0, *gains[2:]]), traits)
    assert other.predicted[:2] == pytest.approx(found.predicted[:2])
    assert other.predicted[2:] != pytest.approx(found.predicted[2:])


def test_a_rule_is_least_squares_and_of_the_measure_that_is_best_without_those_like_it():
    random = np.random.default_rng(4)
    traits = [{name} for name in "aaaabbbbcccc"]
    gains = random.normal(size=12)
    measures = {"one": random.normal(size=12), "two": gains + random.normal(scale=0.4, size=12)}
    measures["against"] = -gains  # orders them best, the wrong way round
    found = predict_left_out(measures, gains, traits)
    for teacher, own in enumerate(traits):
        others = np.array([own != of for of in traits])
        best = max(measures, key=lambda name: spearmanr(measures[name][others], gains[others]).statistic)
        line = np.polynomial.Polynomial.fit(measures[best][others], gains[others], 1)
        assert found.chosen[teacher] == best
        assert found.predicted[teacher] == pytest.approx(line(measures[best][teacher]))


def test_of_a_teacher_without_strangers_nothing_is_said():
    found = predict_left_out({"m": np.arange(6.0)}, np.arange(6.0), [{"a"}] * 5 + [{"b"}])
    assert np.isnan(found.predicted[:5]).all()
    assert found.predicted[5] == pytest.approx(5.0)
    assert found.chosen == [*[""] * 5, "m"]


def test_a_constant_measure_predicts_the_mean():
    found = predict_left_out({"m": np.ones(8)}, np.arange(8.0), [{"a"}] * 4 + [{"b"}] * 4)
    assert found.predicted == pytest.approx(found.from_mean)


def test_balanced_accuracy_of_one_kind_alone_is_unknown():
    assert np.isnan(balanced_accuracy([True, False], [True, True]))
    assert balanced_accuracy([True, True], [True, False]) == 0.5
