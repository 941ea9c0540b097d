"""Several signals of one pass, each against another route to it."""

import math

import numpy as np
import pytest
import torch

from datamodules.batches import Batch
from lightning_modules.answer_attention import AnswerAttention
from lightning_modules.attention_heads import AttentionHeads
from lightning_modules.objectives import ADist, PDist, Signals, make_objective
from lightning_modules.objectives.base import TeachingPasses
from lightning_modules.objectives.signals import SignalPasses
from lightning_modules.readers.decoder_only import DecoderOnlyReader
from lightning_modules.readers.outputs import PassageSignals
from lightning_modules.readers.prefixes import NoPrefix
from lightning_modules.scores import scaled
from tests.tiny_models import tiny_fusion_reader, tiny_reader, toy_passages, toy_questions
from tests.toy_training import toy_module

QUESTIONS, PASSAGES = toy_questions()[:3], toy_passages()
BATCH = Batch(
    QUESTIONS,
    [[PASSAGES[i] for i in ranks] for ranks in ((0, 13, 5, 20), (2, 1, 18, 9), (14, 2, 23, 6))],
    [question.answers[0] for question in QUESTIONS],
)
NO_WEIGHTS = torch.zeros(3, 4)


def read_signals(family="llama"):
    reader = tiny_reader("independent", family)
    with torch.no_grad():
        return reader, reader.read_signals(BATCH)


