"""Rows by sets of heads: what a reader with these heads gives, from passes that are made anyway."""

import pytest
import torch

from lightning_modules import head_lists
from lightning_modules.attention_heads import AttentionHeads
from lightning_modules.head_lists import HeadRows, ShippedHeads
from lightning_modules.metrics.head_search import HeadSums
from lightning_modules.objectives import ADist, Signals
from lightning_modules.objectives.base import Constants
from lightning_modules.preflight import head_sets
from lightning_modules.preflight.head_sets import (
    ALL_HEADS,
    HeadSet,
    attention_of,
    head_sets_of,
    held_out_signals,
    rows_of,
    unlisted_methods,
)
from lightning_modules.preflight.passes import KeptPasses
from lightning_modules.preflight.variants import ComparedObjectives
from lightning_modules.readers.decoder_only import DecoderOnlyReader
from lightning_modules.readers.outputs import PassageSignals
from tests.lightning_modules.metrics.test_head_methods import made_up
from tests.lightning_modules.preflight.test_passes import BATCH, LOG_P_RETR
from tests.lightning_modules.test_head_lists import list_of
from tests.tiny_models import tiny_llama, tiny_reader, tiny_reader_of

THREE = HeadSet("three", "0.2,1.0,1.3", AttentionHeads.parse("0.2,1.0,1.3"))
SIGNALS = ("answer", "question", "question + likelihood", "answer + question + likelihood")


@pytest.mark.parametrize(
    ("kind", "names"),
    [
        (
            "independent",
            {"adist independent three sum", *(f"signals independent three {of}" for of in SIGNALS)},
        ),
        ("concatenated", {"adist concatenated three sum"}),
        ("fusion_in_decoder", {"adist three sum"}),
    ],
)
@pytest.mark.parametrize("constants", list(Constants))
def test_scores_are_those_of_a_reader_with_these_heads(kind, names, constants):
    reader = tiny_reader_of(kind)
    objectives = ComparedObjectives.beside(ADist(constants=constants)).of_pass(reader)
    scores = KeptPasses(reader, BATCH).scores(objectives, LOG_P_RETR, reader.context, head_sets=[THREE])
    of_three = {variant: found for variant, found in scores.items() if variant.heads is THREE}
    assert {variant.name for variant in of_three} == names
    choosy = type(reader)(reader.model, reader.prompts, THREE.heads)
    for variant, found in of_three.items():
        with torch.no_grad():
            output = variant.objective.read(choosy, BATCH)
        expected = variant.objective.passage_scores(output, LOG_P_RETR)
        torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-4, msg=variant.name)
        assert "reader.attention_heads=0.2,1.0,1.3" in variant.overrides


@pytest.mark.parametrize(
    "objective",
    [
        ADist(passage_score="top5"),
        ADist(token_scope="prompt"),
        Signals(signals={"last": 1.0}),
        Signals(signals={"likelihood": 1.0}),
        Signals(calibration={"reference": "content_free"}),
    ],
    ids=str,
)
def test_what_sums_do_not_give_has_no_row(objective):
    ones = torch.ones(2, 3)
    assert objective.scores_of_signals(PassageSignals(ones, ones, ones)) is None


def test_what_a_reader_does_not_give_has_no_row():
    ones = torch.ones(2, 3)
    assert Signals().scores_of_signals(PassageSignals(ones, ones)) is None
    assert Signals(signals={"question": 1.0}).scores_of_signals(PassageSignals(ones)) is None


@pytest.fixture
def shipped(tmp_path, monkeypatch):
    """The folder of shipped lists, an empty one in its place; and methods with few heads."""
    monkeypatch.setattr(head_lists, "SHIPPED", tmp_path)
    monkeypatch.setattr(head_sets, "PUBLISHED", (("qrhead", 3), ("core", 2)))
    return tmp_path


