"""A row for each way of teaching, and which of them is recommended."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from jaxtyping import Float
from torch import Tensor

from experiments.estimates import Estimate, estimate
from experiments.probing.scores import QuestionScores
from experiments.probing.verdict import USEFUL_AUC, follows_length, of_matched
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
from lightning_modules.scores import AttentionDistribution, log_p_attn
from lightning_modules.teacher import Teacher
from lightning_modules.teacher_variants import Variant

ABOUT_AS_GOOD = 0.05
"""Lower ends of an AUC's interval that differ by less say nothing of which teacher is better."""


@dataclass(frozen=True)
class TeacherRow:
    """What is known of one way of teaching.

    Attributes:
        name: of the variant, or of what it is compared with.
        auc, mrr: teacher validity, over questions with both kinds of passages.
        at_equal_length: AUC between passages of the same length (`matched_auc`).
        favourites: Kendall's tau between the order that it puts a question's passages in and its order for an
            unrelated question: 1 = the same passages are preferred whatever is asked; about 0 = what is asked
            decides. NaN where that was not read.
        length_tau: Kendall's tau between its order and passage length in tokens: 1 = the longest passage
            first, -1 = the shortest.
        mass_on_answers: probability of the passages with an answer, at `temperature`.
        entropy: of the target at `temperature`, relative to that of equal passages.
        temperature: under which passages with an answer are likeliest; None where there is none to choose.
        overrides: settings that teach like this; None where no setting does.
    """

    name: str
    auc: Estimate
    mrr: Estimate
    at_equal_length: Estimate
    favourites: Estimate
    length_tau: Estimate
    mass_on_answers: Estimate
    entropy: Estimate
    temperature: float | None = None
    overrides: list[str] | None = None


def teacher_row(
    collected: QuestionScores, variant: Variant, teacher: Teacher, chooses_heads: bool = False
) -> TeacherRow:
    """At the temperature under which passages with an answer are likeliest.

    Args:
        collected: what was read.
        variant: the way of teaching.
        teacher: as it is configured; the overrides are for that configuration.
        chooses_heads: whether attention heads are chosen in it.
    """
    scores = collected.scores(variant) / teacher.length_divisor(variant.passage_score)
    has_answer = collected.has_answer
    if variant.objective is Objective.EMDR2:  # a posterior already, with no temperature to choose
        log_p, temperature = scores, None
    else:
        temperature = best_temperature(scores, has_answer, temperature_grid(scores))
        log_p = (scores / temperature).log_softmax(dim=-1)
    overrides = _overrides(variant, teacher, temperature, chooses_heads)
    return _measured(
        variant.name, scores, log_p, collected, collected.unrelated_scores(variant), temperature, overrides
    )


def configured_row(collected: QuestionScores, configured: Variant, teacher: Teacher) -> TeacherRow:
    """At the temperature that is configured."""
    scores = collected.scores(configured) / teacher.length_divisor(configured.passage_score)
    unrelated = collected.unrelated_scores(configured)
    if configured.objective is Objective.EMDR2:
        return _measured(configured.name, scores, scores, collected, unrelated, None, configured.overrides)
    how = teacher.attention_distribution if configured.passage_score else AttentionDistribution.SOFTMAX
    temperature = teacher.attention_temperature
    log_p = log_p_attn(scores, how, temperature)
    return _measured(configured.name, scores, log_p, collected, unrelated, temperature, configured.overrides)


def _overrides(
    variant: Variant, teacher: Teacher, temperature: float | None, chooses_heads: bool
) -> list[str] | None:
    """What to paste beside the configuration, so that it teaches like the row."""
    if variant.overrides is None:
        return None
    overrides = list(variant.overrides)
    if temperature is not None:
        overrides.append(f"objective.attention_temperature={temperature:.3g}")
    is_attention = variant.objective is Objective.ADIST
    if is_attention and teacher.attention_distribution is not AttentionDistribution.SOFTMAX:
        overrides.append("objective.attention_distribution=softmax")
    if chooses_heads and not is_attention:
        overrides.append("reader.attention_heads=null")
    return overrides


def reference_row(
    name: str, log_p: Float[Tensor, "questions passages"], collected: QuestionScores
) -> TeacherRow:
    """What the ways of teaching are compared with."""
    return _measured(name, log_p, log_p, collected, None, None, None)


def _measured(
    name: str,
    scores: Float[Tensor, "questions passages"],
    log_p: Float[Tensor, "questions passages"],
    collected: QuestionScores,
    unrelated: Float[Tensor, "questions passages"] | None,
    temperature: float | None,
    overrides: list[str] | None,
) -> TeacherRow:
    has_answer = collected.has_answer
    return TeacherRow(
        name,
        auc=estimate(teacher_auc(scores, has_answer)),
        at_equal_length=of_matched(matched_auc(scores, has_answer, collected.lengths.float())),
        length_tau=estimate(kendall_tau(scores, collected.lengths.float())),
        favourites=estimate([] if unrelated is None else kendall_tau(scores, unrelated)),
        mrr=estimate(teacher_reciprocal_rank(scores, has_answer)),
        mass_on_answers=estimate(mass_on_answers(log_p, has_answer)),
        entropy=estimate(relative_entropy_of(log_p)),
        temperature=temperature,
        overrides=overrides,
    )


def recommended_row(rows: Sequence[TeacherRow]) -> TeacherRow | None:
    """Of the rows that are about as good as the best, the one that least prefers the same passages always.

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
        (1.0 if math.isnan(row.favourites.mean) else max(0.0, row.favourites.mean), -low, row)
        for row, low in zip(usable, lowest, strict=True)
        if low > max(lowest) - ABOUT_AS_GOOD
    ]
    return min(about_best, key=lambda found: found[:2])[2] if about_best else None
