"""Scores read off kept passes are those of an objective that is configured that way."""

import pytest
import torch

from datamodules.batches import Batch
from datamodules.prompts import Context, Shown
from lightning_modules.objectives import EMDR2, LOOP, OBJECTIVES, ADist, PDist
from lightning_modules.objectives.base import Passes
from lightning_modules.preflight.head_sets import ALL_HEADS
from lightning_modules.preflight.passes import KeptPasses
from lightning_modules.preflight.variants import (
    ComparedObjectives,
    Order,
    Variant,
    averaged_over_orders,
    shown_in,
)
from lightning_modules.readers.outputs import WeightedPass
from tests.tiny_models import tiny_fusion_reader, tiny_reader, tiny_reader_of, toy_passages, toy_questions

QUESTIONS = toy_questions()[:3]
PASSAGES = [[toy_passages()[j] for j in (i, i + 5, 12 + i, 13 + i)] for i in range(3)]
BATCH = Batch(QUESTIONS, PASSAGES, [question.answers[0] for question in QUESTIONS])
LOG_P_RETR = torch.randn(3, 4, generator=torch.Generator().manual_seed(0)).log_softmax(dim=-1)
KINDS = ["concatenated", "independent", "fusion_in_decoder"]


@pytest.mark.parametrize("kind", KINDS)
def test_attention_is_that_of_the_configured_objective(kind):
    reader = tiny_reader_of(kind)
    objectives = ADist().variants()
    scores = KeptPasses(reader, BATCH).scores(objectives, LOG_P_RETR, reader.context)
    assert [variant.objective for variant in scores] == list(objectives)
    with torch.no_grad():
        output = reader.read(BATCH)
    for variant, found in scores.items():
        expected = variant.objective.log_p_target(output, LOG_P_RETR)
        torch.testing.assert_close(found.log_softmax(dim=-1), expected, msg=variant.name)


@pytest.mark.parametrize("kind", KINDS)
def test_likelihoods_are_those_of_the_configured_objective(kind):
    reader = tiny_reader_of(kind)
    objectives = [PDist(), EMDR2(), LOOP(), EMDR2(reader_temperature=0.5)]
    scores = KeptPasses(reader, BATCH).scores(objectives, LOG_P_RETR, reader.context)
    assert [variant.objective for variant in scores] == objectives
    for variant, found in scores.items():
        with torch.no_grad():
            output = variant.objective.read(reader, BATCH)
        expected = variant.objective.log_p_target(output, LOG_P_RETR)
        torch.testing.assert_close(
            found.log_softmax(dim=-1), expected, rtol=1e-4, atol=1e-5, msg=variant.name
        )


@pytest.mark.parametrize(
    ("kind", "passes"),
    [
        ("concatenated", ["read", "each_alone", "each_left_out", "weighted", "each_alone 0.5"]),
        ("independent", ["read", "each_alone 0.5"]),
        ("fusion_in_decoder", ["read", "each_alone", "each_left_out", "each_alone 0.5"]),
    ],
)
def test_every_pass_is_made_once(kind, passes):
    made = []

    class Counting(type(tiny_reader_of(kind))):
        def read_heads(self, batch):
            made.append("read")
            return super().read_heads(batch)

        def read_question_heads(self, batch):
            made.append("read")
            return super().read_question_heads(batch)

        def answer_likelihoods(self, batch, shown, temperature=1.0):
            made.append(f"{shown}" if temperature == 1.0 else f"{shown} {temperature:g}")
            return super().answer_likelihoods(batch, shown, temperature)

        def read_signals(self, batch):
            made.append("signals")
            return super().read_signals(batch)

        def read_weighted(self, batch):
            output = super().read_weighted(batch)

            def log_probs_at(log_weights):
                made.append("weighted")
                return output.log_probs_at(log_weights)

            return WeightedPass(output.prompts, log_probs_at)

    reader = tiny_reader_of(kind)
    kept = KeptPasses(Counting(reader.model, reader.prompts), BATCH)
    assert isinstance(kept, Passes)
    compared = ComparedObjectives.beside(EMDR2(reader_temperature=0.5))
    fitting = [o for o in (*compared.usual, *compared.only_configured) if o.unfit(reader) is None]
    for _ in range(2):
        kept.scores(fitting, LOG_P_RETR, reader.context, head_sets=[ALL_HEADS])
        kept.read_drops(BATCH)
    assert made == passes


def test_eval_mode_is_the_keepers_and_left_afterwards():
    reader = tiny_fusion_reader(dropout=0.5).train()
    kept, again = KeptPasses(reader, BATCH), KeptPasses(reader, BATCH)
    assert torch.equal(kept.read(BATCH).token_scores, again.read(BATCH).token_scores)
    likelihoods = [k.answer_likelihoods(BATCH, Shown.EACH_ALONE).log_probs for k in (kept, again)]
    assert torch.equal(*likelihoods)
    assert not likelihoods[0].requires_grad
    assert reader.model.training


def test_the_average_over_orders_is_the_mean():
    by_order = []
    for seed in range(3):
        order = Order.RANK if seed == 0 else Order.SHUFFLED
        reader = shown_in(tiny_reader(), Context.CONCATENATED, order)
        batch = Batch(QUESTIONS, PASSAGES, BATCH.answers, order_seed=seed)
        kept = KeptPasses(reader, batch)
        by_order.append(kept.scores(ADist().variants(), LOG_P_RETR, Context.CONCATENATED, order))
    averaged = averaged_over_orders(by_order)
    assert {variant.order for variant in averaged} == {Order.AVERAGED}
    for variant, found in averaged.items():
        of_orders = [
            scores[Variant(variant.objective, variant.context, order)]
            for scores, order in zip(by_order, (Order.RANK, Order.SHUFFLED, Order.SHUFFLED), strict=True)
        ]
        torch.testing.assert_close(found, sum(of_orders) / 3)
        assert variant.overrides is None


def test_all_registered_objectives_can_be_read_off_kept_passes():
    readers = [tiny_reader("independent"), tiny_reader("concatenated")]
    for made in OBJECTIVES.values():
        reader = next(reader for reader in readers if made().unfit(reader) is None)
        [found] = KeptPasses(reader, BATCH).scores([made()], LOG_P_RETR, reader.context).values()
        assert found.shape == (3, 4)
