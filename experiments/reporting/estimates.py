"""Means over the instances of one or several runs, with standard deviations and intervals."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from experiments.reporting.collect import Readings
from lightning_modules.metrics.bootstrap import bootstrap_interval, hierarchical_bootstrap_interval
from lightning_modules.metrics.indicators import IndicatorUnits

READINGS = (
    "hr_at_5",
    "em",
    "f1",
    *(f"indicator{i}/{part}_p{p}" for i in (1, 2) for p in (90, 95) for part in IndicatorUnits._fields),
    "teacher/auc",
)


@dataclass(frozen=True)
class Estimate:
    """A mean over instances, and how far it may be off.

    Attributes:
        mean: over the instances of all seeds.
        std: sample standard deviation over them; NaN of a single one.
        low, high: 95% bootstrap interval; of several seeds by seeds and then by questions.
        n: number of instances, over all seeds.
    """

    mean: float
    std: float
    low: float
    high: float
    n: int

    @property
    def direction(self) -> int:
        """Of a change: 1 = up, -1 = down, 0 = the interval holds no change."""
        return (self.low > 0) - (self.high < 0)


def estimate(groups: Sequence[Sequence[float]]) -> Estimate | None:
    """Pools the instances of runs that differ in their seed only; None where there are none.

    Args:
        groups: values of each seed's instances.
    """
    filled = [np.asarray(values) for values in groups if len(values)]
    if not filled:
        return None
    pooled = np.concatenate(filled)
    low, high = bootstrap_interval(pooled) if len(filled) == 1 else hierarchical_bootstrap_interval(filled)
    std = float(pooled.std(ddof=1)) if len(pooled) > 1 else np.nan
    return Estimate(float(pooled.mean()), std, low, high, len(pooled))


def estimate_all(readings_of_seeds: Sequence[Readings]) -> dict[str, Estimate]:
    """Every reading of a report that has a value."""
    found = {
        name: estimate([list(readings.get(name, {}).values()) for readings in readings_of_seeds])
        for name in READINGS
    }
    return {name: value for name, value in found.items() if value is not None}
