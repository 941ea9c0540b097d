"""Prompts that show one passage, or leave one out."""

import pytest

from datamodules.batches import Batch
from datamodules.prompts import PromptBuilder, Shown
from tests.tiny_models import tiny_tokenizer, toy_passages, toy_questions

QUESTIONS = toy_questions()[:2]
PASSAGES = [toy_passages()[:3], toy_passages()[12:15]]
ANSWERS = ["Paris", "Tokyo"]


@pytest.fixture(scope="module")
def tokenizer():
    return tiny_tokenizer()


def texts(builder, batch):
    rows = zip(batch.input_ids, batch.attention_mask, strict=True)
    return [builder.tokenizer.decode(ids[mask]) for ids, mask in rows]


@pytest.mark.parametrize("order", ["rank", "shuffled"])
@pytest.mark.parametrize("max_tokens", [128, 30])
def test_a_passage_left_out_leaves_the_rest_to_the_letter(tokenizer, order, max_tokens):
    builder = PromptBuilder(tokenizer, passage_order=order, max_tokens_per_passage=max_tokens)
    whole = texts(builder, builder.build(Batch(QUESTIONS, PASSAGES, ANSWERS, order_seed=3)))
    batch = builder.build(Batch(QUESTIONS, PASSAGES, ANSWERS, order_seed=3), Shown.EACH_LEFT_OUT)
    assert batch.question_of_prompt.tolist() == [0, 0, 0, 1, 1, 1]
    for row, text in enumerate(texts(builder, batch)):
        b, k = divmod(row, 3)
        blocks = whole[b].split("Title:")
        question, *others = [block for block in blocks if not block.startswith(f" {PASSAGES[b][k].title}\n")]
        left = [p.title for j, p in enumerate(PASSAGES[b]) if j != k]
        assert question.startswith("Question:")
        assert all(f"Title: {title}\n" in text for title in left)
        assert f"Title: {PASSAGES[b][k].title}\n" not in text
        for block in others:
            passage_lines = block.split("Question:")[0]
            assert f"Title:{passage_lines}" in text
        assert set(batch.passage_of_token()[row].tolist()) - {-1} == {j for j in range(3) if j != k}


def test_each_alone_is_a_prompt_of_one_passage(tokenizer):
    builder = PromptBuilder(tokenizer)
    batch = builder.build(Batch(QUESTIONS, PASSAGES, ANSWERS), Shown.EACH_ALONE)
    for row, text in enumerate(texts(builder, batch)):
        b, k = divmod(row, 3)
        (alone,) = texts(builder, builder.build(Batch([QUESTIONS[b]], [[PASSAGES[b][k]]], [ANSWERS[b]])))
        assert text == alone
        assert set(batch.passage_of_token()[row].tolist()) == {-1, k}


def test_independent_prompts_are_alone_anyway(tokenizer):
    builder = PromptBuilder(tokenizer, context="independent")
    alone = builder.build(Batch(QUESTIONS, PASSAGES, ANSWERS), Shown.EACH_ALONE)
    assert (alone.input_ids == builder.build(Batch(QUESTIONS, PASSAGES, ANSWERS)).input_ids).all()
    with pytest.raises(AssertionError, match="none to leave out"):
        builder.build(Batch(QUESTIONS, PASSAGES, ANSWERS), Shown.EACH_LEFT_OUT)
