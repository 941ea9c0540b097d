"""Prompts and answers of Fusion-in-Decoder readers, token by token."""

import pytest

from datamodules.batches import Batch, TokenScope
from datamodules.fusion_prompts import FusionPromptBuilder
from tests.tiny_models import tiny_tokenizer, toy_passages, toy_questions

QUESTIONS = toy_questions()[:2]
PASSAGES = [toy_passages()[:3], toy_passages()[12:15]]


@pytest.fixture(scope="module")
def tokenizer():
    return tiny_tokenizer()


def text_of(builder, batch, row, mask):
    return builder.tokenizer.decode(batch.input_ids[row][mask[row]])


def test_template_is_atlas(tokenizer):
    builder = FusionPromptBuilder(tokenizer)
    batch = builder.build(Batch(QUESTIONS, PASSAGES))
    assert batch.question_of_prompt.tolist() == [0, 0, 0, 1, 1, 1]
    for row in range(6):
        question, passage = QUESTIONS[row // 3], PASSAGES[row // 3][row % 3]
        whole = text_of(builder, batch, row, batch.attention_mask)
        assert whole == f"question: {question.text} title: {passage.title} context: {passage.text}</s>"
        content = text_of(builder, batch, row, batch.content_mask)
        assert content == f" {passage.title} {passage.text}"
        start, end = question.nouns[0]
        assert question.text[start:end] in text_of(builder, batch, row, batch.noun_mask)
        assert batch.attention_mask[row, : int(batch.attention_mask[row].sum())].all(), "padded on the right"
    assert not (batch.answer_mask | batch.answer_rows_mask | batch.label_mask).any()


def test_token_scope_says_what_counts(tokenizer):
    batch = FusionPromptBuilder(tokenizer).build(Batch(QUESTIONS, PASSAGES))
    assert ((batch.passage_of_token(TokenScope.PASSAGE) >= 0) == batch.content_mask).all()
    whole = batch.passage_of_token(TokenScope.PROMPT)
    assert ((whole >= 0) == batch.attention_mask).all()
    assert (whole >= batch.passage_of_token(TokenScope.PASSAGE)).all()
    for row in range(6):
        assert set(whole[row][batch.attention_mask[row]].tolist()) == {row % 3}


def test_the_encoder_never_sees_the_answer(tokenizer):
    builder = FusionPromptBuilder(tokenizer)
    asked, answered = (builder.build(Batch(QUESTIONS, PASSAGES, a)) for a in ((), ("xyzzy", "plugh")))
    assert (asked.input_ids == answered.input_ids).all()
    assert not answered.answer_mask.any()


def test_long_passages_are_cut_to_the_prompts_length(tokenizer):
    whole = FusionPromptBuilder(tokenizer).build(Batch(QUESTIONS, PASSAGES))
    limit = int(whole.attention_mask.sum(dim=1).min()) - 3
    cut = FusionPromptBuilder(tokenizer, max_tokens_per_passage=limit).build(Batch(QUESTIONS, PASSAGES))
    lengths = cut.attention_mask.sum(dim=1)
    # the end-of-sequence token comes on top where the tokenizer does not count it
    assert (lengths <= limit + 1).all()
    assert (lengths >= limit - 2).all()


def test_answers_end_and_are_cut(tokenizer):
    builder = FusionPromptBuilder(tokenizer, max_answer_tokens=6)
    batch = builder.build_answers(["Paris", "Tokyo  or Kyoto or Osaka or Nara"])
    assert (batch.ids[~batch.label_mask] == tokenizer.eos_token_id).all()
    for row, answer in enumerate(("Paris", "Tokyo or Kyoto or Osaka or Nara")):
        assert answer.startswith(tokenizer.decode(batch.ids[row][batch.answer_mask[row]]))
        labels = batch.ids[row][batch.label_mask[row]]
        assert labels[-1] == tokenizer.eos_token_id
        assert len(labels) == int(batch.answer_mask[row].sum()) + 1
    assert 4 <= int(batch.answer_mask[1].sum()) <= 6


def test_closed_book_prompts_hold_the_question_alone(tokenizer):
    builder = FusionPromptBuilder(tokenizer)
    batch = builder.build_closed_book(QUESTIONS)
    for row, question in enumerate(QUESTIONS):
        assert text_of(builder, batch, row, batch.attention_mask) == f"question: {question.text}</s>"
