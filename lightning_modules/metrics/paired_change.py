"""Has a metric declined since the start? The same questions are read each time, so they are paired."""

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float
from scipy.special import stdtrit

MIN_PAIRS = 8
"""A mean over fewer differences is too far from normal for a t bound at small levels."""


class Change(NamedTuple):
    """The mean paired difference "now minus start" with one-sided t bounds.

    Attributes:
        mean: of the differences; NaN without any.
        low, high: each is on the wrong side of the true mean with probability `level`; NaN of fewer than two.
        num_pairs: questions that have a value on both sides.
    """

    mean: Float[np.ndarray, "*runs"]
    low: Float[np.ndarray, "*runs"]
    high: Float[np.ndarray, "*runs"]
    num_pairs: Float[np.ndarray, "*runs"]


def paired_change(
    before: Float[np.ndarray, "*runs questions"],
    after: Float[np.ndarray, "*runs questions"],
    level: float = 0.05,
) -> Change:
    """How a metric changed over the same questions.

    Args:
        before, after: one value a question, in the same order; a NaN on either side leaves the question out.
            Leading axes are runs of their own.
        level: probability of error of each bound, below 0.5.

    Example:
        >>> before, after = np.array([0.1, 0.2, 0.3, np.nan]), np.array([0.2, 0.2, 0.6, 0.5])
        >>> change = paired_change(before, after)
        >>> round(float(change.mean), 3), round(float(change.low), 3), int(change.num_pairs)
        (0.133, -0.124, 3)
    """
    differences = after - before
    is_pair = ~np.isnan(differences)
    num_pairs = is_pair.sum(axis=-1).astype(float)
    with np.errstate(divide="ignore", invalid="ignore"):
        mean = np.where(is_pair, differences, 0.0).sum(axis=-1) / num_pairs
        deviations = np.where(is_pair, differences - mean[..., None], 0.0)
        variance = np.square(deviations).sum(axis=-1) / (num_pairs - 1)
        # NaN and not 0 / 0 or inf where there is no or one pair
        error = np.sqrt(np.where(num_pairs > 1, variance, np.nan) / num_pairs)
        reach = stdtrit(np.maximum(num_pairs - 1, 1), 1 - level) * error
    return Change(mean, mean - reach, mean + reach, num_pairs)


@dataclass(frozen=True)
class DeclineRule:
    r"""When metrics that are compared with the start again and again have declined.

    A metric has declined once the upper bound of its change lay below `-margin` in `patience` validations in
    a row. Each bound is taken at the level

    .. math:: \alpha / ( \lfloor V / \mathrm{patience} \rfloor \cdot R )

    with V = `num_validations` and R = `num_metrics`. Among `patience` validations in a row there is one
    whose number is a multiple of `patience`, so whatever is declared had its bound crossed at one of those
    V // patience: by Bonferroni's inequality a run in which nothing declines is stopped with a probability
    of at most alpha, *however the errors depend on each other* - and they do, since all comparisons share
    one start.

    Attributes:
        margin: a decline that is tolerated.
        patience: validations in a row.
        num_validations: planned; beyond them the probability of a false stop grows.
        num_metrics: how many are watched.
        false_stop_rate: alpha, over all validations and metrics.

    Raises:
        ValueError: a setting that cannot be.
    """

    margin: float = 0.0
    patience: int = 2
    num_validations: int = 20
    num_metrics: int = 1
    false_stop_rate: float = 0.05

    def __post_init__(self) -> None:
        if not self.margin >= 0 or self.patience < 1:
            raise ValueError(
                f"margin {self.margin} must not be negative and patience {self.patience} at least 1"
            )
        if self.num_validations < 1 or self.num_metrics < 1 or not 0 < self.false_stop_rate < 0.5:
            raise ValueError(
                f"num_validations {self.num_validations} and num_metrics {self.num_metrics} must be at "
                f"least 1, false_stop_rate {self.false_stop_rate} between 0 and 0.5"
            )

    @property
    def level(self) -> float:
        """Probability of error of each bound."""
        num_chances = max(1, self.num_validations // self.patience) * self.num_metrics
        return self.false_stop_rate / num_chances

    def is_below(self, change: Change) -> Bool[np.ndarray, "*runs"]:
        """Whether a change, with bounds at `level`, is a decline of more than the margin."""
        return np.asarray((change.num_pairs >= MIN_PAIRS) & (change.high < -self.margin))

    def first_decline(
        self,
        start: Float[np.ndarray, " questions"],
        validations: Float[np.ndarray, "validations questions"],
    ) -> int | None:
        """The validation, from 0 on, in which one metric has declined for the `patience`-th time in a row.

        None = never: what a run that had these validations would have done.
        """
        num_below = 0
        for number, values in enumerate(validations):
            below = bool(self.is_below(paired_change(start, values, self.level)))
            num_below = num_below + 1 if below else 0
            if num_below == self.patience:
                return number
        return None
