"""Calibration against loops over the tokens of each passage."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch

from datamodules.batches import Batch
from datamodules.templates import Template
from lightning_modules.calibration import Calibration, Contrast, Level, Reference, shared_tokens
from lightning_modules.objectives import Signals
from tests.tiny_models import tiny_reader, toy_passages, toy_questions

UNRELATED = (("who is it", "Bob"), ("what is the capital of France", "Paris"), ("where is Rome", "Italy"))
QUESTIONS = toy_questions()[:2]
BATCH = Batch(
    QUESTIONS,
    [[toy_passages()[i] for i in ranks] for ranks in ((0, 13, 5), (2, 1, 18))],
    [question.answers[0] for question in QUESTIONS],
)
CASES = [(r, c, v) for r in ("content_free", "unrelated") for c in Contrast for v in Level]


def calibration(reference, contrast="difference", level="passage"):
    return Calibration(reference, contrast, level, UNRELATED if reference == "unrelated" else ())


def slow(own, priors, contrast, level):
    """The calibrated score of one passage from its tokens' scores and those under each reference question."""
    length = min(map(len, [own, *priors]))
    own, prior = np.array(own[:length]), np.mean([p[:length] for p in priors], axis=0)
    if level == "passage":
        own, prior = own.sum(keepdims=True), prior.sum(keepdims=True)
    values = own - prior if contrast == "difference" else np.log(own / prior)
    if level == "token":
        values = values[values >= values.mean() - 2 * values.std()]
    return values.mean() if level == "token" and contrast == "log_ratio" else values.sum()


@pytest.mark.parametrize(("reference", "contrast", "level"), CASES)
@torch.no_grad()
def test_scores_are_those_of_a_loop(reference, contrast, level):
    reader = tiny_reader("independent")
    made = calibration(reference, contrast, level)
    asked = made.batches(BATCH)
    objective = Signals(signals={"question": 1.0}, calibration=made)
    passes = objective.read(reader, BATCH)
    found = made.passage_scores(
        passes.output.question_scores,
        passes.output.prompts,
        [(reference.question_scores, reference.prompts) for reference in passes.references],
    )

    def tokens_of(batch):
        output = reader.read_signals(batch)
        pairs = zip(output.question_scores, output.prompts.content_mask, strict=True)
        return [scores[mask].tolist() for scores, mask in pairs]

    own, priors = tokens_of(BATCH), [tokens_of(batch) for batch in asked]
    expected = [slow(own[i], [prior[i] for prior in priors], contrast, level) for i in range(6)]
    np.testing.assert_allclose(found.flatten().numpy(), expected, rtol=1e-3, atol=1e-5)


def test_content_free_asks_nothing_with_the_same_answer():
    (asked,) = calibration("content_free").batches(BATCH)
    assert [question.text for question in asked.questions] == ["N/A", "N/A"]
    assert list(asked.answers) == list(BATCH.answers)
    assert asked.passages == BATCH.passages


def test_unrelated_questions_bring_their_answers_and_are_never_the_own_one():
    one, two = calibration("unrelated").batches(BATCH)
    assert [question.text for question in one.questions] == ["who is it", "who is it"]
    assert [question.text for question in two.questions] == ["where is Rome", "what is the capital of France"]
    assert list(two.answers) == ["Italy", "Paris"]
    assert Calibration().batches(BATCH) == []


def test_unrelated_questions_do_not_depend_on_the_batch():
    """One of the three is the first question itself: the second is still compared with two."""
    alone = Batch(BATCH.questions[1:], BATCH.passages[1:], BATCH.answers[1:])
    made = calibration("unrelated")
    beside = [[batch.questions[1].text for batch in made.batches(BATCH)], list(BATCH.answers)]
    assert beside[0] == [batch.questions[0].text for batch in made.batches(alone)]
    assert [len(calibration.batches(batch)) for calibration in [made] for batch in (BATCH, alone)] == [2, 2]


@torch.no_grad()
def test_without_a_reference_the_score_is_the_sum():
    output = tiny_reader("independent").read_signals(BATCH)
    found = Calibration().passage_scores(output.question_scores, output.prompts, [])
    expected = (output.question_scores * output.prompts.content_mask).sum(dim=1).view(2, 3)
    torch.testing.assert_close(found, expected)


