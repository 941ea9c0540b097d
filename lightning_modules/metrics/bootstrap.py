"""How certain a mean over instances is: the percentile bootstrap."""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float
from numpy.typing import ArrayLike

_LARGEST_DRAW = 2**24
"""Numbers drawn at a time, so that memory does not grow with the number of instances."""


def bootstrap_interval(
    values: ArrayLike, num_samples: int = 2000, level: float = 0.95, seed: int = 0
) -> tuple[float, float]:
    """Percentile bootstrap interval of the mean over instances.

    Equal to `scipy.stats.bootstrap` with `method="percentile"`; instances are what is drawn, since the
    units of an instance are not independent of each other.

    Args:
        values: one value an instance (a list, an array, a tensor on the CPU); NaN is left out.
        num_samples: resamples.
        level: of the interval, 0..1.
        seed: of the resampling.

    Returns:
        Low and high; NaN where fewer than two values are defined.

    Example:
        >>> low, high = bootstrap_interval([1.0, 2.0, 3.0, 4.0, float("nan")])
        >>> low, high
        (1.5, 3.5)
    """
    array = _defined(values)
    if len(array) < 2:
        return float("nan"), float("nan")
    generator = np.random.default_rng(seed)
    means = np.empty(num_samples)
    # an even number of resamples at a time leaves the generator's stream as one large draw would
    together = max(2, _LARGEST_DRAW // len(array) // 2 * 2)
    for start in range(0, num_samples, together):
        drawn = generator.integers(0, len(array), size=(min(together, num_samples - start), len(array)))
        means[start : start + together] = array[drawn].mean(axis=1)
    return _percentiles(means, level)


def crossed_bootstrap_interval(
    values: Float[np.ndarray, "seeds questions"], num_samples: int = 2000, level: float = 0.95, seed: int = 0
) -> tuple[float, float]:
    """Percentile bootstrap interval of the mean over runs that have measured the same questions.

    Seeds are drawn, and once for all of them questions: so it also holds how far one run is from the next,
    and a question that is hard for all of them does not average out, as it would were it drawn for each anew.

    Args:
        values: of each question, with each seed; NaN where a seed has none, which is left out.
        num_samples, level, seed: as in `bootstrap_interval`.

    Returns:
        Both ends; NaN where no value is defined.
    """
    is_defined = ~np.isnan(values)
    if not is_defined.any():
        return np.nan, np.nan
    random = np.random.default_rng(seed)
    num_seeds, num_questions = values.shape
    sides = np.stack([np.where(is_defined, values, 0.0), is_defined.astype(np.float64)])
    means = np.empty(num_samples)
    together = max(1, _LARGEST_DRAW // num_questions)
    for start in range(0, num_samples, together):
        count = min(together, num_samples - start)
        seeds = random.multinomial(num_seeds, np.full(num_seeds, 1 / num_seeds), count)
        questions = random.multinomial(num_questions, np.full(num_questions, 1 / num_questions), count)
        by_seed = np.tensordot(sides, questions.astype(np.float64), axes=(2, 1))
        sums, counts = np.einsum("vsn,ns->vn", by_seed, seeds)
        with np.errstate(invalid="ignore"):  # a sample may hold nothing that is defined
            means[start : start + count] = sums / counts
    return _percentiles(means[~np.isnan(means)], level)


def clustered_bootstrap_interval(
    values: Float[np.ndarray, " values"],
    clusters: Sequence[str],
    num_samples: int = 2000,
    level: float = 0.95,
    seed: int = 0,
) -> tuple[float, float]:
    """Percentile bootstrap interval of the mean over values of which some belong together.

    Args:
        values: none of them NaN.
        clusters: which each belongs to; clusters are drawn whole.
        num_samples, level, seed: as in `bootstrap_interval`.

    Example:
        >>> clustered_bootstrap_interval(np.array([1.0, 1.0, 3.0]), ["a", "a", "b"])
        (1.0, 3.0)
    """
    _, cluster = np.unique(clusters, return_inverse=True)
    sums, counts = np.bincount(cluster, values), np.bincount(cluster)
    drawn = np.random.default_rng(seed).integers(0, len(sums), size=(num_samples, len(sums)))
    return _percentiles(sums[drawn].sum(axis=1) / counts[drawn].sum(axis=1), level)


def _defined(values: ArrayLike) -> np.ndarray:
    array = np.asarray(values, dtype=np.float64)
    return array[~np.isnan(array)]


def _percentiles(means: np.ndarray, level: float) -> tuple[float, float]:
    low, high = np.quantile(means, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)
