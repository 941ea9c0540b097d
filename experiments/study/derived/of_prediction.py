"""What teachers did over their seeds, what predicts it, and how the check's verdicts fare."""

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from experiments.study.analysis import (
    NO_TEACHER,
    OUTCOMES,
    PAPERS,
    PAPERS_SECOND,
    PRIMARY,
    SAME_ORDER,
    SURE_BY_CHANCE,
    Predictions,
    is_sure,
)
from experiments.study.before import VERDICTS
from experiments.study.cells import Result, exactly
from experiments.study.numbers import Numbers
from experiments.study.prediction import BEYOND_LENGTH, GAIN, NAME
from experiments.study.readers import INITIAL, SECOND
from experiments.study.rules import STRANGERS, Rule, make_rule
from experiments.study.teachers import Teacher
from lightning_modules.metrics.estimates import Estimate

FEWEST_TEACHERS = 8
"""Over fewer teachers with a reader nothing is said of what predicts their gains."""
WITH_A_READER, ATTENDING, OF_SECOND, CONTROLS = "with-a-reader", "attending", "second-reader", "controls"
"""Values of the factor `teachers`: what numbers are over."""


@dataclass(frozen=True)
class Group:
    """Teachers that correlations are over.

    Attributes:
        words: what people call them.
        of: finds them.
    """

    words: str
    of: Callable[[Predictions], list[Teacher]]


GROUPS = {
    ATTENDING: Group("all can be measured of", lambda found: found.attending),
    WITH_A_READER: Group("with a reader", lambda found: found.readers_teachers),
    "initial-reader": Group("of the initial reader", lambda found: found.of_reader(INITIAL)),
    OF_SECOND: Group("of the second reader", lambda found: found.of_reader(SECOND)),
    "had-not-taught-before": Group("that had not taught before", lambda found: found.new),
    "and-controls": Group("and controls", lambda found: found.teachers),
}
"""By the value of the factor `teachers`."""


@dataclass(frozen=True)
class Judged:
    """A verdict of the check on a group of teachers.

    Attributes:
        group: of `GROUPS`.
        verdict: `then`, when the study was run, or `now`.
        of: gives a teacher's.
    """

    group: str
    verdict: str
    of: Callable[[Predictions, str], float]


JUDGED = {
    "then": Judged(WITH_A_READER, "then", Predictions.verdict_then),
    "now": Judged(WITH_A_READER, "now", Predictions.verdict_now),
    "now, second reader": Judged(OF_SECOND, "now", Predictions.verdict_now),
}
"""By what people call it."""
CORRELATION, CORRELATION_LESS = "correlation/", "correlation_less/"
"""Of names of measures: of one with an outcome, and that less the correlation of another."""
CHOSEN = "chosen/"
"""Of names of measures: for how many teachers a rule goes by it."""
ABOVE_HALF, ABOVE_HALF_OF_GAIN = "above_half_of_labels", "above_half_of_labels_gain"
"""How far beyond length a teacher is above half of the way from `uniform` to labels, and above half of what
labels gain."""
START = "start/hr_at_5"
COMPARED = (
    ("order", "initial likelihood"),
    ("order", "initial question qrhead:16+likelihood"),
    ("initial answer", "initial answer raw"),
    ("initial answer", "initial answer content_free_difference"),
    ("initial answer", "step1-40 answer"),
    ("initial likelihood", "step1-40 likelihood"),
    ("initial answer+question+likelihood", "initial likelihood"),
)
"""Pairs of teachers of which the second is compared with the first; all are with `uniform`."""
COMPARED_MEASURES = (
    (PRIMARY, PAPERS),
    (PRIMARY, PAPERS_SECOND),
    (PRIMARY, SAME_ORDER),
    (SAME_ORDER, PAPERS_SECOND),
)
"""Pairs of measures whose correlations with the gain beyond length are compared."""
_CHECK_MEASURES = (
    "auc",
    "auc_at_equal_length",
    "mrr",
    "mass_on_answers",
    "length_tau_size",
    SAME_ORDER,
)
"""What a rule for the verdict may go by: all that the check knows beside the indicators."""
_INDICATORS = tuple(
    f"indicator{n}/{part}_p{p}" for n in (1, 2) for part in ("spearman", "lift") for p in (90, 95)
)
OF_CHECK, PRIMARY_ALONE = "one measure of the check", "AUC at equal length alone"
RULES = {
    OF_CHECK: _CHECK_MEASURES,
    PRIMARY_ALONE: (PRIMARY,),
    "one part of the paper's indicators": _INDICATORS,
}
"""What each goes by."""
SAID = {advice.value: value for advice, value in VERDICTS.items()}
"""The check's verdicts, as measures have them."""
WORTH = {"worth_it": True, "undecided": None, "not_worth_it": False}
"""What a teacher was."""


def add_prediction(numbers: Numbers, results: Sequence[Result]) -> None:
    """Of each teacher; of all together where there are enough of them."""
    found = Predictions(results)
    if not found.teachers:
        return
    _add_teachers(numbers, found)
    _add_differences(numbers, found)
    _add_counts(numbers, found)
    if len(found.readers_teachers) >= FEWEST_TEACHERS:
        _add_correlations(numbers, found)
        _add_rules(numbers, found)
        _add_verdicts(numbers, found)


