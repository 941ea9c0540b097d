"""What the cells of part `prediction` say together; from the table of results alone."""

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from functools import cached_property

import numpy as np
from jaxtyping import Float

from experiments.study.before import VERDICT, VERDICTS
from experiments.study.cells import Result, of_part
from experiments.study.prediction import BEFORE, BEYOND_LENGTH, GAIN, MRR_GAIN, NAME
from experiments.study.readers import INITIAL
from experiments.study.stopping import validations_of
from experiments.study.teachers import CONTROLS, Teacher, teachers
from lightning_modules.metrics.bootstrap import crossed_bootstrap_interval
from lightning_modules.metrics.estimates import Estimate
from lightning_modules.metrics.measures import Better, all_measures
from lightning_modules.metrics.prediction import (
    correlation_with_gain,
    difference_of_correlations,
    reliability,
)
from lightning_modules.preflight.verdict import Advice, about_fixed_preference

OUTCOMES = {BEYOND_LENGTH: "gain beyond length", GAIN: "gain", MRR_GAIN: "gain in MRR@20"}
"""What is predicted: changes on the questions that are measured on. The first is the one that counts."""
PRIMARY = "auc_at_equal_length"
"""The measure whose correlation was the study's question before it was run; the others are beside it."""
PAPERS, PAPERS_SECOND = "indicator1/spearman_p90", "indicator2/lift_p90"
"""The paper's indicators, the part of each that is shown."""
EARLY = "early"
"""No measure of the check, but its rival: what a quarter of the training does to validation questions."""
VERDICT_NOW = "verdict_now"
LABELS, NO_TEACHER = "labels", "uniform"
"""Controls between which a gain is judged."""
SURE_BY_CHANCE = 0.025
"""Share of 95% intervals that are wholly above what is so, or wholly below."""
SAME_ORDER = "fixed_preference"
"""How alike a teacher's orders for unrelated questions are."""
_LESS_IS_BETTER = (SAME_ORDER, "length_tau_size")
_EITHER = ("length_tau", "entropy")


def direction(measure: str) -> int:
    """Whether more of a measure should mean a larger gain (1), a smaller one (-1), or nobody has said (0)."""
    if measure in _EITHER:
        return 0
    if measure in _LESS_IS_BETTER:
        return -1
    better = {of.name: of.better for of in all_measures()}.get(measure, Better.HIGHER)
    return {Better.HIGHER: 1, Better.LOWER: -1, Better.NEITHER: 0}[better]