@torch.no_grad()
def test_a_passage_cut_shorter_is_compared_as_far_as_it_goes():
    """A long question leaves a passage less room than "N/A" does."""
    long = replace(QUESTIONS[0], text="what is the capital of France " * 4)
    batch = Batch([long], [BATCH.passages[0]], ["Paris"])
    reader = tiny_reader("independent").showing(max_tokens_per_passage=45)
    made = calibration("content_free", "log_ratio", "token")
    passes = Signals(signals={"question": 1.0}, calibration=made).read(reader, batch)
    cut, whole = passes.output.prompts.content_mask, passes.references[0].prompts.content_mask
    assert int(cut.sum()) < int(whole.sum())
    scores = made.passage_scores(
        passes.output.question_scores,
        passes.output.prompts,
        [(reference.question_scores, reference.prompts) for reference in passes.references],
    )
    assert bool(scores.isfinite().all())


@pytest.mark.parametrize(
    "passage",
    ["{title}\n{text}", "{passage}", "{text}\nTitle: {title}", "{text} {title}", "{text}\n{title}\n{text}"],
)
def test_tokens_are_compared_with_themselves_wherever_a_template_has_what_is_cut(passage):
    """Scores that are the tokens' own numbers differ in nothing, unless other tokens are set beside them."""
    template = Template(*[f"{passage}\nQuestion: {{question}}\nAnswer: {{answer}}"] * 2)
    prompts = tiny_reader("independent").showing(max_tokens_per_passage=32, template=template).prompts
    long = replace(QUESTIONS[0], text="what is the capital of France " * 3)
    batch = Batch([long], [BATCH.passages[0]], ["Paris"])
    made = calibration("content_free", "difference", "token")
    own, other = (prompts.build(asked) for asked in (batch, *made.batches(batch)))
    assert int(own.content_mask.sum()) < int(other.content_mask.sum())
    found = made.passage_scores(own.input_ids.float(), own, [(other.input_ids.float(), other)])
    assert found.tolist() == [[0.0] * 3]
    titles = [passage.title for passage in batch.passages[0]]
    shared, _ = shared_tokens([own, other])
    of_titles = shared & (own.content_part == of_title(passage))
    shown = [prompts.tokenizer.decode(ids[kept]) for ids, kept in zip(own.input_ids, of_titles, strict=True)]
    assert [text.strip() for text in shown] == titles, "the whole title counts"


def of_title(passage):
    """The part of a template that the title is."""
    fields = passage.replace("{passage}", "{title} {text}")
    return 1 + fields[: fields.index("{title}")].count("{text}")


@torch.no_grad()
def test_likelihood_is_not_calibrated():
    reader = tiny_reader("independent")
    plain, calibrated = (
        Signals(signals={"likelihood": 1.0}, calibration=made)
        for made in (Calibration(), calibration("content_free"))
    )
    scores = [
        made.passage_scores(made.read(reader, BATCH), torch.zeros(2, 3)) for made in (plain, calibrated)
    ]
    torch.testing.assert_close(*scores)


def test_what_it_is_called():
    assert Signals(calibration=calibration("unrelated", "log_ratio", "token")).details == (
        "answer + question + likelihood",
        "over unrelated by token",
    )
    assert calibration("content_free").details == ("less content_free",)
    assert Signals(calibration={"reference": "content_free"}).settings[
        "objective.calibration.reference"
    ] == str(Reference.CONTENT_FREE)


def test_what_cannot_be_is_refused():
    with pytest.raises(ValueError, match="unrelated: give at least two questions"):
        Calibration("unrelated", unrelated=UNRELATED[:1])
    with pytest.raises(ValueError, match="choose one of: none, content_free, unrelated"):
        Calibration("icr")


def test_attention_of_nothing_has_a_logarithm():
    """An attention that underflowed is no infinity."""
    reader = tiny_reader("independent")
    with torch.no_grad():
        output = reader.read_signals(BATCH)
        nothing = torch.zeros_like(output.question_scores)
        made = calibration("content_free", "log_ratio")
        found = made.passage_scores(nothing, output.prompts, [(output.question_scores, output.prompts)])
    assert bool(found.isfinite().all())
    assert found.max() < -math.log(1e3)
