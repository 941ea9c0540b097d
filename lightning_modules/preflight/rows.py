"""A row for each variant, and which of them is recommended."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from jaxtyping import Float
from torch import Tensor

from lightning_modules.metrics.estimates import Estimate, estimate
from lightning_modules.metrics.matched_auc import matched_auc
from lightning_modules.metrics.teacher_auc import teacher_auc, teacher_reciprocal_rank
from lightning_modules.metrics.teacher_checks import (
    best_temperature,
    kendall_tau,
    mass_on_answers,
    relative_entropy_of,
    temperature_grid,
)
from lightning_modules.objectives import Objective
from lightning_modules.objectives.base import TemperedObjective
from lightning_modules.preflight.question_scores import QuestionScores
from lightning_modules.preflight.variants import Variant
from lightning_modules.preflight.verdict import USEFUL_AUC, follows_length, of_matched

ABOUT_AS_GOOD = 0.05
"""Lower ends of an AUC's interval that differ by less say nothing of which teacher is better."""


@dataclass(frozen=True)
class TeacherRow:
    """What is known of one teacher.

    Attributes:
        name: of the variant, or of what it is compared with.
        auc, mrr: teacher validity, over questions with a positive and a negative passage.
        at_equal_length: AUC between passages of the same length (`matched_auc`).
        fixed_preference: Kendall's tau between the order that it puts a question's passages in and its order
            for an unrelated question: 1 = the same passages are preferred whatever is asked; about 0 = what
            is asked decides. NaN where that was not read.
        length_tau: Kendall's tau between its order and passage length in tokens: 1 = the longest passage
            first, -1 = the shortest.
        mass_on_answers: probability of the passages with an answer, at `temperature`.
        entropy: of the target at `temperature`, relative to that of equal passages.
        temperature: under which passages with an answer are likeliest; None where there is none to choose.
        overrides: settings that teach like this; None where no setting does.
        way: objective, context and order, which variants share that differ in `details` alone.
        details: those of the objective's settings that make another order of the passages, in words.
        is_plain: whether these are the usual ones.
    """

    name: str
    auc: Estimate
    mrr: Estimate
    at_equal_length: Estimate
    fixed_preference: Estimate
    length_tau: Estimate
    mass_on_answers: Estimate
    entropy: Estimate
    temperature: float | None = None
    overrides: list[str] | None = None
    way: str = ""
    details: list[str] = field(default_factory=list)
    is_plain: bool = True


def variant_row(collected: QuestionScores, variant: Variant, chooses_heads: bool = False) -> TeacherRow:
    """At the temperature under which passages with an answer are likeliest.

    Args:
        collected: what was read.
        variant: of the row.
        chooses_heads: whether attention heads are chosen in the configuration that overrides are for.
    """
    scores, objective = collected.scores(variant), variant.objective
    if objective.temperature is not None:
        scaled = objective.scaled(scores)
        best = best_temperature(scaled, collected.has_answer, temperature_grid(scaled))
        objective = objective.at_temperature(best)
    return _variant_row(collected, variant, objective, _overrides(variant, objective, chooses_heads))


def configured_row(collected: QuestionScores, configured: Variant) -> TeacherRow:
    """At the temperature that is configured."""
    return _variant_row(collected, configured, configured.objective, configured.overrides)


def reference_row(
    name: str, log_p: Float[Tensor, "questions passages"], collected: QuestionScores
) -> TeacherRow:
    """What teachers are compared with."""
    return _measured(name, log_p, log_p, collected, None)


def _variant_row(
    collected: QuestionScores, variant: Variant, objective: Objective, overrides: list[str] | None
) -> TeacherRow:
    """With an objective that has the temperature of the row."""
    scores, unrelated = collected.scores(variant), collected.unrelated_scores(variant)
    return replace(
        _measured(variant.name, scores, objective.log_p_of_scores(scores), collected, unrelated),
        temperature=objective.temperature,
        overrides=overrides,
        way=variant.way,
        details=list(objective.details),
        is_plain=objective.is_plain,
    )


def _overrides(variant: Variant, objective: Objective, chooses_heads: bool) -> list[str] | None:
    """What to paste beside the configuration, so that it teaches like the row; None: nothing does, or may."""
    if objective.knows_answers:  # a limit is nothing to recommend
        return None
    overrides = replace(variant, objective=objective).overrides
    if overrides is None:
        return None
    if objective.temperature is not None:
        assert isinstance(objective, TemperedObjective)
        overrides.append(f"objective.scale={objective.scale}")
        overrides.append(f"objective.attention_temperature={objective.temperature:.3g}")
    if chooses_heads and objective.uses_reader and not objective.uses_attention:
        overrides.append("reader.attention_heads=null")
    return overrides


def _measured(
    name: str,
    scores: Float[Tensor, "questions passages"],
    log_p: Float[Tensor, "questions passages"],
    collected: QuestionScores,
    unrelated: Float[Tensor, "questions passages"] | None,
) -> TeacherRow:
    """What the scores and the distribution that they make say, whatever they are of."""
    has_answer, lengths = collected.has_answer, collected.lengths.float()
    return TeacherRow(
        name,
        auc=estimate(teacher_auc(scores, has_answer)),
        mrr=estimate(teacher_reciprocal_rank(scores, has_answer)),
        at_equal_length=of_matched(matched_auc(scores, has_answer, lengths)),
        fixed_preference=estimate([] if unrelated is None else kendall_tau(scores, unrelated)),
        length_tau=estimate(kendall_tau(scores, lengths)),
        mass_on_answers=estimate(mass_on_answers(log_p, has_answer)),
        entropy=estimate(relative_entropy_of(log_p)),
        way=name,
    )


def recommended_row(rows: Sequence[TeacherRow]) -> TeacherRow | None:
    """Of the rows that are about as good as the best, the one with the least fixed preference.

    How good a row is: the lower end of its AUC's interval, over all passages or equally long ones, the worse
    of both, so that few questions do not win by luck. Rows that are not surely useful are left out, as are
    those whose order follows passage length.
    """
    usable = [
        row
        for row in rows
        if row.overrides is not None
        and row.auc.low > USEFUL_AUC
        and row.at_equal_length.low > USEFUL_AUC
        and not follows_length(row.length_tau)
    ]
    lowest = [min(row.auc.low, row.at_equal_length.low) for row in usable]
    about_best = [
        (1.0 if math.isnan(row.fixed_preference.mean) else max(0.0, row.fixed_preference.mean), -low, row)
        for row, low in zip(usable, lowest, strict=True)
        if low > max(lowest) - ABOUT_AS_GOOD
    ]
    return min(about_best, key=lambda found: found[:2])[2] if about_best else None
