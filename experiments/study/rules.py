"""Rules for the verdict, each made of teachers that are strangers to the one that it is judged on."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from experiments.study.analysis import LABELS, NO_TEACHER, Predictions, direction
from experiments.study.prediction import BEYOND_LENGTH
from experiments.study.teachers import Teacher
from lightning_modules.metrics.bootstrap import clustered_bootstrap_interval
from lightning_modules.metrics.estimates import Estimate
from lightning_modules.metrics.prediction import (
    LeftOut,
    balanced_accuracy,
    predict_left_out,
    rank_correlation,
)


@dataclass(frozen=True)
class Strangers:
    """Whom a teacher counts as a stranger.

    Attributes:
        traits: of a teacher; those that share none are strangers.
        words: what strangers do not share.
    """

    traits: Callable[[Teacher], frozenset[str]]
    words: str


STRANGERS = {
    "other-reader": Strangers(
        lambda teacher: frozenset({teacher.reader, *teacher.rows}),
        "reader, by its name, nor signals",
    ),
    "other-base-model": Strangers(
        lambda teacher: frozenset({teacher.base_model, *teacher.rows}),
        "base model nor signals",
    ),
}
"""By name. Teachers by readers made of one another, trained or shuffled, are strangers by the first alone."""


@dataclass(frozen=True)
class Rule:
    """A rule for the verdict, judged on teachers that are strangers to those that it is of.

    Attributes:
        left_out: what it predicts; NaN of teachers that have too few strangers.
        num_teachers: that it was judged on.
        num_strangers: that it was made of, the median over these.
        error, error_of_mean: mean absolute error of the predicted gains, and of the strangers' mean.
        advantage: how much smaller the first is, with an interval over families.
        num_decided: teachers of which it is decided whether they are worth it.
        correlation: Spearman's, of predicted and true gains.
        accuracy: balanced, of "worth it" where the predicted gain is above the bound, over teachers of which
            that is decided.
    """

    left_out: LeftOut
    num_teachers: int
    num_strangers: float
    error: float
    error_of_mean: float
    advantage: Estimate
    num_decided: int
    correlation: float
    accuracy: float


def make_rule(found: Predictions, names: Sequence[str], strangers: Strangers) -> Rule | None:
    """A rule of some measures for each teacher, made of its strangers; controls take no part.

    None: too few of these measures are known, or no two teachers have strangers enough.
    """
    of, measures = _known_of_most(found, names)
    if not measures or not {LABELS, NO_TEACHER} <= found.results.keys():
        return None
    gains = found.outcomes(BEYOND_LENGTH, of).mean(axis=(1, 2))
    traits = [strangers.traits(teacher) for teacher in of]
    left_out = predict_left_out(measures, gains, traits)
    judged = ~np.isnan(left_out.predicted)
    if judged.sum() < 2:
        return None
    num_strangers = np.array([sum(not own & other for other in traits) for own in traits])
    predicted = dict(zip([teacher.name for teacher in of], left_out.predicted.tolist(), strict=True))
    said = {name: value >= found.bound for name, value in predicted.items() if not math.isnan(value)}
    decided = {name: worth for name, worth in found.is_worth_it.items() if worth is not None}
    both = [name for name in said if name in decided]
    error, error_of_mean = (
        np.abs(values - gains)[judged] for values in (left_out.predicted, left_out.from_mean)
    )
    advantage = error_of_mean - error
    families = [teacher.family for teacher in of if teacher.name in said]
    low, high = clustered_bootstrap_interval(advantage, families)
    return Rule(
        left_out,
        len(said),
        float(np.median(num_strangers[judged])),
        float(error.mean()),
        float(error_of_mean.mean()),
        Estimate(float(advantage.mean()), low, high, len(advantage)),
        len(both),
        float(rank_correlation(left_out.predicted[judged], gains[judged])),
        balanced_accuracy([said[name] for name in both], [decided[name] for name in both])
        if both
        else math.nan,
    )


def _known_of_most(
    found: Predictions, names: Sequence[str]
) -> tuple[list[Teacher], Mapping[str, np.ndarray]]:
    """Measures that are known of all teachers with a reader, or else of all that attend."""
    for of in (found.readers_teachers, found.attending):
        measures = {
            name: values * (direction(name) or 1)
            for name, values in found.measures(of).items()
            if name in names and not np.isnan(values).any()
        }
        if measures:
            return of, measures
    return [], {}