class Predictions:
    """Teachers that have taught with every seed, what was measured of them before, and what they did.

    Args:
        results: of all parts; teachers without a result for each seed are left out.

    Attributes:
        seeds: of each teacher: the most that some have, and of several such sets the most common.
        results: of each teacher by name, in the order of the seeds.
        teachers: that are not left out.
        left_out: names of those that are.
    """

    def __init__(self, results: Sequence[Result]) -> None:
        by_teacher: dict[str, list[Result]] = {}
        for result in of_part(results, NAME):
            by_teacher.setdefault(result.cell["teacher"], []).append(result)
        seeds_of = {
            name: frozenset(result.cell.seed for result in found) for name, found in by_teacher.items()
        }
        number = Counter(seeds_of.values())
        self.seeds = max(number, key=lambda seeds: (len(seeds), number[seeds]), default=frozenset())
        known: Mapping[str, Teacher] = teachers()
        self.results = {
            name: sorted(found, key=lambda result: result.cell.seed)
            for name, found in by_teacher.items()
            if name in known and seeds_of[name] == self.seeds
        }
        self.teachers = [teacher for name, teacher in known.items() if name in self.results]
        self.left_out = [name for name in by_teacher if name not in self.results]

    def outcomes(self, name: str, of: Sequence[Teacher]) -> Float[np.ndarray, "teachers seeds questions"]:
        """Changes of each question."""
        return np.array([self._changes(teacher.name, name) for teacher in of])

    def _changes(self, teacher: str, name: str) -> Float[np.ndarray, "seeds questions"]:
        return np.array([result.questions[name] for result in self.results[teacher]])

    def estimate(self, teacher: str, name: str) -> Estimate:
        """The mean change, its interval over seeds and questions, which all seeds share."""
        return crossed_estimate(self._changes(teacher, name))

    def before(self, teacher: str) -> dict[str, Estimate]:
        """What was measured of a teacher, which is the same for all seeds."""
        return {
            name.removeprefix(BEFORE): found
            for name, found in self.results[teacher][0].measures.items()
            if name.startswith(BEFORE)
        }

    def measures(self, of: Sequence[Teacher]) -> dict[str, Float[np.ndarray, " teachers"]]:
        """By name, of each of some teachers; NaN where it has none."""
        found = [self.before(teacher.name) for teacher in of]
        names = dict.fromkeys(name for of_teacher in found for name in of_teacher)
        unknown = Estimate(math.nan, math.nan, math.nan, 0)
        measured = {
            name: np.array([of_teacher.get(name, unknown).mean for of_teacher in found]) for name in names
        }
        return {
            **measured,
            VERDICT_NOW: np.array([self.verdict_now(teacher.name) for teacher in of]),
            EARLY: np.array([self._early(teacher.name) for teacher in of]),
        }

    def verdict_then(self, teacher: str) -> float:
        """The check's verdict as it was when the study was run: by AUCs and passage length."""
        return self.before(teacher)[VERDICT].mean

    def verdict_now(self, teacher: str) -> float:
        """The check's verdict with what it looks at since the study: the order for an unrelated question."""
        before = self.before(teacher)
        preference = before.get(SAME_ORDER)
        by_order = VERDICTS[Advice.GO if preference is None else about_fixed_preference(preference)[0]]
        return min(before[VERDICT].mean, by_order)

    def _early(self, teacher: str) -> float:
        """The change on validation questions after the first validation, over all seeds."""
        changes = []
        for result in self.results[teacher]:
            start, first, *_ = validations_of(result).values()
            changes.append(first.mean() - start.mean())
        return float(np.mean(changes))

    # ---- what orders teachers ----

    @cached_property
    def readers_teachers(self) -> list[Teacher]:
        """Those with a reader: controls are no teachers that anyone would choose among."""
        return [teacher for teacher in self.teachers if teacher.control is None]

    @cached_property
    def attending(self) -> list[Teacher]:
        """Those whose scores are attention, at least in part, so that everything can be measured of them."""
        return [teacher for teacher in self.readers_teachers if teacher.attention is not None]

    def of_reader(self, name: str) -> list[Teacher]:
        """Those of one reader: which of its signals?"""
        return [teacher for teacher in self.readers_teachers if teacher.reader == name]

    @cached_property
    def new(self) -> list[Teacher]:
        """Those that had not taught yet when the settings were chosen."""
        return [teacher for teacher in self.readers_teachers if teacher.name not in SEEN_BEFORE]

    def correlations(self, outcome: str, of: Sequence[Teacher]) -> dict[str, Estimate]:
        """Spearman's correlation over some teachers of each measure with an outcome, the strongest first."""
        if not of:
            return {}
        gains, families = self.outcomes(outcome, of), [teacher.family for teacher in of]
        found = {
            name: correlation_with_gain(values, gains, families) for name, values in self.measures(of).items()
        }
        return dict(sorted(found.items(), key=lambda item: -_strength(item[1])))

    def advantage(self, first: str, second: str, outcome: str) -> Estimate | None:
        """By how much better the first measure orders teachers than the second; None where one is unknown."""
        of = self.attending
        measures = self.measures(of)
        if first not in measures or second not in measures:
            return None
        one, other = (measures[name] * (direction(name) or 1) for name in (first, second))
        families = [teacher.family for teacher in of]
        return difference_of_correlations(one, other, self.outcomes(outcome, of), families)

    def ceiling(self, outcome: str, of: Sequence[Teacher]) -> float:
        """How well the outcomes themselves are known, see `reliability`."""
        return reliability(self.outcomes(outcome, of)) if len(of) > 1 else math.nan

    # ---- what is worth it ----

    @cached_property
    def above_half(self) -> dict[str, Estimate]:
        """By how much each teacher's gain beyond length is above half of the way from no teacher to labels.

        Empty where labels are not surely better than `uniform`.
        """
        if not {LABELS, NO_TEACHER} <= self.results.keys():
            return {}
        labels, uniform = (self._changes(name, BEYOND_LENGTH) for name in (LABELS, NO_TEACHER))
        if not crossed_estimate(labels - uniform).low > 0:
            return {}
        return self._above((labels + uniform) / 2)

    @cached_property
    def above_half_of_gain(self) -> dict[str, Estimate]:
        """By how much each teacher's gain beyond length is above half of what labels gain; see `above_half`.

        A harder bound where `uniform` harms, and an easier one where it gains.
        """
        return self._above(self._changes(LABELS, BEYOND_LENGTH) / 2) if self.above_half else {}

    def _above(self, bound: Float[np.ndarray, "seeds questions"]) -> dict[str, Estimate]:
        return {name: crossed_estimate(self._changes(name, BEYOND_LENGTH) - bound) for name in self.results}

    @property
    def is_worth_it(self) -> dict[str, bool | None]:
        """Whether each teacher brings surely more (less) than half of that way; None = undecided."""
        undecided: dict[str, bool | None] = dict.fromkeys(self.results)
        return undecided | {name: is_sure(above) for name, above in self.above_half.items()}

    def difference(self, teacher: str, other: str, name: str) -> Estimate:
        """How much larger a teacher's change is than another's, question by question."""
        return crossed_estimate(self._changes(teacher, name) - self._changes(other, name))

    @property
    def bound(self) -> float:
        """Half of the way from `uniform` to `labels`, beyond length."""
        found = [self.estimate(name, BEYOND_LENGTH).mean for name in (LABELS, NO_TEACHER)]
        return sum(found) / 2


SEEN_BEFORE = frozenset(
    f"{INITIAL} {name}"
    for name in ("likelihood", "question qrhead:16", "answer+question+likelihood", "answer", "answer mean")
) | {*CONTROLS}
"""Teachers whose gains, on other questions, were known when the settings of the study were chosen."""


def crossed_estimate(changes: Float[np.ndarray, "seeds questions"]) -> Estimate:
    """The mean, with an interval over seeds and questions."""
    low, high = crossed_bootstrap_interval(changes)
    return Estimate(float(changes.mean()), low, high, changes.size)


def over_seeds(results: Sequence[Result], name: str) -> Estimate:
    """The mean of a value of each question, with an interval over seeds and questions."""
    return crossed_estimate(np.array([result.questions[name] for result in results]))


def is_sure(difference: Estimate | None) -> bool | None:
    """Whether a difference is surely above 0 (True) or surely below (False); None = undecided."""
    if difference is None:
        return None
    return True if difference.low > 0 else False if difference.high < 0 else None


def _strength(of: Estimate) -> float:
    return -1.0 if math.isnan(of.mean) else abs(of.mean)
