"""Names and overrides of variants, and what is compared."""

import pytest
import torch

from datamodules.batches import TokenScope
from datamodules.prompts import Context, PassageOrder
from lightning_modules.attention_heads import AttentionHeads
from lightning_modules.objectives import (
    EMDR2,
    OBJECTIVES,
    ADist,
    EndToEnd,
    Labels,
    PDist,
    Signals,
    make_objective,
)
from lightning_modules.objectives.base import Cost
from lightning_modules.objectives.length import Length
from lightning_modules.preflight.head_sets import ALL_HEADS, HeadSet
from lightning_modules.preflight.variants import (
    ComparedObjectives,
    Order,
    Variant,
    order_of,
    shown_in,
    without_examples,
)
from lightning_modules.scores import PASSAGE_SCORES
from tests.tiny_models import tiny_fusion_reader, tiny_reader


def test_names_and_overrides():
    variant = Variant(ADist(token_scope="prompt"), Context.CONCATENATED, Order.SHUFFLED)
    assert variant.name == "adist concatenated shuffled sum with template"
    assert variant.way == "adist concatenated shuffled"
    assert variant.overrides == [
        "objective.name=adist",
        "reader.context=concatenated",
        "reader.passage_order=shuffled",
        "objective.passage_score=sum",
        "objective.attention_distribution=softmax",
        "reader.token_scope=prompt",
    ]
    assert Variant(PDist()).overrides == ["objective.name=pdist"]
    divided = Variant(EMDR2(reader_temperature=2.0), Context.INDEPENDENT)
    assert divided.name == "emdr2 independent logits/2"
    assert divided.overrides == [
        "objective.name=emdr2",
        "reader.context=independent",
        "objective.reader_temperature=2",
    ]
    assert Variant(ADist(), Context.CONCATENATED, Order.AVERAGED).overrides is None


def test_examples_are_told_where_they_are_compared():
    shown = (Context.INDEPENDENT, Order.RANK)
    variant = Variant.of_pass(ADist(), *shown, num_examples=2)
    assert variant.name == "adist independent sum"
    assert variant.overrides[1:3] == ["reader.context=independent", "reader.num_examples=2"]
    values = torch.tensor([[1.0]])
    [(bare, found), (none, _)] = without_examples({variant: values, Variant(Length()): values}).items()
    assert found is values
    assert (bare.name, bare.way) == (
        "adist independent without examples sum",
        "adist independent without examples",
    )
    assert bare.overrides[2] == "reader.num_examples=0"
    assert none == Variant(Length()) == Variant.of_pass(Length(), *shown, num_examples=2), (
        "it needs no reader"
    )
    assert not any("num_examples" in override for override in Variant.of_pass(ADist(), *shown).overrides)


def test_heads_are_told_where_others_than_the_configured_ones_are_compared():
    listed = HeadSet("qrhead:3", "qrhead:3", AttentionHeads.parse("0.1,1.0,1.2"))
    variant = Variant.of_pass(ADist(), Context.CONCATENATED, Order.SHUFFLED, heads=listed)
    assert variant.name == "adist concatenated shuffled qrhead:3 sum"
    assert variant.way == "adist qrhead:3", "the best of all contexts and orders is shown"
    assert "reader.attention_heads=qrhead:3" in variant.overrides
    every = Variant(Signals(signals={"question": 1.0}), Context.INDEPENDENT, num_examples=0, heads=ALL_HEADS)
    assert every.name == "signals independent without examples all heads question"
    assert "reader.attention_heads=null" in every.overrides
    held_out = Variant(ADist(), Context.INDEPENDENT, heads=HeadSet("core:8 held out", None))
    assert held_out.overrides is None, "each question has others"
    assert Variant.of_pass(Length(), Context.INDEPENDENT, heads=listed) == Variant(Length())


def test_the_order_is_said_of_what_the_pass_itself_scores():
    shown = (Context.CONCATENATED, Order.SHUFFLED)
    assert Variant.of_pass(ADist(), *shown).name == "adist concatenated shuffled sum"
    assert Variant.of_pass(EndToEnd(), *shown).name == "end_to_end concatenated shuffled"
    assert Variant.of_pass(PDist(), *shown).name == "pdist concatenated"


def test_what_knows_the_answers_is_compared_where_it_is_configured_alone():
    compared = ComparedObjectives.beside(Labels())
    assert compared.only_configured == [Labels()]
    assert "labels" not in {objective.name for objective in compared.usual}


@pytest.mark.parametrize("name", [name for name, o in OBJECTIVES.items() if not o.knows_answers])
@pytest.mark.parametrize("constants", ["plain", "atlas"])
def test_every_objective_is_compared_with_the_configured_ones_constants(name, constants):
    configured = make_objective(name, constants=constants, attention_temperature=0.3)
    compared = ComparedObjectives.beside(configured)
    assert configured in compared.usual
    assert compared.only_configured == []
    expected = {known for known, objective in OBJECTIVES.items() if not objective.knows_answers}
    assert {objective.name for objective in compared.usual} == expected
    assert {objective.constants for objective in compared.usual} == {constants}
    attention = [objective for objective in compared.usual if objective.name == "adist"]
    assert len(attention) == len(TokenScope) * len(PASSAGE_SCORES)


def test_a_configured_variant_that_is_not_usual_is_compared_too():
    configured = EMDR2(reader_temperature=0.3)
    compared = ComparedObjectives.beside(configured)
    assert compared.only_configured == [configured]
    assert EMDR2() in compared.usual


def test_which_pass_scores_what():
    compared = ComparedObjectives.beside(ADist())
    reader = tiny_reader("concatenated")
    together = {objective.name for objective in compared.of_pass(reader)}
    fitting = [made for made in OBJECTIVES.values() if made.uses_reader and made().unfit(reader) is None]
    assert together == {made.name for made in fitting if made.cost is Cost.NOTHING} == {"adist"}
    reader = tiny_reader("independent")
    alone = {objective.name for objective in compared.of_pass(reader)}
    fitting = [made for made in OBJECTIVES.values() if made.uses_reader and made().unfit(reader) is None]
    assert alone == {made.name for made in fitting} == {"adist", "pdist", "emdr2", "loop", "signals"}


def test_an_objective_without_a_reader_has_one_variant():
    class Even(ADist):
        uses_reader = False
        name = "even"

    assert Variant.of_pass(Even(), Context.CONCATENATED, Order.SHUFFLED) == Variant(Even())


def test_other_contexts_share_the_model():
    reader = tiny_reader("concatenated")
    other = shown_in(reader, Context.INDEPENDENT)
    assert other.model is reader.model
    assert other.context is Context.INDEPENDENT
    shuffled = shown_in(reader, Context.CONCATENATED, Order.SHUFFLED)
    assert shuffled.prompts.passage_order is PassageOrder.SHUFFLED
    assert (order_of(reader), order_of(shuffled), order_of(other)) == (
        Order.RANK,
        Order.SHUFFLED,
        Order.RANK,
    )


def test_fusion_in_decoder_has_one_context():
    reader = tiny_fusion_reader()
    assert list(reader.contexts) == [None]
    assert shown_in(reader, None) is reader
    assert order_of(reader) is Order.RANK
