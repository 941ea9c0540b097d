"""How certain a mean over instances is: the percentile bootstrap."""

from collections.abc import Sequence

import numpy as np
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


def hierarchical_bootstrap_interval(
    groups: Sequence[ArrayLike],
    num_samples: int = 2000,
    level: float = 0.95,
    seed: int = 0,
) -> tuple[float, float]:
    """Percentile bootstrap interval of the mean over groups: groups are drawn first, then their instances.

    So it also holds how far one group (a run with another seed) is from the next, which drawing from all
    instances at once would hide.

    Args:
        groups: values of each group's instances; NaN is left out, as is a group without any value.
        num_samples: times that groups and instances are drawn, with replacement.
        level: share of the samples' means that the interval holds.
        seed: of the draws.

    Returns:
        Both ends; NaN where no value is defined.
    """
    defined = [values for values in map(_defined, groups) if len(values)]
    if not defined:
        return np.nan, np.nan
    random = np.random.default_rng(seed)
    means = np.empty(num_samples)
    for sample in range(num_samples):
        chosen = random.integers(0, len(defined), len(defined))
        drawn = [defined[i][random.integers(0, len(defined[i]), len(defined[i]))] for i in chosen]
        means[sample] = sum(values.sum() for values in drawn) / sum(len(values) for values in drawn)
    return _percentiles(means, level)


def _defined(values: ArrayLike) -> np.ndarray:
    array = np.asarray(values, dtype=np.float64)
    return array[~np.isnan(array)]


def _percentiles(means: np.ndarray, level: float) -> tuple[float, float]:
    low, high = np.quantile(means, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)
