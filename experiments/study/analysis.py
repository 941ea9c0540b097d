"""What the cells of part `prediction` say together; from the table of results alone."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from jaxtyping import Float

from experiments.study.before import VERDICT
from experiments.study.cells import Result, of_part
from experiments.study.prediction import BEFORE, BEYOND_LENGTH, GAIN, NAME
from experiments.study.teachers import Teacher, teachers
from lightning_modules.metrics.bootstrap import hierarchical_bootstrap_interval
from lightning_modules.metrics.estimates import Estimate
from lightning_modules.metrics.prediction import (
    LeftOut,
    balanced_accuracy,
    correlation_with_gain,
    difference_of_correlations,
    predict_left_out,
    rank_correlation,
)

OUTCOMES = {GAIN: "gain", BEYOND_LENGTH: "gain beyond length"}
"""What is predicted: changes of the Hit Rate@5 on test questions."""


@dataclass(frozen=True)
class Rule:
    """A rule for the verdict, judged on families of teachers that it was made without.

    Attributes:
        left_out: what it predicts.
        error, error_of_mean: mean absolute error of the predicted gains, and of the other families' mean.
        correlation: Spearman's, of predicted and true gains.
        accuracy: balanced, of "worth it" where the predicted gain is above half the mean gain of labels.
    """

    left_out: LeftOut
    error: float
    error_of_mean: float
    correlation: float
    accuracy: float


class Predictions:
    """Teachers that have taught with every seed, what was measured of them before, and what they did.

    Args:
        results: of all parts; teachers without a result for each seed are left out.
    """

    def __init__(self, results: Sequence[Result]) -> None:
        by_teacher: dict[str, list[Result]] = {}
        for result in of_part(results, NAME):
            by_teacher.setdefault(result.cell["teacher"], []).append(result)
        self.num_seeds = max((len(found) for found in by_teacher.values()), default=0)
        known: Mapping[str, Teacher] = teachers()
        self.results = {
            name: sorted(found, key=lambda result: result.cell.seed)
            for name, found in by_teacher.items()
            if name in known and len(found) == self.num_seeds
        }
        self.teachers = [teacher for name, teacher in known.items() if name in self.results]

    def outcomes(self, name: str) -> Float[np.ndarray, "teachers seeds questions"]:
        """Changes of each test question."""
        return np.array(
            [[result.questions[name] for result in self.results[of.name]] for of in self.teachers]
        )

    def estimate(self, teacher: str, name: str) -> Estimate:
        """The mean change, its interval over seeds and questions."""
        of_seeds = [np.array(result.questions[name]) for result in self.results[teacher]]
        mean = float(np.mean([values.mean() for values in of_seeds]))
        low, high = hierarchical_bootstrap_interval(of_seeds, num_samples=1000)
        return Estimate(mean, low, high, sum(map(len, of_seeds)))

    def before(self, teacher: str) -> dict[str, Estimate]:
        """What was measured of a teacher, which is the same for all seeds."""
        return {
            name.removeprefix(BEFORE): found
            for name, found in self.results[teacher][0].measures.items()
            if name.startswith(BEFORE)
        }

    @cached_property
    def measures(self) -> dict[str, Float[np.ndarray, " teachers"]]:
        """By name, of each teacher; NaN where it has none."""
        found = [self.before(of.name) for of in self.teachers]
        names = dict.fromkeys(name for of_teacher in found for name in of_teacher)
        unknown = Estimate(math.nan, math.nan, math.nan, 0)
        return {
            name: np.array([of_teacher.get(name, unknown).mean for of_teacher in found]) for name in names
        }

    def correlations(self, outcome: str, with_controls: bool = True) -> dict[str, Estimate]:
        """Spearman's correlation over teachers of each measure with an outcome, the strongest first."""
        kept = np.array([with_controls or of.control is None for of in self.teachers])
        gains = self.outcomes(outcome)[kept]
        found = {name: correlation_with_gain(values[kept], gains) for name, values in self.measures.items()}
        return dict(sorted(found.items(), key=lambda item: -_strength(item[1])))

    def advantage(self, first: str, second: str, outcome: str) -> Estimate | None:
        """By how much better the first measure orders teachers than the second; None where one is unknown."""
        if first not in self.measures or second not in self.measures:
            return None
        measures = self.measures[first], self.measures[second]
        return difference_of_correlations(*measures, self.outcomes(outcome))

    @cached_property
    def is_worth_it(self) -> dict[str, bool]:
        """Whether each teacher brings at least half of what true labels bring, beyond length."""
        gains = {of.name: self.estimate(of.name, BEYOND_LENGTH).mean for of in self.teachers}
        bound = gains.get("labels", math.nan) / 2
        return {name: gain >= bound for name, gain in gains.items()}

    def rule(self, names: Sequence[str]) -> Rule | None:
        """A rule of some measures, made without each family in turn; controls take no part. None: too few."""
        kept = [i for i, of in enumerate(self.teachers) if of.control is None]
        families = [self.teachers[i].family for i in kept]
        measures = {
            name: values[kept]
            for name, values in self.measures.items()
            if name in names and not np.isnan(values[kept]).any()
        }
        if len(set(families)) < 2 or not measures or "labels" not in self.results:
            return None
        gains = self.outcomes(BEYOND_LENGTH).mean(axis=(1, 2))[kept]
        left_out = predict_left_out(measures, gains, families)
        bound = self.estimate("labels", BEYOND_LENGTH).mean / 2
        true = [self.is_worth_it[self.teachers[i].name] for i in kept]
        return Rule(
            left_out,
            float(np.abs(left_out.predicted - gains).mean()),
            float(np.abs(left_out.from_mean - gains).mean()),
            float(rank_correlation(left_out.predicted, gains)),
            balanced_accuracy([bool(value >= bound) for value in left_out.predicted], true),
        )

    def verdicts(self) -> dict[str, tuple[float, bool]]:
        """Of each teacher the verdict of the check, and whether it was worth it; labels are but a limit."""
        values = self.measures[VERDICT]
        return {
            of.name: (float(value), self.is_worth_it[of.name])
            for of, value in zip(self.teachers, values, strict=True)
            if of.name != "labels"
        }


def _strength(of: Estimate) -> float:
    return -1.0 if math.isnan(of.mean) else abs(of.mean)
