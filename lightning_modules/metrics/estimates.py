"""Means over questions with their intervals."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from lightning_modules.metrics.bootstrap import bootstrap_interval


@dataclass(frozen=True)
class Estimate:
    """A mean over questions.

    Attributes:
        mean: NaN where no question has a value.
        low, high: bootstrap interval; NaN for fewer than two questions.
        n: questions that have a value.
    """

    mean: float
    low: float
    high: float
    n: int

    @property
    def text(self) -> str:
        """Such as `0.79 [0.71, 0.86]`."""
        if self.n == 0:
            return "-"
        return f"{self.mean:.2f} [{self.low:.2f}, {self.high:.2f}]"


def estimate(values: ArrayLike, level: float = 0.95) -> Estimate:
    """Mean with its bootstrap interval over questions, NaN left out."""
    array = np.asarray(values, dtype=np.float64)
    defined = array[~np.isnan(array)]
    mean = float(defined.mean()) if len(defined) else float("nan")
    return Estimate(mean, *bootstrap_interval(defined, level=level), len(defined))
