"""What teachers did over their seeds, what predicts it, and how the check's verdicts fare."""

from collections import Counter
from collections.abc import Callable, Iterator, Sequence

import numpy as np

from experiments.study.analysis import OUTCOMES, PAPERS, PAPERS_SECOND, PRIMARY, Predictions, Rule, is_sure
from experiments.study.cells import Result
from experiments.study.numbers import Numbers, counted, without_interval
from experiments.study.prediction import BEYOND_LENGTH, GAIN, NAME
from experiments.study.readers import INITIAL, SECOND
from experiments.study.teachers import Teacher
from lightning_modules.metrics.estimates import Estimate

FEWEST_TEACHERS = 8
"""Over fewer teachers with a reader nothing is said of what predicts their gains."""
WITH_A_READER, ATTENDING, OF_SECOND, CONTROLS = "with-a-reader", "attending", "second-reader", "controls"
"""Values of the factor `teachers`: what numbers are over."""
CORRELATION, CORRELATION_LESS = "correlation/", "correlation_less/"
"""Of names of measures: of one with an outcome, and that less the correlation of another."""
CHOSEN = "chosen/"
"""Of names of measures: for how many teachers a rule goes by it."""
ABOVE_HALF = "above_half_of_labels"
"""How far beyond length a teacher is above half of the way from `uniform` to labels."""
START = "start/hr_at_5"
NO_TEACHER = "uniform"
COMPARED = (
    ("order", "initial likelihood"),
    ("order", "initial question qrhead:16+likelihood"),
    ("initial answer", "initial answer raw"),
    ("initial answer", "initial answer content_free_difference"),
    ("initial answer", "step1-40 answer"),
    ("initial likelihood", "step1-40 likelihood"),
)
"""Pairs of teachers of which the second is compared with the first; all are with `uniform`."""
COMPARED_WITH_PRIMARY = (PAPERS, PAPERS_SECOND, "fixed_preference")
"""Measures whose correlation that of `PRIMARY` is compared with."""
_CHECK_MEASURES = (
    "auc",
    "auc_at_equal_length",
    "mrr",
    "mass_on_answers",
    "length_tau_size",
    "fixed_preference",
)
"""What a rule for the verdict may go by: all that the check knows beside the indicators."""
_INDICATORS = tuple(
    f"indicator{n}/{part}_p{p}" for n in (1, 2) for part in ("spearman", "lift") for p in (90, 95)
)
OF_CHECK = "one measure of the check"
RULES = {
    OF_CHECK: _CHECK_MEASURES,
    "AUC at equal length alone": (PRIMARY,),
    "one part of the paper's indicators": _INDICATORS,
}
"""What each goes by."""
SAID = {"go": 1.0, "unsure": 0.0, "no-go": -1.0}
"""The check's verdicts."""
WORTH = {"worth_it": True, "undecided": None, "not_worth_it": False}
"""What a teacher was."""


def groups_of(found: Predictions) -> dict[str, list[Teacher]]:
    """Teachers that correlations are over."""
    return {
        ATTENDING: found.attending,
        WITH_A_READER: found.readers_teachers,
        "initial-reader": found.of_reader(INITIAL),
        OF_SECOND: found.of_reader(SECOND),
        "had-not-taught-before": found.new,
        "and-controls": found.teachers,
    }


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
            measures[level] = without_interval(float(np.mean(of_all)), len(of_all))
        if name in found.above_half:
            measures[ABOVE_HALF] = found.above_half[name]
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
        counts = {"teachers": len(of)} | {name: worth.count(value) for name, value in WORTH.items()}
        measures = {name: counted(number, len(of)) for name, number in counts.items()}
        numbers.add(NAME, measures, teachers=group)
    numbers.add(NAME, {"seeds": counted(found.num_seeds, found.num_seeds)})


# ---- what predicts gains ----


def _add_correlations(numbers: Numbers, found: Predictions) -> None:
    for outcome in OUTCOMES:
        for group, of in groups_of(found).items():
            known = found.correlations(outcome, of)
            measures = {f"{CORRELATION}{name}": correlation for name, correlation in known.items()}
            measures["reliability"] = without_interval(found.ceiling(outcome, of), len(of))
            measures["teachers"] = counted(len(of), len(of))
            measures["measures"] = counted(len(known), len(known))
            numbers.add(NAME, measures, outcome=outcome, teachers=group)
    for other in COMPARED_WITH_PRIMARY:
        advantage = found.advantage(PRIMARY, other, BEYOND_LENGTH)
        if advantage is not None:
            measures = {f"{CORRELATION_LESS}{other}": advantage}
            numbers.add(NAME, measures, outcome=BEYOND_LENGTH, teachers=ATTENDING, measure=PRIMARY)


def _add_rules(numbers: Numbers, found: Predictions) -> None:
    for name, measures in RULES.items():
        rule = found.rule(measures)
        if rule is not None:
            numbers.add(NAME, _of_rule(rule), rule=name)


def _of_rule(rule: Rule) -> dict[str, Estimate]:
    chosen = Counter(measure for measure in rule.left_out.chosen if measure)
    return {
        "teachers": counted(rule.num_teachers, rule.num_teachers),
        "correlation": without_interval(rule.correlation, rule.num_teachers),
        "error": without_interval(rule.error, rule.num_teachers),
        "error_of_mean": without_interval(rule.error_of_mean, rule.num_teachers),
        "advantage": rule.advantage,
        "decided": counted(rule.num_decided, rule.num_teachers),
        "balanced_accuracy": without_interval(rule.accuracy, rule.num_decided),
        **{f"{CHOSEN}{name}": counted(times, rule.num_teachers) for name, times in chosen.most_common()},
    }


# ---- the check's verdicts ----


def _add_verdicts(numbers: Numbers, found: Predictions) -> None:
    """How many of each verdict were worth it, and how many surely better than no teacher."""
    for group, verdict, verdict_of, of in _verdicts(found):
        for said, value in SAID.items():
            names = [teacher.name for teacher in of if verdict_of(teacher.name) == value]
            worth = [found.is_worth_it[name] for name in names]
            counts = {what: worth.count(is_worth) for what, is_worth in WORTH.items()}
            counts["teachers"] = len(names)
            counts["surely_above_uniform"] = sum(_is_above_uniform(numbers, name) for name in names)
            measures = {what: counted(number, len(of)) for what, number in counts.items()}
            numbers.add(NAME, measures, teachers=group, verdict=verdict, said=said)


def _verdicts(found: Predictions) -> Iterator[tuple[str, str, Callable[[str], float], list[Teacher]]]:
    """The teachers, which verdict of them, what gives it."""
    yield WITH_A_READER, "then", found.verdict_then, found.readers_teachers
    yield WITH_A_READER, "now", found.verdict_now, found.readers_teachers
    if of_second := found.of_reader(SECOND):
        yield OF_SECOND, "now", found.verdict_now, of_second


def _is_above_uniform(numbers: Numbers, teacher: str) -> bool:
    return is_sure(numbers.at(NAME, teacher=teacher, less=NO_TEACHER).get(BEYOND_LENGTH)) is True