@pytest.mark.parametrize("family", ["llama", "falcon_rw"])
def test_the_rows_of_the_question_are_those_of_its_tokens(family):
    reader, output = read_signals(family)
    prompts = output.prompts
    for row, mask in zip(prompts.input_ids, prompts.question_mask, strict=True):
        asked = reader.tokenizer.decode(row[mask]).strip()
        assert asked in {question.text for question in QUESTIONS}
    with torch.no_grad(), AnswerAttention(prompts.question_mask, num_layers=2) as attention:
        reader.model.base_model(**NoPrefix(reader.model).inputs(prompts))
    torch.testing.assert_close(output.question_scores, attention.token_scores(), rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("family", ["llama", "falcon_rw"])
def test_the_other_signals_are_those_of_passes_of_their_own(family):
    reader, output = read_signals(family)
    with torch.no_grad():
        plain = reader.read(BATCH)
        for name, objective in (("answer", ADist()), ("likelihood", PDist())):
            expected = objective.passage_scores(objective.read(reader, BATCH), NO_WEIGHTS)
            found = Signals(signals={name: 1.0}).passage_scores(SignalPasses(output), NO_WEIGHTS)
            torch.testing.assert_close(found, scaled(expected, "standardised"), rtol=1e-3, atol=1e-3)
    torch.testing.assert_close(output.row_scores, plain.row_scores, rtol=1e-5, atol=1e-7)
    assert torch.equal(output.row_mask, plain.row_mask)


def test_signals_are_standardised_and_added_up():
    passes = SignalPasses(read_signals()[1])
    parts = [Signals(signals={name: 1.0}).passage_scores(passes, NO_WEIGHTS) for name in ("question", "last")]
    for part in parts:
        np.testing.assert_allclose(part.numpy().mean(axis=1), 0, atol=1e-5)
        np.testing.assert_allclose(part.numpy().std(axis=1), 1, atol=1e-5)
    added = Signals(signals={"question": 1.0, "last": 0.5, "answer": 0.0})
    torch.testing.assert_close(added.passage_scores(passes, NO_WEIGHTS), parts[0] + 0.5 * parts[1])
    assert added.details == ("question + 0.5 last",)
    assert added == make_objective("signals", signals={"last": 0.5, "question": 1.0})


@torch.no_grad()
@pytest.mark.parametrize(
    ("signals", "ends_early"),
    [
        (("question",), True),
        (("answer", "question", "last"), True),
        (("question", "likelihood"), False),
    ],
)
def test_a_step_ends_its_passes_early_where_no_likelihood_is_weighed(signals, ends_early):
    """Equal to the bit with a validation's whole passes; those that it is calibrated by end in any case."""
    whole = tiny_reader("independent")
    reader = DecoderOnlyReader(whole.model, whole.prompts, AttentionHeads.parse("0.1-2"))
    objective = Signals(
        signals=dict.fromkeys(signals, 1.0), calibration={"reference": "content_free", "level": "token"}
    )
    in_validation, in_step = objective.read(reader, BATCH), objective.read(TeachingPasses(reader), BATCH)
    assert (in_step.output.hidden is None) is ends_early
    assert [reference.hidden is None for reference in in_step.references] == [True]
    assert in_validation.output.hidden is not None
    scores = [objective.passage_scores(passes, NO_WEIGHTS) for passes in (in_validation, in_step)]
    assert torch.equal(*scores)


@pytest.mark.parametrize(
    ("how", "numpy"),
    [
        ("standardised", lambda s: (s - s.mean(1, keepdims=True)) / s.std(1, keepdims=True)),
        ("minmax", lambda s: (s - s.min(1, keepdims=True)) / np.ptp(s, axis=1, keepdims=True)),
        ("raw", lambda s: s),
    ],
)
def test_scales_are_numpys(how, numpy):
    scores = torch.randn(5, 7, generator=torch.Generator().manual_seed(0)).double() * 3 + 2
    np.testing.assert_allclose(scaled(scores, how).numpy(), numpy(scores.numpy()), atol=1e-12)


@pytest.mark.parametrize("how", ["standardised", "minmax"])
@pytest.mark.parametrize("broken", [math.nan, math.inf, -math.inf])
def test_a_question_that_is_no_number_is_none_at_any_scale(how, broken):
    scores = torch.tensor([[broken, 1.0, 2.0], [1.0, 2.0, 3.0], [4.0, 4.0, 4.0]])
    found = scaled(scores, how)
    assert found[0].isnan().any(), "it does not look like one whose passages are alike"
    assert torch.equal(found[1:], scaled(scores[1:], how))
    assert found[2].tolist() == [0.0] * 3
    assert PDist(scale=how).log_p_of_scores(scores)[0].isnan().all()
    assert scaled(torch.full((1, 3), math.nan), how).isnan().all()
    summed = Signals(signals={"answer": 1.0, "question": 1.0}, scale=how)
    sums = summed.scores_of_signals(PassageSignals(answer=scores, question=scores + 1))
    assert sums is not None
    assert summed.log_p_of_scores(sums)[0].isnan().all()
    assert sums[1:].isfinite().all()


@pytest.mark.parametrize("how", ["standardised", "minmax"])
def test_a_temperature_means_the_same_whatever_the_size_of_the_scores(how):
    scores = torch.randn(4, 5, generator=torch.Generator().manual_seed(1))
    objective = PDist(attention_temperature=0.5, scale=how)
    small, large = objective.log_p_of_scores(scores), objective.log_p_of_scores(1000 * scores - 7)
    torch.testing.assert_close(small, large, rtol=1e-3, atol=1e-3)
    alike = objective.log_p_of_scores(torch.tensor([[0.3, 0.1 + 0.2, 0.3, 0.3 + 3e-8]]))
    assert alike.exp().tolist() == [[0.25] * 4], (
        "no score differs by more than rounding, so none is preferred"
    )


def test_what_cannot_be_is_refused(tmp_path):
    with pytest.raises(
        ValueError, match="signals: 'nouns' is unknown; choose of: answer, question, last, likel"
    ):
        Signals(signals={"nouns": 1.0})
    with pytest.raises(ValueError, match="signals: give at least one a weight"):
        Signals(signals={"answer": 0.0})
    with pytest.raises(ValueError, match="signals: a weight is at least 0"):
        Signals(signals={"answer": 1.0, "last": -1.0})
    with pytest.raises(ValueError, match="set scale to raw"):
        ADist(attention_distribution="sum", scale="minmax")
    for reader in (tiny_reader("concatenated"), tiny_fusion_reader()):
        assert "context independent" in Signals().unfit(reader)
        with pytest.raises(ValueError, match="context independent"):
            reader.read_signals(BATCH)
    with pytest.raises(ValueError, match="objective: signals come from one pass over each passage alone"):
        toy_module(tmp_path, objective="signals")  # its reader is shown all passages together
