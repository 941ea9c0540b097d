import math

import pytest
import torch

from datamodules.prompts import Context
from lightning_modules.metrics.estimates import Estimate
from lightning_modules.objectives import EMDR2, ADist, EndToEnd, Labels, PDist, Signals, Uniform
from lightning_modules.preflight.head_sets import ALL_HEADS
from lightning_modules.preflight.question_scores import QuestionScores
from lightning_modules.preflight.rows import (
    PastedInto,
    TeacherRow,
    configured_row,
    pasted,
    recommended_row,
    scale_rows,
    teacher_rows,
    variant_row,
)
from lightning_modules.preflight.variants import Variant
from lightning_modules.preflight.verdict import FEWEST_QUESTIONS
from tests.tiny_models import toy_passages, toy_questions


def row_of(
    name,
    low,
    fixed_preference,
    at_equal_length=None,
    overrides=(),
    length_tau=0.2,
    num_questions=50,
    mass=0.5,
):
    def around(low):
        return Estimate(low + 0.1, low, low + 0.2, num_questions)

    nothing = Estimate(math.nan, math.nan, math.nan, 0)
    equal = around(low if at_equal_length is None else at_equal_length)
    always = (
        nothing
        if fixed_preference is None
        else Estimate(fixed_preference, fixed_preference, fixed_preference, 50)
    )
    found = None if overrides is None else list(overrides)
    by_length = Estimate(length_tau, length_tau - 0.1, length_tau + 0.1, 50)
    on_answers = Estimate(mass, mass, mass, num_questions)
    return TeacherRow(
        name, around(low), around(low), equal, always, by_length, on_answers, nothing, overrides=found
    )


@pytest.mark.parametrize(
    ("rows", "recommended"),
    [
        ([row_of("a", 0.7, None), row_of("b", 0.8, None)], "b"),
        # about as good: the one that depends on what is asked
        ([row_of("a", 0.78, 0.1), row_of("b", 0.8, 0.6)], "a"),
        ([row_of("a", 0.78, 0.1), row_of("b", 0.8, None)], "a"),
        ([row_of("a", 0.7, 0.1), row_of("b", 0.8, 0.6)], "b"),
        ([row_of("a", 0.9, 0.1, at_equal_length=0.55), row_of("b", 0.7, 0.6)], "b"),
        ([row_of("a", 0.9, 0.1, at_equal_length=0.45)], None),
        ([row_of("a", 0.9, 0.1, at_equal_length=math.nan)], None),
        ([row_of("a", 0.9, 0.1, overrides=None), row_of("b", 0.7, 0.6)], "b"),
        ([row_of("a", 0.6, 0.1)], None),
        # an order that follows length, with either sign
        ([row_of("a", 0.9, 0.1, length_tau=-0.71), row_of("b", 0.7, 0.6)], "b"),
        ([row_of("a", 0.9, 0.1, length_tau=0.71)], None),
        ([row_of("a", 0.9, 0.1, length_tau=-0.42), row_of("b", 0.7, 0.6)], "a"),
        ([row_of("a", 0.9, 0.1, length_tau=0.55), row_of("b", 0.7, 0.6)], "a"),
        # below 0 is noise
        ([row_of("a", 0.78, -0.2), row_of("b", 0.8, -0.1)], "b"),
        # few questions that are all right have an interval of [1, 1]
        ([row_of("a", 1.0, -0.2, num_questions=FEWEST_QUESTIONS - 1), row_of("b", 0.7, 0.6)], "b"),
        ([row_of("a", 1.0, -0.2, num_questions=FEWEST_QUESTIONS), row_of("b", 0.7, 0.6)], "a"),
        # the same order at two scales
        ([row_of("a", 0.8, 0.1, mass=0.6), row_of("b", 0.8, 0.1, mass=0.7)], "b"),
    ],
)
def test_what_is_recommended(rows, recommended):
    found = recommended_row(rows)
    assert (found and found.name) == recommended


