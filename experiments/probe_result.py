"""From passage scores to what the pre-flight check says: a row for each way of teaching, and advice."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations

from jaxtyping import Float
from torch import Tensor

from datamodules.prompts import Context, TokenScope
from experiments.probing import Probe, QuestionScores
from experiments.verdict import USEFUL_AUC, Decision, Estimate, Verdict, estimate, judge, of_matched
from lightning_modules.metrics.head_search import head_auc, layer_auc, search_heads
from lightning_modules.metrics.matched_auc import matched_auc
from lightning_modules.metrics.teacher_auc import teacher_auc, teacher_reciprocal_rank
from lightning_modules.metrics.teacher_checks import (
    best_temperature,
    kendall_tau,
    mass_by_position,
    mass_on_answers,
    relative_entropy_of,
    temperature_grid,
)
from lightning_modules.objectives import ATLAS_PASSAGE_LENGTH, Constants, Objective
from lightning_modules.scores import AttentionDistribution, PassageScore, log_p_attn
from lightning_modules.teacher import Teacher
from lightning_modules.teacher_variants import Order, Variant

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
    mass_on_answers: Estimate
    entropy: Estimate
    temperature: float | None = None
    overrides: list[str] | None = None


@dataclass(frozen=True)
class HeadChoice:
    """Whether choosing attention heads pays, on questions that had no part in the choice.

    Attributes:
        heads: the choice, as `reader.attention_heads` takes it.
        auc, auc_of_all: held-out teacher AUC of choices made on the other folds, and of all heads.
        gain, low, high: their difference with its bootstrap 95% interval.
        at_equal_length, at_equal_length_of_all: the same AUCs between passages of the same length.
        pays: whether the whole interval is above 0, and nothing is lost at equal length.
        num_questions: with both kinds of passages.
        layer_auc: of each layer's mean over its heads.
        head_auc: of each head, layer by layer; on the same questions that `heads` was chosen on.
    """

    heads: str
    auc: float
    auc_of_all: float
    gain: float
    low: float
    high: float
    at_equal_length: Estimate
    at_equal_length_of_all: Estimate
    pays: bool
    num_questions: int
    layer_auc: list[float]
    head_auc: list[list[float]]


@dataclass(frozen=True)
class ProbeResult:
    """All that the check found, ready to be shown or saved.

    Attributes:
        verdict: on the configured teacher.
        configured: its name; the first of `rows`.
        rows: ways of teaching, best AUC first after the configured one.
        references: the retriever itself, and passage length alone.
        indicators: reading -> value, over the questions that were not chosen for their passages.
        agreement: pairs of objectives, and each with passage length: Kendall's tau between the orders that
            they put passages in.
        mass_by_position: attention by place in a concatenated prompt, by order; None = not read.
        shares: attention on passages, first token, and the rest.
        share_with_both: of all questions retrieved for, those with both kinds of passages.
        hit_rate: Hit Rate@K over all questions retrieved for.
        recommended: the row to use, with its overrides; None where nothing is surely useful.
        stopped_early: whether the verdict was clear before all questions were read.
        num_questions: read in the configured context.
        heads: the search for the heads that teach best; None where there are too few questions for it.
    """

    verdict: Verdict
    configured: str
    rows: list[TeacherRow]
    references: list[TeacherRow]
    indicators: dict[str, Estimate]
    agreement: dict[str, Estimate]
    mass_by_position: dict[str, list[float]]
    shares: dict[str, Estimate]
    share_with_both: float
    hit_rate: float
    recommended: TeacherRow | None
    stopped_early: bool
    num_questions: int
    heads: HeadChoice | None = None


def judge_configured(collected: QuestionScores, configured: Variant, level: float = 0.95) -> Verdict:
    """The verdict on the configured teacher from what was read so far."""
    has_answer = collected.has_answer
    return judge(
        collected.auc(configured).numpy(),
        teacher_auc(collected.log_p_retr, has_answer).numpy(),
        matched_auc(collected.scores(configured), has_answer, collected.lengths.float(), level),
        level,
    )


def make_result(probe: Probe, stopped_early: bool) -> ProbeResult:
    """Everything that is said of what a probe has read."""
    collected, configured = probe.collected, probe.configured
    rows = [_row(collected, variant) for variant in collected.variants]
    own = _configured_row(collected, configured, probe.module.teacher)
    others = sorted((row for row in rows if row.name != own.name), key=lambda row: -row.auc.mean)
    log_p_retr, lengths = collected.log_p_retr, collected.lengths.float()
    return ProbeResult(
        verdict=judge_configured(collected, configured),
        configured=own.name,
        rows=[own, *others],
        references=[
            _reference("retriever (p_RETR)", log_p_retr, collected),
            _reference("passage length alone", lengths.log_softmax(dim=-1), collected),
        ],
        indicators={
            name: estimate(values)
            for name, values in probe.typical_indicators().items()
            if name.startswith("indicator")
        },
        agreement=_agreement(collected, configured),
        mass_by_position=_mass_by_position(collected),
        shares={name: estimate(values) for name, values in collected.shares.items()},
        share_with_both=probe.share_with_both,
        hit_rate=probe.hit_rate,
        recommended=recommended_row(rows),
        stopped_early=stopped_early,
        num_questions=len(collected.questions),
        heads=_search_heads(collected),
    )


def _search_heads(collected: QuestionScores) -> HeadChoice | None:
    scores, has_answer = collected.head_scores, collected.has_answer
    try:
        found = search_heads(scores, has_answer, collected.lengths.float())
    except ValueError:  # too few questions with both kinds of passages
        return None
    return HeadChoice(
        str(found.heads),
        found.auc,
        found.auc_of_all,
        found.difference,
        *found.interval,
        of_matched(found.at_equal_length),
        of_matched(found.at_equal_length_of_all),
        found.pays,
        found.num_questions,
        layer_auc(scores, has_answer).tolist(),
        head_auc(scores, has_answer).tolist(),
    )


def _row(collected: QuestionScores, variant: Variant) -> TeacherRow:
    scores, has_answer = collected.scores(variant), collected.has_answer
    if variant.objective is Objective.EMDR2:  # a posterior already, with no temperature to choose
        log_p, temperature = scores, None
    else:
        temperature = best_temperature(scores, has_answer, temperature_grid(scores))
        log_p = (scores / temperature).log_softmax(dim=-1)
    overrides = variant.overrides
    if overrides is not None and temperature is not None:
        overrides = [*overrides, f"objective.attention_temperature={temperature:.3g}"]
    return _measured(
        variant.name, scores, log_p, collected, collected.unrelated_scores(variant), temperature, overrides
    )


def _configured_row(collected: QuestionScores, configured: Variant, teacher: Teacher) -> TeacherRow:
    """At the temperature that is configured."""
    scores, unrelated = collected.scores(configured), collected.unrelated_scores(configured)
    if configured.objective is Objective.EMDR2:
        return _measured(configured.name, scores, scores, collected, unrelated, None, configured.overrides)
    is_atlas_sum = teacher.constants is Constants.ATLAS and teacher.passage_score is PassageScore.SUM
    divided = scores / ATLAS_PASSAGE_LENGTH if is_atlas_sum and configured.passage_score else scores
    how = teacher.attention_distribution if configured.passage_score else AttentionDistribution.SOFTMAX
    log_p = log_p_attn(divided, how, teacher.attention_temperature)
    temperature = teacher.attention_temperature
    return _measured(configured.name, scores, log_p, collected, unrelated, temperature, configured.overrides)


def _reference(
    name: str, log_p: Float[Tensor, "questions passages"], collected: QuestionScores
) -> TeacherRow:
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
        favourites=estimate([] if unrelated is None else kendall_tau(scores, unrelated)),
        mrr=estimate(teacher_reciprocal_rank(scores, has_answer)),
        mass_on_answers=estimate(mass_on_answers(log_p, has_answer)),
        entropy=estimate(relative_entropy_of(log_p)),
        temperature=temperature,
        overrides=overrides,
    )


def _agreement(collected: QuestionScores, configured: Variant) -> dict[str, Estimate]:
    """Between the objectives, each in the context that is configured where it was read in it, and length."""
    chosen: dict[Objective, Variant] = {}
    for variant in sorted(
        collected.variants, key=lambda v: v != configured and v.context != configured.context
    ):
        if variant.passage_score in (None, PassageScore.SUM) and variant.token_scope is not TokenScope.PROMPT:
            chosen.setdefault(variant.objective, variant)
    scores = {variant.name: collected.scores(variant) for variant in chosen.values()}
    scores["passage length"] = collected.lengths.float()
    return {
        f"{first} / {second}": estimate(kendall_tau(scores[first], scores[second]))
        for first, second in combinations(scores, 2)
    }


def _mass_by_position(collected: QuestionScores) -> dict[str, list[float]]:
    """Share of the passages' attention by where in a concatenated prompt they stood (Eq. 1 with `sum`)."""
    masses = {}
    for order in (Order.RANK, Order.SHUFFLED):
        positions = collected.positions(order)
        variant = Variant(Objective.ADIST, Context.CONCATENATED, order, TokenScope.PASSAGE, PassageScore.SUM)
        if positions is None or variant not in collected.variants:
            continue
        scores = collected.scores(variant)
        read = ~(scores.isnan() | positions.isnan()).any(dim=1)
        log_p = log_p_attn(scores[read], AttentionDistribution.SUM)
        masses[order.value] = mass_by_position(log_p, positions[read].long()).tolist()
    return masses


def recommended_row(rows: Sequence[TeacherRow]) -> TeacherRow | None:
    """Of the rows that are about as good as the best, the one that least prefers the same passages always.

    How good a row is: the lower end of its AUC's interval, over all passages or equally long ones, the worse
    of both, so that few questions do not win by luck. Rows that are not surely useful are left out.
    """
    usable = [
        row
        for row in rows
        if row.overrides is not None and row.auc.low > USEFUL_AUC and row.at_equal_length.low > USEFUL_AUC
    ]
    lowest = [min(row.auc.low, row.at_equal_length.low) for row in usable]
    about_best = [
        (1.0 if math.isnan(row.favourites.mean) else max(0.0, row.favourites.mean), -low, row)
        for row, low in zip(usable, lowest, strict=True)
        if low > max(lowest) - ABOUT_AS_GOOD
    ]
    return min(about_best, key=lambda found: found[:2])[2] if about_best else None


def is_clear(collected: QuestionScores, configured: Variant) -> bool:
    """Whether no more questions are needed; stricter than the verdict, since it is asked again and again."""
    return judge_configured(collected, configured, level=0.99).decision is not Decision.UNSURE
