"""Does a measure of a teacher say beforehand what the teacher will do? Pure maths over many teachers."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int
from scipy.stats import rankdata

from lightning_modules.metrics.estimates import Estimate

FEWEST_TEACHERS = 4
"""Over fewer teachers an order says nothing."""


def rank_correlation(
    first: Float[np.ndarray, "*samples teachers"], second: Float[np.ndarray, "*samples teachers"]
) -> Float[np.ndarray, "*samples"]:
    """Spearman's correlation along the last axis; ties share ranks, NaN where either side is constant.

    Example:
        >>> float(rank_correlation(np.array([1.0, 2.0, 3.0]), np.array([10.0, 30.0, 20.0])))
        0.5
    """
    ranks = [rankdata(values, axis=-1) for values in (first, second)]
    one, other = (of - of.mean(axis=-1, keepdims=True) for of in ranks)
    with np.errstate(invalid="ignore"):
        return np.asarray(
            (one * other).sum(axis=-1) / np.sqrt((one**2).sum(axis=-1) * (other**2).sum(axis=-1))
        )


def correlation_with_gain(
    measure: Float[np.ndarray, " teachers"],
    gains: Float[np.ndarray, "teachers seeds questions"],
    level: float = 0.95,
    num_samples: int = 2000,
    seed: int = 0,
) -> Estimate:
    """Spearman's correlation over teachers between a measure and the mean gain, with a bootstrap interval.

    Each sample draws teachers, for each of them seeds, and questions, the same ones for all teachers, since
    all are judged on the same: the interval holds what other teachers, seeds and questions would have given.

    Args:
        measure: of each teacher; teachers without one (NaN) are left out.
        gains: of each question, with each seed of each teacher.
        level: of the interval.
        num_samples, seed: of the bootstrap.

    Returns:
        With the number of teachers as `n`; NaN of fewer than `FEWEST_TEACHERS`, or of a constant measure.
    """
    known = ~np.isnan(measure)
    measure, gains = measure[known], gains[known]
    if len(measure) < FEWEST_TEACHERS:
        return Estimate(np.nan, np.nan, np.nan, len(measure))
    value = rank_correlation(measure, gains.mean(axis=(1, 2)))
    teachers, drawn = _draw(gains, num_samples, seed)
    return _with_interval(float(value), rank_correlation(measure[teachers], drawn), level, len(measure))


def difference_of_correlations(
    first: Float[np.ndarray, " teachers"],
    second: Float[np.ndarray, " teachers"],
    gains: Float[np.ndarray, "teachers seeds questions"],
    level: float = 0.95,
    num_samples: int = 2000,
    seed: int = 0,
) -> Estimate:
    """By how much better one measure orders teachers than another: the difference of the correlations' sizes.

    Args:
        first, second: measures; teachers without one of them (NaN) are left out.
        gains, level, num_samples, seed: as in `correlation_with_gain`; each sample is the same for both.
    """
    known = ~np.isnan(first) & ~np.isnan(second)
    first, second, gains = first[known], second[known], gains[known]
    if len(first) < FEWEST_TEACHERS:
        return Estimate(np.nan, np.nan, np.nan, len(first))
    means = gains.mean(axis=(1, 2))
    teachers, drawn = _draw(gains, num_samples, seed)
    value = np.abs(rank_correlation(first, means)) - np.abs(rank_correlation(second, means))
    sampled = np.abs(rank_correlation(first[teachers], drawn)) - np.abs(
        rank_correlation(second[teachers], drawn)
    )
    return _with_interval(float(value), sampled, level, len(first))


def _draw(
    gains: Float[np.ndarray, "teachers seeds questions"], num_samples: int, seed: int
) -> tuple[Int[np.ndarray, "samples teachers"], Float[np.ndarray, "samples teachers"]]:
    """Teachers drawn with replacement, and the mean gain of each over drawn seeds and questions."""
    num_teachers, num_seeds, num_questions = gains.shape
    random = np.random.default_rng(seed)
    # how often each question was drawn
    times = random.multinomial(num_questions, np.full(num_questions, 1 / num_questions), num_samples)
    by_seed = np.einsum("tsq,nq->nts", gains, times / num_questions)
    teachers = random.integers(0, num_teachers, (num_samples, num_teachers))
    seeds = random.integers(0, num_seeds, (num_samples, num_teachers, num_seeds))
    samples = np.arange(num_samples)[:, None, None]
    return teachers, by_seed[samples, teachers[..., None], seeds].mean(axis=-1)


def _with_interval(
    value: float, sampled: Float[np.ndarray, " samples"], level: float, num_teachers: int
) -> Estimate:
    """Samples in which nothing is defined, such as those of one teacher alone, are left out."""
    sampled = sampled[~np.isnan(sampled)]
    if np.isnan(value) or not len(sampled):
        return Estimate(value, np.nan, np.nan, num_teachers)
    low, high = np.quantile(sampled, [(1 - level) / 2, (1 + level) / 2]).tolist()
    return Estimate(value, low, high, num_teachers)


@dataclass(frozen=True)
class LeftOut:
    """What a rule that was made without a family of teachers says of it.

    Attributes:
        predicted: the gain of each teacher, by the rule made without its family.
        from_mean: the mean gain of all other families: what knows nothing of the teacher.
        chosen: the measure that the rule without each family goes by.
    """

    predicted: Float[np.ndarray, " teachers"]
    from_mean: Float[np.ndarray, " teachers"]
    chosen: dict[str, str]


def predict_left_out(
    measures: Mapping[str, Float[np.ndarray, " teachers"]],
    gains: Float[np.ndarray, " teachers"],
    families: Sequence[str],
) -> LeftOut:
    """Predicts the gain of each family of teachers by a rule that was made on all others.

    The rule goes by the measure that orders the other families' teachers best (Spearman, either sign; the
    first of equals), and by the straight line of least squares through them.

    Args:
        measures: by name, without NaN.
        gains: of each teacher.
        families: of each teacher.

    Raises:
        ValueError: fewer than two families.
    """
    of_teacher = np.asarray(families)
    if len(set(families)) < 2:
        raise ValueError("families: a rule that is made without one needs another")
    predicted, from_mean, chosen = np.empty(len(gains)), np.empty(len(gains)), {}
    for family in dict.fromkeys(families):
        others = of_teacher != family
        strength = {
            name: np.nan_to_num(np.abs(float(rank_correlation(values[others], gains[others]))))
            for name, values in measures.items()
        }
        best = max(strength, key=lambda name: strength[name])
        chosen[family] = best
        values = measures[best]
        centred = values[others] - values[others].mean()
        spread = float((centred**2).sum())
        slope = float((centred * gains[others]).sum()) / spread if spread > 0 else 0.0
        mean = float(gains[others].mean())
        predicted[~others] = mean + slope * (values[~others] - values[others].mean())
        from_mean[~others] = mean
    return LeftOut(predicted, from_mean, chosen)


def balanced_accuracy(said: Sequence[bool], true: Sequence[bool]) -> float:
    """Mean of the shares of true ones and of false ones that were told; 0.5 is chance. NaN without either.

    Example:
        >>> balanced_accuracy([True, True, False, True], [True, True, False, False])
        0.75
    """
    is_said, is_true = np.asarray(said, dtype=bool), np.asarray(true, dtype=bool)
    if is_true.all() or not is_true.any():
        return float("nan")
    return float((is_said[is_true].mean() + (~is_said[~is_true]).mean()) / 2)
