"""Percentile bootstrap over instances."""

import numpy as np
from numpy.typing import ArrayLike


def bootstrap_interval(
    values: ArrayLike, num_samples: int = 2000, level: float = 0.95, seed: int = 0
) -> tuple[float, float]:
    """Percentile bootstrap interval of the mean over instances.

    Args:
        values: one value an instance; NaN is left out.
        num_samples: resamples.
        level: of the interval.
        seed: of the resampling.

    Returns:
        Low and high; NaN where fewer than two values are defined.
    """
    array = np.asarray(values, dtype=np.float64)
    array = array[~np.isnan(array)]
    if len(array) < 2:
        return float("nan"), float("nan")
    picked = np.random.default_rng(seed).integers(len(array), size=(num_samples, len(array)))
    low, high = np.quantile(array[picked].mean(axis=1), [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)