@pytest.mark.parametrize(
    ("objective", "into", "added"),
    [
        (EndToEnd(), PastedInto(in_batch=True), ["objective.in_batch=false"]),
        (EndToEnd(), PastedInto(), []),
        (EndToEnd(), PastedInto(chooses_heads=True), []),
        (EMDR2(), PastedInto(in_batch=True), []),
        (EMDR2(), PastedInto(in_batch=True, chooses_heads=True), ["reader.attention_heads=null"]),
        (Uniform(), PastedInto(chooses_heads=True), ["reader.attention_heads=null"]),
    ],
)
def test_overrides_undo_what_does_not_go_with_them(objective, into, added):
    variant = Variant(objective)
    assert pasted(variant, objective, into) == [*variant.overrides, *added]


def test_a_limit_is_not_pasted():
    assert pasted(Variant(Labels()), Labels(), PastedInto()) is None


def collected_scores(**scores: tuple[Variant, torch.Tensor]) -> QuestionScores:
    """Of questions that have a positive passage and two negative ones, by some variants."""
    collected = QuestionScores()
    values = next(iter(scores.values()))[1]
    num, lengths = len(values), torch.tensor([[20, 10, 30]])
    has_answer = torch.tensor([[True, False, False]]).expand(num, -1)
    questions, passages = toy_questions()[:num], [toy_passages()[:3]] * num
    collected.add_questions(questions, passages, has_answer, torch.zeros(num, 3), lengths.expand(num, -1))
    for variant, found in scores.values():
        collected.add_scores(range(num), {variant: found})
    return collected


def made_up_scores(seed: int) -> torch.Tensor:
    return torch.rand(6, 3, generator=torch.Generator().manual_seed(seed))


def test_how_a_row_goes_with_passage_length():
    """By its own order and over the questions that were read that way, as Kendall counts pairs."""
    collected = QuestionScores()
    lengths = torch.tensor([[10, 20, 30], [10, 20, 30], [7, 7, 7]])
    has_answer = torch.tensor([[True, False, False]] * 3)
    collected.add_questions(
        toy_questions()[:3], [toy_passages()[:3]] * 3, has_answer, torch.zeros(3, 3), lengths
    )
    short, mixed = (Variant(ADist(passage_score=how)) for how in ("mean", "sum"))
    collected.add_scores([0, 1, 2], {short: torch.tensor([[3.0, 2.0, 1.0]] * 3)})
    collected.add_scores([1], {mixed: torch.tensor([[1.0, 3.0, 2.0]])})
    found = variant_row(collected, short).length_tau
    assert (found.mean, found.n) == (-1.0, 2)  # passages of one length have no order
    found = variant_row(collected, mixed).length_tau
    assert (found.mean, found.n) == (pytest.approx(1 / 3), 1)


@pytest.mark.parametrize("scale", ["raw", "standardised", "minmax"])
def test_a_row_is_of_the_questions_that_were_read(scale):
    """As if there were no others, whatever the scale."""
    scores, variant = made_up_scores(7), Variant(ADist(scale=scale), Context.INDEPENDENT)
    expected = variant_row(collected_scores(own=(variant, scores[:4])), variant)
    collected = collected_scores(other=(Variant(PDist()), made_up_scores(8)))
    collected.add_scores(range(4), {variant: scores[:4]})
    found = variant_row(collected, variant)
    assert found.entropy.n == found.mass_on_answers.n == found.auc.n == 4
    for name in ("temperature", "entropy", "mass_on_answers", "auc", "mrr", "length_tau"):
        assert getattr(found, name) == getattr(expected, name), name


def test_what_is_pasted_has_the_temperature_that_was_measured():
    scores, variant = made_up_scores(0), Variant(PDist())
    row = variant_row(collected_scores(pdist=(variant, scores)), variant)
    [written] = [text for text in row.overrides if text.startswith("objective.attention_temperature=")]
    assert row.temperature == float(written.partition("=")[2])
    mass = (scores / row.temperature).softmax(dim=-1)[:, 0].mean()
    assert row.mass_on_answers.mean == pytest.approx(float(mass), abs=1e-6)


