"""What all readers share, whatever their family."""

from dataclasses import replace

import pytest
import torch

from datamodules.batches import Batch
from datamodules.choices import Choice
from datamodules.prompts import Context, Shown
from lightning_modules.attention_heads import AttentionHeads
from lightning_modules.readers.outputs import mean_log_prob
from tests.tiny_models import tiny_reader, tiny_reader_of, toy_passages, toy_questions

QUESTIONS = toy_questions()[:2]
PASSAGES = [[toy_passages()[j] for j in (i, i + 12, i + 3)] for i in range(2)]
BATCH = Batch(QUESTIONS, PASSAGES, ["Paris", "Tokyo"])
UNIFORM = torch.full((2, 3), 1 / 3).log()


@pytest.fixture(params=["concatenated", "independent", "fusion_in_decoder"])
def reader(request):
    return tiny_reader_of(request.param)


def test_answers_play_no_part_in_generation(reader):
    said = reader.generate(replace(BATCH, answers=()), UNIFORM, 6)
    assert reader.generate(BATCH, UNIFORM, 6) == said
    assert reader.generate(replace(BATCH, answers=["xyzzy", "plugh"]), UNIFORM, 6) == said


@torch.no_grad()
def test_all_passes_see_the_same(reader):
    plain, answered, by_head = reader.read(BATCH), reader.read_answer(BATCH), reader.read_heads(BATCH)
    for output in (answered, by_head):
        torch.testing.assert_close(output.token_scores, plain.token_scores)
        torch.testing.assert_close(output.row_scores, plain.row_scores)
        torch.testing.assert_close(output.hidden, plain.hidden)
    torch.testing.assert_close(by_head.label_log_probs, answered.label_log_probs)
    mean = (plain.row_scores * plain.row_mask[..., None]).sum(dim=1) / plain.row_mask.sum(dim=1)[:, None]
    torch.testing.assert_close(mean, plain.token_scores)


def test_showing_is_the_same_model_with_other_prompts():
    heads = AttentionHeads.parse("0.1")
    reader = tiny_reader("concatenated")
    reader = type(reader)(reader.model, reader.prompts, heads)
    other = reader.showing(context="independent", max_tokens_per_passage=90)
    assert type(other) is type(reader)
    assert other.model is reader.model
    assert other.attention_heads is heads
    assert (other.context, other.reads_alone, other.prompts.max_tokens_per_passage) == (
        Context.INDEPENDENT,
        True,
        90,
    )
    assert (reader.context, reader.reads_alone) == (Context.CONCATENATED, False), "it stays as it is"
    configured = tiny_reader("independent", max_tokens_per_passage=90)
    configured = type(configured)(configured.model, configured.prompts, heads)
    with torch.no_grad():
        torch.testing.assert_close(other.read(BATCH).token_scores, configured.read(BATCH).token_scores)


def test_changed_prompts_keep_all_other_settings(reader):
    before = {name: value for name, value in vars(reader.prompts).items() if not name.startswith("_")}
    changed = reader.prompts.changed(max_title_tokens=3)
    after = {name: value for name, value in vars(changed).items() if not name.startswith("_")}
    assert type(changed) is type(reader.prompts)
    assert after == {**before, "max_title_tokens": 3}
    with pytest.raises(TypeError, match="no_setting"):
        reader.prompts.changed(no_setting=1)


@torch.no_grad()
def test_contexts_are_ways_to_show(reader):
    assert reader.context in reader.contexts
    for context in reader.contexts:
        if isinstance(context, Choice):
            assert reader.showing(context=context).context is context


@torch.no_grad()
def test_likelihoods_of_passages_alone_are_those_of_an_answer_read_alone(reader):
    found = reader.answer_likelihoods(BATCH, Shown.EACH_ALONE)
    assert not found.left_out
    torch.testing.assert_close(found.mean_log_probs(), mean_log_prob(found.log_probs, found.mask))
    if reader.reads_alone:
        each = reader.read_answer(BATCH).each_alone()
        torch.testing.assert_close(each.mean_log_probs(), found.mean_log_probs())