def test_which_sets_are_compared(shipped):
    reader = tiny_reader("independent")
    assert head_sets_of(reader) == []
    assert unlisted_methods(reader) == [("qrhead", 3), ("core", 2)]
    list_of(reader.model).save(shipped / "qrhead.json")
    [listed] = head_sets_of(reader)
    assert (listed.name, listed.setting, str(listed.heads)) == ("qrhead:3", "qrhead:3", "0.2,1.0,1.3")
    assert unlisted_methods(reader) == [("core", 2)]

    def sets_with(heads):
        return head_sets_of(DecoderOnlyReader(reader.model, reader.prompts, heads))

    assert sets_with(ShippedHeads("qrhead", 3)) == [ALL_HEADS], "the others are configured"
    assert sets_with(AttentionHeads.parse("0-1.*")) == [listed], "all of them are configured"
    assert sets_with(AttentionHeads.parse("1.*")) == [ALL_HEADS, listed]
    other = DecoderOnlyReader(tiny_llama(len(reader.tokenizer), seed=1), reader.prompts)
    assert head_sets_of(other) == [], "the list is not of it"


def test_a_method_that_takes_all_heads_is_none(shipped, monkeypatch):
    monkeypatch.setattr(head_sets, "PUBLISHED", (("core", 8),))
    assert unlisted_methods(tiny_reader("independent")) == []


def test_held_out_heads_are_chosen_by_the_rows_asked_for():
    question, has_answer = made_up(seed=1)
    answer, _ = made_up(seed=5)
    question[:, 1, 2] += 3 * has_answer
    answer[:, 0, 1] += 3 * has_answer
    sums, likelihood = HeadSums(answer, question), torch.rand(has_answer.shape)
    methods = [("qrhead", 1), ("core", 1)]
    for rows, layer, head in ((HeadRows.QUESTION, 1, 2), (HeadRows.ANSWER, 0, 1)):
        found = list(held_out_signals(sums, likelihood, has_answer, rows, methods))
        assert [heads.name for heads, _ in found] == ["qrhead:1 held out", "core:1 held out"]
        for heads, signals in found:
            assert heads.setting is None, "each question has its own"
            torch.testing.assert_close(signals.answer, answer[:, layer, head])
            torch.testing.assert_close(signals.question, question[:, layer, head])
            assert signals.likelihood is likelihood


def test_no_question_has_part_in_the_choice_of_its_heads():
    """Each question has a head that is right there and wrong elsewhere: held out, none of them is right."""
    scores = torch.zeros(10, 2, 5, 2)
    scores[..., 1] = 1.0
    has_answer = torch.tensor([[True, False]]).expand(10, -1)
    for question in range(10):
        scores[question, question // 5, question % 5] = torch.tensor([100.0, 0.0])
    sums = HeadSums(scores, None)
    [(_, signals)] = held_out_signals(sums, None, has_answer, HeadRows.ANSWER, [("qrhead", 1)])
    assert (signals.answer[:, 0] < signals.answer[:, 1]).all()
    assert signals.question is None
    few = HeadSums(scores[:9], None)
    assert not list(held_out_signals(few, None, has_answer[:9], HeadRows.ANSWER, [("qrhead", 1)]))


def test_the_question_is_looked_at_where_there_are_rows_of_it():
    answer, question = torch.rand(2, 1, 3, 4), torch.rand(2, 1, 3, 4)
    both, one = HeadSums(answer, question), HeadSums(answer, None)
    for sums, asked, expected in (
        (both, HeadRows.QUESTION, (HeadRows.QUESTION, question)),
        (both, HeadRows.ANSWER, (HeadRows.ANSWER, answer)),
        (one, HeadRows.QUESTION, (HeadRows.ANSWER, answer)),
    ):
        rows, found = rows_of(sums, asked)
        assert rows is expected[0]
        assert found is expected[1]


@pytest.mark.parametrize("rows", list(HeadRows))
def test_the_rows_alone_are_an_objective(rows):
    objective = attention_of(rows, Constants.PLAIN)
    assert objective.head_rows is rows
    ones = torch.ones(2, 3)
    signals = PassageSignals(ones, torch.tensor([[1.0, 2.0, 4.0]] * 2))
    found = objective.scores_of_signals(signals)
    assert torch.equal(found, ones) == (rows is HeadRows.ANSWER)