@pytest.mark.parametrize(
    "objective", [ADist(attention_distribution="sum"), PDist(attention_temperature=0.3), Signals()], ids=str
)
def test_a_scale_keeps_the_order_and_changes_the_target(objective):
    scores, configured = made_up_scores(1), Variant(objective, Context.INDEPENDENT)
    collected = collected_scores(own=(configured, scores))
    own = configured_row(collected, configured)
    rows = scale_rows(collected, configured, own, PastedInto())
    assert [row.scale for row in rows] == ["raw", "standardised", "minmax"]
    assert [row.name for row in rows] == [f"{configured.name} {row.scale}" for row in rows]
    low, high = (of(dim=1, keepdim=True).values for of in (scores.min, scores.max))
    mean, deviation = scores.mean(dim=1, keepdim=True), scores.std(dim=1, keepdim=True, correction=0)
    by_scale = [scores, (scores - mean) / deviation, (scores - low) / (high - low)]
    for row, found in zip(rows, by_scale, strict=True):
        mass = (found / row.temperature).softmax(dim=1)[:, 0].mean()
        assert row.mass_on_answers.mean == pytest.approx(float(mass), abs=1e-5)
        assert (row.auc, row.length_tau) == (rows[0].auc, rows[0].length_tau)
        assert row.overrides[-2] == f"objective.scale={row.scale}"
    assert len({row.entropy.mean for row in rows}) == 3


def test_what_has_no_temperature_has_no_scale():
    configured = Variant(EMDR2())
    collected = collected_scores(own=(configured, made_up_scores(2).log_softmax(dim=1)))
    own = configured_row(collected, configured)
    assert scale_rows(collected, configured, own, PastedInto()) == []


PAPERS = Variant(ADist(), Context.INDEPENDENT)
SCALES = ("raw", "standardised", "minmax")


@pytest.mark.parametrize(
    ("configured", "first"),
    [
        (ADist(attention_temperature=0.05), ["adist independent sum"]),
        (ADist(scale="standardised"), ["adist independent sum raw", "adist independent sum"]),
        (Signals(), ["adist independent sum", "signals independent answer + question + likelihood"]),
        (
            ADist(passage_score="top5", scale="minmax"),
            ["adist independent sum", "adist independent top5"],
        ),
        (EMDR2(), ["adist independent sum", "emdr2 independent"]),
    ],
    ids=str,
)
def test_the_papers_own_teacher_is_the_first_row(configured, first):
    """Then the configured one, and that at every scale; whatever has the better AUC."""
    own = Variant(configured, Context.INDEPENDENT)
    summed = {v.name: v for v in (Variant(o, Context.INDEPENDENT) for o in configured.variants())}
    papers = summed.get(PAPERS.name, PAPERS)
    best = Variant(EMDR2(reader_temperature=0.5), Context.INDEPENDENT)
    sure = torch.tensor([[0.9, 0.06, 0.04]]).log().expand(6, -1)
    scores = {"papers": (papers, made_up_scores(3)), "best": (best, sure)}
    if own.name != papers.name:
        scores["own"] = (own, made_up_scores(4).log_softmax(dim=1))
    rows = teacher_rows(collected_scores(**scores), own, PAPERS, PastedInto())
    has_scales = configured.temperature is not None
    scales = [f"{own.name} {scale}" for scale in SCALES] if has_scales else []
    leading = list(dict.fromkeys([*first, *scales]))
    assert [row.name for row in rows.shown] == [*leading, best.name]
    assert rows.papers is rows.shown[0]
    if rows.papers.name != own.name:
        assert "objective.scale=raw" in rows.papers.overrides
    names = [row.name for row in rows.candidates]
    assert len(names) == len(set(names))
    assert set(names) == {*leading, best.name} - ({own.name} if has_scales else set()), (
        "at its own temperature the configured one is no choice"
    )


def test_the_papers_teacher_looks_at_all_heads():
    """Where heads are chosen."""
    papers = Variant(ADist(), Context.INDEPENDENT, heads=ALL_HEADS)
    chosen = Variant(ADist(), Context.INDEPENDENT)
    collected = collected_scores(chosen=(chosen, made_up_scores(5)), all=(papers, made_up_scores(6)))
    rows = teacher_rows(collected, chosen, papers, PastedInto(chooses_heads=True))
    names = [row.name for row in rows.shown]
    assert names[:2] == ["adist independent all heads sum", "adist independent sum"]
    assert "reader.attention_heads=null" in rows.papers.overrides
    assert not any(row.is_plain for row in rows.shown[:1])
