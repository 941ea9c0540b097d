"""Scores of every variant are those of a teacher that is configured that way."""

import pytest
import torch

from datamodules.prompts import Context, PassageOrder, TokenScope
from lightning_modules.objectives import Objective
from lightning_modules.readers.fusion_in_decoder import FusionInDecoderReader
from lightning_modules.teacher import Teacher
from lightning_modules.teacher_variants import (
    Order,
    Variant,
    attention_scores,
    attention_shares,
    averaged_over_orders,
    context_of,
    in_context,
    likelihood_scores,
    passage_lengths,
    prompt_positions,
    read_alone,
    read_left_out,
)
from tests.tiny_models import tiny_fusion_reader, tiny_reader, tiny_reader_of, toy_passages, toy_questions

QUESTIONS = toy_questions()[:3]
ANSWERS = [question.answers[0] for question in QUESTIONS]
PASSAGES = [[toy_passages()[j] for j in (i, i + 5, 12 + i, 13 + i)] for i in range(3)]
LOG_P_RETR = torch.randn(3, 4, generator=torch.Generator().manual_seed(0)).log_softmax(dim=-1)
KINDS = ["concatenated", "independent", "fusion_in_decoder"]


def reader_of(kind, scope):
    if kind == "fusion_in_decoder":
        return tiny_fusion_reader(token_scope=scope)
    return tiny_reader(kind, token_scope=scope)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("scope", list(TokenScope))
def test_attention_is_that_of_the_configured_teacher(kind, scope):
    configured = reader_of(kind, scope)
    context = context_of(configured)
    reader = in_context(configured, context or Context.CONCATENATED)
    with torch.no_grad():
        scores = attention_scores(reader.read(QUESTIONS, PASSAGES, ANSWERS), context)
    for variant, found in scores.items():
        if variant.token_scope is not scope:
            continue
        teacher = Teacher("adist", variant.passage_score)
        taught = teacher.teach(configured, QUESTIONS, PASSAGES, ANSWERS)
        expected = teacher.log_p_target(taught, LOG_P_RETR)
        torch.testing.assert_close(found.log_softmax(dim=-1), expected, msg=variant.name)


@pytest.mark.parametrize("kind", KINDS)
def test_likelihoods_are_those_of_the_configured_teacher(kind):
    reader = tiny_reader_of(kind)
    context = context_of(reader)
    with torch.no_grad():
        reading = reader.read(QUESTIONS, PASSAGES, ANSWERS, with_labels=True)
    alone = read_alone(reader, reading, QUESTIONS, PASSAGES, ANSWERS)
    scores = likelihood_scores(alone, LOG_P_RETR, context)
    if context is not Context.INDEPENDENT:
        left_out = read_left_out(reader, QUESTIONS, PASSAGES, ANSWERS)
        scores |= likelihood_scores(left_out, LOG_P_RETR, context)
    assert {variant.objective for variant in scores} == {Objective.PDIST, Objective.EMDR2, Objective.LOOP}
    for variant, found in scores.items():
        teacher = Teacher(variant.objective)
        taught = teacher.teach(reader, QUESTIONS, PASSAGES, ANSWERS)
        expected = teacher.log_p_target(taught, LOG_P_RETR)
        torch.testing.assert_close(
            found.log_softmax(dim=-1), expected, rtol=1e-4, atol=1e-5, msg=variant.name
        )


def test_positions_are_where_the_passages_stand():
    for seed in range(4):
        reader = in_context(tiny_reader(), Context.CONCATENATED, PassageOrder.SHUFFLED)
        prompts = reader.prompts.build(QUESTIONS, PASSAGES, ANSWERS, order_seed=seed)
        for row, found in enumerate(prompt_positions(prompts).tolist()):
            seen = []
            for rank in prompts.passage_of_token[row].tolist():
                if rank >= 0 and rank not in seen:
                    seen.append(rank)
            assert [seen.index(rank) for rank in range(4)] == found
    rank_order = in_context(tiny_reader(), Context.CONCATENATED).prompts.build(QUESTIONS, PASSAGES)
    assert prompt_positions(rank_order).tolist() == [[0, 1, 2, 3]] * 3
    alone = tiny_reader("independent").prompts.build(QUESTIONS, PASSAGES)
    assert prompt_positions(alone).tolist() == [[0] * 4] * 3


@pytest.mark.parametrize("kind", KINDS)
def test_lengths_and_shares(kind):
    reader = tiny_reader_of(kind)
    with torch.no_grad():
        reading = reader.read(QUESTIONS, PASSAGES, ANSWERS)
    prompts = reading.prompts
    lengths = torch.zeros(3, 4, dtype=torch.long)
    content = [0.0] * 3
    for row, question in enumerate(prompts.question_of_prompt.tolist()):
        for token, rank in enumerate(prompts.passage_of_token[row].tolist()):
            if prompts.content_mask[row, token]:
                lengths[question, rank] += 1
                content[question] += float(reading.token_scores[row, token])
    assert torch.equal(passage_lengths(prompts), lengths)
    shares = attention_shares(reading)
    totals = torch.zeros(3).index_add(0, prompts.question_of_prompt, reading.token_scores.sum(dim=1))
    assert shares.passages.tolist() == pytest.approx(
        [c / float(t) for c, t in zip(content, totals, strict=True)]
    )
    assert (shares.passages + shares.first_token + shares.rest).tolist() == pytest.approx([1.0] * 3)
    assert (shares.first_token > 0).all()


def test_the_average_over_orders_is_the_mean():
    by_order = []
    for seed in range(3):
        order = Order.RANK if seed == 0 else Order.SHUFFLED
        reader = in_context(tiny_reader(), Context.CONCATENATED, PassageOrder(order.value))
        with torch.no_grad():
            reading = reader.read(QUESTIONS, PASSAGES, ANSWERS, order_seed=seed)
        by_order.append(attention_scores(reading, Context.CONCATENATED, order))
    averaged = averaged_over_orders(by_order)
    assert {variant.order for variant in averaged} == {Order.AVERAGED}
    for variant, found in averaged.items():
        of_orders = [
            s
            for scores in by_order
            for v, s in scores.items()
            if (v.token_scope, v.passage_score) == (variant.token_scope, variant.passage_score)
        ]
        torch.testing.assert_close(found, sum(of_orders) / 3)
        assert variant.overrides is None


def test_names_and_overrides():
    variant = Variant(
        Objective.ADIST, Context.CONCATENATED, Order.SHUFFLED, TokenScope.PROMPT, Teacher().passage_score
    )
    assert variant.name == "adist concatenated shuffled sum with template"
    assert variant.overrides == [
        "objective.name=adist",
        "reader.context=concatenated",
        "reader.passage_order=shuffled",
        "objective.passage_score=sum",
        "reader.token_scope=prompt",
    ]
    assert Variant(Objective.PDIST).overrides == ["objective.name=pdist"]


def test_fusion_in_decoder_has_one_context():
    reader = in_context(tiny_fusion_reader(), Context.CONCATENATED)
    assert isinstance(reader, FusionInDecoderReader)
    assert context_of(reader) is None
