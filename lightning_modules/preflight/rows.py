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
from lightning_modules.preflight.verdict import FEWEST_QUESTIONS, USEFUL_AUC, follows_length, of_matched
from lightning_modules.scores import Scale

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
        way: what variants share of which the best is shown (`Variant.way`).
        details: those of the objective's settings that make another order of the passages, in words.
        is_plain: whether these are the usual ones, and the heads those that are configured.
        scale: of the scores, where the row is the configured teacher at another scale; None elsewhere.
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
    scale: str | None = None


@dataclass(frozen=True)
class PastedInto:
    """What a configuration has that does not go with every row, whose overrides are pasted into it.

    Attributes:
        chooses_heads: whether attention heads are chosen.
        in_batch: whether p_RETR is over the passages of the batch's other questions too.
    """

    chooses_heads: bool = False
    in_batch: bool = False


@dataclass(frozen=True)
class TeacherRows:
    """The rows of a check.

    Attributes:
        papers: of the paper's own teacher.
        shown: all: the paper's, the configured one where that is another, it again at every scale, and the
            others, best AUC first.
        candidates: for a recommendation: all at their best temperatures.
    """

    papers: TeacherRow
    shown: list[TeacherRow]
    candidates: list[TeacherRow]


def teacher_rows(
    collected: QuestionScores, configured: Variant, papers: Variant, into: PastedInto
) -> TeacherRows:
    """A row for each variant, and for each scale of the configured one.

    Args:
        collected: what was read.
        configured, papers: the configured teacher and the paper's, of which one variant has the scores.
        into: the configuration that overrides are for.
    """
    own = configured_row(collected, configured)
    scales = scale_rows(collected, configured, own, into)
    if papers.name != configured.name:
        first = _papers_row(collected, papers, into)
    elif configured.objective == papers.objective.at_temperature(configured.objective.temperature):
        first = own
    else:
        first = next(row for row in scales if row.scale == Scale.RAW)
    named = {own.name: own, **{row.name: row for row in scales}}
    leading = [row for row in named.values() if row is not first]
    others = [
        variant_row(collected, variant, into)
        for variant in collected.variants
        if variant.name not in {first.name, papers.name, *named}
    ]
    others.sort(key=lambda row: -row.auc.mean)
    fitted = scales or [variant_row(collected, configured, into)]
    beside = [] if first.name in named else [first]
    return TeacherRows(first, [first, *leading, *others], [*fitted, *beside, *others])


def _papers_row(collected: QuestionScores, papers: Variant, into: PastedInto) -> TeacherRow:
    """By the scores of what puts the passages in the same order, whatever its scale."""
    scored = next(variant for variant in collected.variants if variant.name == papers.name)
    objective = at_best_temperature(papers.objective, collected.scores(scored), collected)
    return _variant_row(collected, scored, objective, pasted(papers, objective, into))


def variant_row(collected: QuestionScores, variant: Variant, into: PastedInto | None = None) -> TeacherRow:
    """At the temperature under which passages with an answer are likeliest.

    Args:
        collected: what was read.
        variant: of the row.
        into: the configuration that overrides are for.
    """
    scores = collected.scores(variant)
    objective = at_best_temperature(variant.objective, scores, collected)
    return _variant_row(collected, variant, objective, pasted(variant, objective, into or PastedInto()))


def configured_row(collected: QuestionScores, configured: Variant) -> TeacherRow:
    """At the temperature that is configured."""
    return _variant_row(collected, configured, configured.objective, configured.overrides)


def scale_rows(
    collected: QuestionScores, configured: Variant, own: TeacherRow, into: PastedInto
) -> list[TeacherRow]:
    """The configured objective at every scale, each at its best temperature; none where it has no scale.

    A scale keeps the order of the passages: mass and entropy alone differ from the configured row, `own`.
    """
    objective = configured.objective
    if objective.temperature is None:
        return []
    scores = collected.scores(configured)
    softmax = objective.at_temperature(objective.temperature)
    assert isinstance(softmax, TemperedObjective)
    rows = []
    for scale in Scale:
        at_scale = at_best_temperature(replace(softmax, scale=scale), scores, collected)
        log_p = at_scale.log_p_of_scores(scores)
        rows.append(
            replace(
                own,
                name=f"{own.name} {scale}",
                mass_on_answers=estimate(mass_on_answers(log_p, collected.has_answer)),
                entropy=estimate(relative_entropy_of(log_p)),
                temperature=at_scale.temperature,
                overrides=pasted(configured, at_scale, into),
                scale=str(scale),
            )
        )
    return rows


def reference_row(
    name: str, log_p: Float[Tensor, "questions passages"], collected: QuestionScores
) -> TeacherRow:
    """What teachers are compared with."""
    return _measured(name, log_p, log_p, collected, None)


def at_best_temperature(
    objective: Objective, scores: Float[Tensor, "questions passages"], collected: QuestionScores
) -> Objective:
    """An objective at the temperature under which passages with an answer are likeliest, where it has one.

    The temperature has the three digits that overrides give it, so that what is pasted is what was measured.

    Args:
        objective: that scored the passages.
        scores: its passage scores.
        collected: which passages hold an answer.
    """
    if objective.temperature is None:
        return objective
    scaled = objective.scaled(scores)
    best = best_temperature(scaled, collected.has_answer, temperature_grid(scaled))
    return objective.at_temperature(float(f"{best:.3g}"))


def pasted(variant: Variant, objective: Objective, into: PastedInto) -> list[str] | None:
    """What to paste beside a configuration, so that it teaches like a row; None: nothing does, or may.

    Args:
        variant: of the row.
        objective: the variant's, at the temperature of the row.
        into: the configuration.
    """
    if objective.knows_answers:  # a limit is nothing to recommend
        return None
    overrides = replace(variant, objective=objective).overrides
    if overrides is None:
        return None
    if objective.temperature is not None:
        assert isinstance(objective, TemperedObjective)
        overrides.append(f"objective.scale={objective.scale}")
        overrides.append(f"objective.attention_temperature={objective.temperature:.3g}")
    if into.in_batch and not objective.takes_others:
        overrides.append("objective.in_batch=false")
    if into.chooses_heads and not objective.uses_attention:
        overrides.append("reader.attention_heads=null")
    return overrides


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
        is_plain=objective.is_plain and variant.heads is None,
    )


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
    those of fewer than `FEWEST_QUESTIONS` questions, whose interval can be a point, and those whose order
    follows passage length. Of rows with the same order, the one whose target has most on passages with an
    answer.
    """
    usable = [
        row
        for row in rows
        if row.overrides is not None
        and row.auc.n >= FEWEST_QUESTIONS
        and row.auc.low > USEFUL_AUC
        and row.at_equal_length.low > USEFUL_AUC
        and not follows_length(row.length_tau)
    ]
    lowest = [min(row.auc.low, row.at_equal_length.low) for row in usable]
    about_best = [
        (_preference(row), -low, -row.mass_on_answers.mean, row)
        for row, low in zip(usable, lowest, strict=True)
        if low > max(lowest) - ABOUT_AS_GOOD
    ]
    return min(about_best, key=lambda found: found[:3])[3] if about_best else None


def _preference(row: TeacherRow) -> float:
    """How fixed it is: below 0 is noise, and unknown the worst."""
    return 1.0 if math.isnan(row.fixed_preference.mean) else max(0.0, row.fixed_preference.mean)
