"""What travels between the parts, and which of its tokens count."""

from dataclasses import replace

import pytest
import torch

from datamodules.batches import NOTHING, Batch, TokenScope
from datamodules.fusion_prompts import FusionPromptBuilder
from datamodules.prompts import PromptBuilder
from tests.tiny_models import tiny_tokenizer, toy_passages, toy_questions

BATCH = Batch(toy_questions()[:2], [toy_passages()[:3], toy_passages()[5:8]], ["Paris", "Tokyo"])


def test_a_batch_knows_its_size_and_may_lack_answers():
    assert (len(BATCH), BATCH.num_passages) == (2, 3)
    asked = replace(BATCH, answers=())
    assert asked == Batch(BATCH.questions, BATCH.passages)
    assert not asked.answers
    assert asked.order_seed == 0


def test_questions_without_as_many_passages_each_are_refused():
    builder = PromptBuilder(tiny_tokenizer())
    with pytest.raises(AssertionError, match="each has K passages"):
        builder.build(replace(BATCH, passages=[toy_passages()[:3], toy_passages()[:2]]))


@pytest.mark.parametrize("kind", ["concatenated", "independent", "fusion"])
def test_a_narrower_scope_is_the_content_of_the_wider_one(kind):
    tokenizer = tiny_tokenizer()
    fused = kind == "fusion"
    builder = FusionPromptBuilder(tokenizer) if fused else PromptBuilder(tokenizer, context=kind)
    prompts = builder.build(BATCH)
    wide, narrow = (prompts.passage_of_token(scope) for scope in (TokenScope.PROMPT, TokenScope.PASSAGE))
    assert torch.equal(narrow, wide.where(prompts.content_mask, NOTHING))
    assert torch.equal(narrow, prompts.passage_of_token())
    assert (wide >= 0).sum() > (narrow >= 0).sum() > 0
    assert prompts.is_fused is fused


@pytest.mark.parametrize("side", ["left", "right"])
def test_what_follows_the_passages_and_what_predicts_the_question(side):
    tokenizer = tiny_tokenizer()
    prompts = PromptBuilder(tokenizer, padding_side=side).build(BATCH)
    assert not prompts.attention_mask.all(), "one prompt is padded"
    for row, (question, answer) in enumerate(zip(BATCH.questions, BATCH.answers, strict=True)):
        ids = prompts.input_ids[row]
        rest = tokenizer.decode(ids[prompts.after_passages_mask[row]])
        assert rest == f"Question: {question.text}\nAnswer: {answer}</s>"
        predicted = ids[prompts.question_rows_mask[row].nonzero()[:, 0] + 1]
        assert tokenizer.decode(predicted) == f" {question.text}"


def test_selected_prompts_keep_their_order_and_may_repeat():
    prompts = PromptBuilder(tiny_tokenizer(), context="independent").build(BATCH)
    rows = torch.tensor([4, 0, 4])
    selected = prompts.select(rows)
    for name, value in vars(prompts).items():
        if isinstance(value, torch.Tensor):
            assert torch.equal(getattr(selected, name), value[rows]), name
    assert (selected.num_questions, selected.num_passages) == (2, 3)
    labels = FusionPromptBuilder(tiny_tokenizer()).build_answers(BATCH.answers)
    assert torch.equal(labels.select(torch.tensor([1, 1])).ids, labels.ids[[1, 1]])