def _add_teachers(numbers: Numbers, found: Predictions) -> None:
    for name, of_seeds in found.results.items():
        measures = {outcome: found.estimate(name, outcome) for outcome in OUTCOMES}
        for level in ("hr_at_5", START):
            of_all = [np.mean(result.questions[level]) for result in of_seeds]
            measures[level] = exactly(float(np.mean(of_all)), len(of_all))
        if name in found.above_half:
            measures[ABOVE_HALF] = found.above_half[name]
            measures[ABOVE_HALF_OF_GAIN] = found.above_half_of_gain[name]
        numbers.add(NAME, measures, teacher=name)


def _add_differences(numbers: Numbers, found: Predictions) -> None:
    pairs = [*COMPARED, *((NO_TEACHER, name) for name in found.results if name != NO_TEACHER)]
    for other, name in pairs:
        if {other, name} <= found.results.keys():
            measures = {of: found.difference(name, other, of) for of in (GAIN, BEYOND_LENGTH)}
            numbers.add(NAME, measures, teacher=name, less=other)


def _add_counts(numbers: Numbers, found: Predictions) -> None:
    controls = [teacher for teacher in found.teachers if teacher.control is not None]
    for group, of in ((WITH_A_READER, found.readers_teachers), (CONTROLS, controls)):
        worth = [found.is_worth_it[teacher.name] for teacher in of]
        above_gain = [is_sure(found.above_half_of_gain.get(teacher.name)) for teacher in of]
        counts: dict[str, float] = {"teachers": len(of)}
        counts |= {name: worth.count(value) for name, value in WORTH.items()}
        counts["worth_it_by_chance"] = SURE_BY_CHANCE * len(of)
        counts["surely_above_half_of_labels_gain"] = above_gain.count(True)
        measures = {name: exactly(number, len(of)) for name, number in counts.items()}
        numbers.add(NAME, measures, teachers=group)
    numbers.add(NAME, {"seeds": exactly(len(found.seeds), len(found.seeds))})


# ---- what predicts gains ----


def _add_correlations(numbers: Numbers, found: Predictions) -> None:
    for outcome in OUTCOMES:
        for name, group in GROUPS.items():
            of = group.of(found)
            known = found.correlations(outcome, of)
            measures = {f"{CORRELATION}{measure}": of_measure for measure, of_measure in known.items()}
            measures["reliability"] = exactly(found.ceiling(outcome, of), len(of))
            measures["teachers"] = exactly(len(of), len(of))
            measures["measures"] = exactly(len(known), len(known))
            numbers.add(NAME, measures, outcome=outcome, teachers=name)
    for one, other in COMPARED_MEASURES:
        advantage = found.advantage(one, other, BEYOND_LENGTH)
        if advantage is not None:
            measures = {f"{CORRELATION_LESS}{other}": advantage}
            numbers.add(NAME, measures, outcome=BEYOND_LENGTH, teachers=ATTENDING, measure=one)


def _add_rules(numbers: Numbers, found: Predictions) -> None:
    for name, measures in RULES.items():
        for whose, strangers in STRANGERS.items():
            rule = make_rule(found, measures, strangers)
            if rule is not None:
                numbers.add(NAME, _of_rule(rule), rule=name, strangers=whose)


def _of_rule(rule: Rule) -> dict[str, Estimate]:
    chosen = Counter(measure for measure in rule.left_out.chosen if measure)
    return {
        "teachers": exactly(rule.num_teachers, rule.num_teachers),
        "strangers": exactly(rule.num_strangers, rule.num_teachers),
        "correlation": exactly(rule.correlation, rule.num_teachers),
        "error": exactly(rule.error, rule.num_teachers),
        "error_of_mean": exactly(rule.error_of_mean, rule.num_teachers),
        "advantage": rule.advantage,
        "decided": exactly(rule.num_decided, rule.num_teachers),
        "balanced_accuracy": exactly(rule.accuracy, rule.num_decided),
        **{f"{CHOSEN}{name}": exactly(times, rule.num_teachers) for name, times in chosen.most_common()},
    }


# ---- the check's verdicts ----


def _add_verdicts(numbers: Numbers, found: Predictions) -> None:
    """How many of each verdict were worth it, and how many surely better than no teacher."""
    for judged in JUDGED.values():
        of = GROUPS[judged.group].of(found)
        if not of:
            continue
        for said, value in SAID.items():
            names = [teacher.name for teacher in of if judged.of(found, teacher.name) == value]
            worth = [found.is_worth_it[name] for name in names]
            counts = {what: worth.count(is_worth) for what, is_worth in WORTH.items()}
            counts["teachers"] = len(names)
            counts["surely_above_uniform"] = sum(_is_above_uniform(numbers, name) for name in names)
            measures = {what: exactly(number, len(of)) for what, number in counts.items()}
            numbers.add(NAME, measures, teachers=judged.group, verdict=judged.verdict, said=said)


def _is_above_uniform(numbers: Numbers, teacher: str) -> bool:
    return is_sure(numbers.at(NAME, teacher=teacher, less=NO_TEACHER).get(BEYOND_LENGTH)) is True
