"""How far a mean may be off: percentile bootstrap intervals."""

from collections.abc import Sequence

import numpy as np

_BLOCK = 4_000_000
"""Numbers drawn at a time, so that many values do not need much memory."""


def bootstrap_interval(
    values: Sequence[float] | np.ndarray, num_samples: int = 2000, level: float = 0.95, seed: int = 0
) -> tuple[float, float]:
    """Percentile bootstrap interval of a mean, as `scipy.stats.bootstrap(method="percentile")` has it.

    Args:
        values: one value an instance; NaN where it has none, which is left out.
        num_samples: times that the instances are drawn with replacement.
        level: share of the samples' means that the interval holds.
        seed: of the draws.

    Returns:
        Both ends; NaN where no value is defined.

    Example:
        >>> low, high = bootstrap_interval([0.0, 1.0, 1.0, float("nan")])
        >>> low <= 2 / 3 <= high
        True
    """
    defined = _defined(values)
    if not len(defined):
        return np.nan, np.nan
    random = np.random.default_rng(seed)
    means: list[np.ndarray] = []
    rows = max(1, _BLOCK // len(defined))
    for first in range(0, num_samples, rows):
        drawn = random.integers(0, len(defined), (min(rows, num_samples - first), len(defined)))
        means.append(defined[drawn].mean(axis=1))
    return _percentiles(np.concatenate(means), level)


def hierarchical_bootstrap_interval(
    groups: Sequence[Sequence[float] | np.ndarray],
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


def _defined(values: Sequence[float] | np.ndarray) -> np.ndarray:
    array = np.asarray(values, dtype=np.float64)
    return array[~np.isnan(array)]


def _percentiles(means: np.ndarray, level: float) -> tuple[float, float]:
    low, high = np.quantile(means, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)
