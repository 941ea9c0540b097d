"""From passage scores to what the pre-flight check says: a row for each way of teaching, and advice."""

from dataclasses import dataclass
from itertools import combinations

from datamodules.prompts import Context, TokenScope
from experiments.estimates import Estimate, estimate
from experiments.probing.reading import Probe
from experiments.probing.rows import (
    TeacherRow,
    configured_row,
    recommended_row,
    reference_row,
    teacher_row,
)
from experiments.probing.scores import QuestionScores
from experiments.probing.verdict import Decision, Verdict, judge, of_matched
from lightning_modules.metrics.head_search import head_auc, layer_auc, search_heads
from lightning_modules.metrics.matched_auc import matched_auc
from lightning_modules.metrics.teacher_auc import teacher_auc
from lightning_modules.metrics.teacher_checks import kendall_tau, mass_by_position
from lightning_modules.objectives import Objective
from lightning_modules.scores import AttentionDistribution, PassageScore, log_p_attn
from lightning_modules.teacher_variants import Order, Variant


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
    has_answer, lengths = collected.has_answer, collected.lengths.float()
    scores = collected.scores(configured)
    return judge(
        collected.auc(configured).numpy(),
        teacher_auc(collected.log_p_retr, has_answer).numpy(),
        matched_auc(scores, has_answer, lengths, level),
        kendall_tau(scores, lengths).numpy(),
        level,
    )


def make_result(probe: Probe, stopped_early: bool) -> ProbeResult:
    """Everything that is said of what a probe has read."""
    collected, configured = probe.collected, probe.configured
    teacher, chooses_heads = probe.module.teacher, probe.original.attention_heads is not None
    rows = [teacher_row(collected, variant, teacher, chooses_heads) for variant in collected.variants]
    own = configured_row(collected, configured, teacher)
    others = sorted((row for row in rows if row.name != own.name), key=lambda row: -row.auc.mean)
    log_p_retr, lengths = collected.log_p_retr, collected.lengths.float()
    return ProbeResult(
        verdict=judge_configured(collected, configured),
        configured=own.name,
        rows=[own, *others],
        references=[
            reference_row("retriever (p_RETR)", log_p_retr, collected),
            reference_row("passage length alone", lengths.log_softmax(dim=-1), collected),
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


def is_clear(collected: QuestionScores, configured: Variant) -> bool:
    """Whether no more questions are needed; stricter than the verdict, since it is asked again and again."""
    return judge_configured(collected, configured, level=0.99).decision is not Decision.UNSURE
