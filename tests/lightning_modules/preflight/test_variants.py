"""Names and overrides of variants, and what is compared."""

import pytest

from datamodules.batches import TokenScope
from datamodules.prompts import Context, PassageOrder
from lightning_modules.objectives import EMDR2, OBJECTIVES, ADist, EndToEnd, PDist, make_objective
from lightning_modules.objectives.base import Cost
from lightning_modules.preflight.variants import ComparedObjectives, Order, Variant, order_of, shown_in
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


def test_the_order_is_said_of_what_the_pass_itself_scores():
    shown = (Context.CONCATENATED, Order.SHUFFLED)
    assert Variant.of_pass(ADist(), *shown).name == "adist concatenated shuffled sum"
    assert Variant.of_pass(EndToEnd(), *shown).name == "end_to_end concatenated shuffled"
    assert Variant.of_pass(PDist(), *shown).name == "pdist concatenated"


@pytest.mark.parametrize("name", list(OBJECTIVES))
@pytest.mark.parametrize("constants", ["plain", "atlas"])
def test_every_objective_is_compared_with_the_configured_ones_constants(name, constants):
    configured = make_objective(name, constants=constants, attention_temperature=0.3)
    compared = ComparedObjectives.beside(configured)
    assert configured in compared.usual
    assert compared.only_configured == []
    assert {objective.name for objective in compared.usual} == set(OBJECTIVES)
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
