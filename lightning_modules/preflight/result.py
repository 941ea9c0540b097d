"""From passage scores to what a pre-flight check says: a row for each variant, and a verdict."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path

from datamodules.prompts import Context
from lightning_modules.attention_heads import AttentionHeads
from lightning_modules.head_lists import HeadRows
from lightning_modules.metrics.estimates import Estimate, estimate
from lightning_modules.metrics.head_search import head_auc, layer_auc, search_heads
from lightning_modules.metrics.matched_auc import matched_auc
from lightning_modules.metrics.measures import all_measures
from lightning_modules.metrics.question_values import QuestionValues
from lightning_modules.metrics.teacher_auc import teacher_auc
from lightning_modules.metrics.teacher_checks import kendall_tau, mass_by_position
from lightning_modules.objectives.base import Cost
from lightning_modules.preflight.choosing import ChosenQuestions
from lightning_modules.preflight.configured import ConfiguredTeacher
from lightning_modules.preflight.head_sets import HeadSet, attention_of, rows_of
from lightning_modules.preflight.question_scores import QuestionScores
from lightning_modules.preflight.rows import (
    PastedInto,
    TeacherRow,
    at_best_temperature,
    pasted,
    recommended_row,
    reference_row,
    teacher_rows,
)
from lightning_modules.preflight.variants import Variant
from lightning_modules.preflight.verdict import Advice, Verdict, judge, of_matched
from lightning_modules.scores import AttentionDistribution, log_p_attn


@dataclass(frozen=True)
class HeadChoice:
    """Whether choosing attention heads pays, on questions that had no part in the choice.

    Attributes:
        heads: the choice, as `AttentionHeads.parse` takes it.
        rows: whose attention it is of, `answer` or `question`: the rows that the configured objective looks
            at, the question's where both teach.
        overrides: settings under which these rows of these heads alone teach.
        auc, auc_of_all: held-out teacher AUC of choices made on the other folds, and of all heads.
        gain, low, high: their difference with its bootstrap 95% interval.
        at_equal_length, at_equal_length_of_all: the same AUCs between passages of the same length.
        pays: whether the whole interval is above 0, and nothing is lost at equal length.
        num_questions: with a positive and a negative passage.
        layer_auc: of each layer's mean over its heads.
        head_auc: of each head, layer by layer; on the same questions that `heads` was chosen on.
    """

    heads: str
    rows: str
    overrides: list[str]
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
class PreflightResult:
    """All that a pre-flight check found, ready to be shown or saved.

    Attributes:
        verdict: on the configured teacher.
        configured: its name, of `configured_row`.
        papers: name of the paper's own teacher, attention of the answer's rows by all heads, summed and raw;
            of the first row.
        rows: the variants: the paper's, the configured one where that is another, it again at every scale,
            and the others, best AUC first.
        references: the retriever itself, passage length alone, BM25 where there is an index of it, and the
            reranker where there is one.
        reranker: what it is called, and how much better its AUC is than the configured teacher's over the
            same questions; None without one.
        measures: of the configured teacher, metric -> value, over the questions that were not chosen for
            their passages; without those that only questions with a positive and a negative passage have.
        percentiles: of the indicators among them.
        agreement: pairs of objectives, and each with passage length: Kendall's tau between the orders that
            they put passages in.
        mass_by_position: attention by place in a concatenated prompt, by order; empty where not read.
        shares: attention on passages, first token, and the rest.
        share_with_both: of all questions retrieved for, those with a positive and a negative passage.
        hit_rate: Hit Rate@K over all questions retrieved for.
        recommended: the row to use, with its overrides; None where nothing is surely useful.
        stopped_early: whether the verdict was clear before all questions were read.
        num_questions: read in the configured context.
        heads: the search for the heads that teach best; None where there are too few questions for it.
        notes: rows that are missing or are not what was asked for, and why.
        questions: what validations measure, of every question read: what a run may later be compared with.
        retrieved: question id -> ids of its K passages.
    """

    verdict: Verdict
    configured: str
    papers: str
    rows: list[TeacherRow]
    references: list[TeacherRow]
    reranker: tuple[str, Estimate] | None
    measures: dict[str, Estimate]
    percentiles: list[int]
    agreement: dict[str, Estimate]
    mass_by_position: dict[str, list[float]]
    shares: dict[str, Estimate]
    share_with_both: float
    hit_rate: float
    recommended: TeacherRow | None
    stopped_early: bool
    num_questions: int
    heads: HeadChoice | None
    notes: list[str]
    questions: QuestionValues
    retrieved: dict[str, list[str]]

    @property
    def configured_row(self) -> TeacherRow:
        """The row of the configured teacher, at its own temperature."""
        return next(row for row in self.rows if row.name == self.configured)


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
        kendall_tau(scores, collected.unrelated_scores(configured)).numpy(),
    )


def is_clear(collected: QuestionScores, configured: Variant) -> bool:
    """Whether no more questions are needed; stricter than the verdict, since it is asked again and again."""
    return judge_configured(collected, configured, level=0.99).advice is not Advice.UNSURE


def make_result(
    teacher: ConfiguredTeacher,
    chosen: ChosenQuestions,
    percentiles: Sequence[int],
    stopped_early: bool,
    notes: Sequence[str] = (),
) -> PreflightResult:
    """Everything that is said of what was read.

    Args:
        teacher: that has read.
        chosen: the questions chosen for it.
        percentiles: of the indicators.
        stopped_early: whether it did not read all of them.
        notes: rows that are missing or are not what was asked for, and why.
    """
    collected, configured = teacher.collected, teacher.variant
    into = PastedInto(teacher.reader.attention_heads is not None, teacher.module.in_batch)
    rows = teacher_rows(collected, configured, teacher.papers, into)
    values = teacher.question_values()
    return PreflightResult(
        verdict=judge_configured(collected, configured),
        configured=configured.name,
        papers=rows.papers.name,
        rows=rows.shown,
        references=_references(collected),
        reranker=_reranker_gain(collected, configured),
        measures=_typical_measures(values, chosen.typical, percentiles),
        percentiles=list(percentiles),
        agreement=_agreement(collected, teacher.reader.context),
        mass_by_position=_mass_by_position(collected),
        shares={name: estimate(of_questions) for name, of_questions in collected.shares.items()},
        share_with_both=chosen.share_with_both,
        hit_rate=chosen.hit_rate,
        recommended=recommended_row(rows.candidates),
        stopped_early=stopped_early,
        num_questions=len(collected.questions),
        heads=_search_heads(teacher, into),
        notes=list(notes),
        questions=values,
        retrieved=dict(zip(values.question_ids, collected.passages, strict=True)),
    )


def _references(collected: QuestionScores) -> list[TeacherRow]:
    scores = {
        "retriever (p_RETR)": collected.log_p_retr,
        "passage length alone": collected.lengths.float().log_softmax(dim=-1),
    }
    if collected.bm25 is not None:
        scores["BM25"] = collected.bm25.log_softmax(dim=-1)
    if collected.reranked is not None:
        scores[f"reranker {Path(collected.reranked.name).name}"] = collected.reranked.scores.log_softmax(
            dim=-1
        )
    return [reference_row(name, log_p, collected) for name, log_p in scores.items()]


def _reranker_gain(collected: QuestionScores, configured: Variant) -> tuple[str, Estimate] | None:
    if collected.reranked is None:
        return None
    auc = teacher_auc(collected.reranked.scores, collected.has_answer)
    return collected.reranked.name, estimate(auc - collected.auc(configured))


def _typical_measures(
    values: QuestionValues, typical: frozenset[str], percentiles: Sequence[int]
) -> dict[str, Estimate]:
    is_typical = [question_id in typical for question_id in values.question_ids]
    measured = [
        measure.name
        for measure in all_measures(percentiles)
        if measure.of_read is not None and measure.has_questions and not measure.needs_both
    ]
    return {
        name: estimate(
            [value for value, counts in zip(values.values[name], is_typical, strict=True) if counts]
        )
        for name in measured
    }


def _search_heads(teacher: ConfiguredTeacher, into: PastedInto) -> HeadChoice | None:
    collected = teacher.collected
    rows, scores = rows_of(collected.head_sums, teacher.module.objective.head_rows)
    has_answer = collected.has_answer
    try:
        found = search_heads(scores, has_answer, collected.lengths.float())
    except ValueError:  # too few questions with a positive and a negative passage
        return None
    return HeadChoice(
        heads=str(found.heads),
        rows=str(rows),
        overrides=_overrides_of_heads(teacher, rows, found.heads, into),
        auc=found.auc,
        auc_of_all=found.auc_of_all,
        gain=found.difference,
        low=found.interval[0],
        high=found.interval[1],
        at_equal_length=of_matched(found.at_equal_length),
        at_equal_length_of_all=of_matched(found.at_equal_length_of_all),
        pays=found.pays,
        num_questions=found.num_questions,
        layer_auc=layer_auc(scores, has_answer).tolist(),
        head_auc=head_auc(scores, has_answer).tolist(),
    )


def _overrides_of_heads(
    teacher: ConfiguredTeacher, rows: HeadRows, heads: AttentionHeads, into: PastedInto
) -> list[str]:
    """Settings under which some rows of some heads alone teach, at their best temperature."""
    objective = attention_of(rows, teacher.module.objective.constants)
    # in quotes, since YAML would take 1.2 for a number
    variant = teacher.shown(objective, HeadSet("chosen heads", f'"{heads}"', heads))
    sums = teacher.collected.head_sums
    scores = objective.scores_of_signals(sums.of_heads(heads.mask(*sums.answer.shape[1:3])))
    assert scores is not None, "they take attention alone"
    fitted = at_best_temperature(objective, scores, teacher.collected)
    overrides = pasted(variant, fitted, into)
    assert overrides is not None, "the heads are named"
    return overrides


def _agreement(collected: QuestionScores, context: Context | None) -> dict[str, Estimate]:
    """Between the plain objectives, each in the configured context where it was read in it, and length."""
    chosen: dict[str, Variant] = {}
    for variant in sorted(collected.variants, key=lambda v: v.context != context):
        if variant.objective.is_plain and variant.heads is None:
            chosen.setdefault(variant.objective.name, variant)
    scores = {variant.name: collected.scores(variant) for variant in chosen.values()}
    scores["passage length"] = collected.lengths.float()
    return {
        f"{first} / {second}": estimate(kendall_tau(scores[first], scores[second]))
        for first, second in combinations(scores, 2)
    }


def _mass_by_position(collected: QuestionScores) -> dict[str, list[float]]:
    """Share of the passages' attention by where in a concatenated prompt they stood (Eq. 1 with `sum`)."""
    masses = {}
    for variant in collected.variants:
        objective = variant.objective
        # attention itself, no gradient through it
        is_attention = objective.uses_attention and objective.is_plain and objective.cost is Cost.NOTHING
        positions = collected.positions(variant.order)
        as_configured = variant.heads is None and variant.num_examples != 0
        is_together = variant.context is Context.CONCATENATED and as_configured
        if not is_attention or not is_together or positions is None:
            continue
        scores = collected.scores(variant)
        read = ~(scores.isnan() | positions.isnan()).any(dim=1)
        log_p = log_p_attn(scores[read], AttentionDistribution.SUM)
        masses[variant.order.value] = mass_by_position(log_p, positions[read].long()).tolist()
    return masses
