"""Solved examples before prompts: what is shown, and that the prompts stay what they were."""

from dataclasses import fields, replace

import pytest
import torch
from tokenizers import processors

from datamodules.batches import Batch, Passage, PromptBatch, Question, SolvedExample
from datamodules.prompts import PromptBuilder
from tests.tiny_models import tiny_tokenizer, toy_passages, toy_questions

CONTEXTS = ["concatenated", "independent"]
EXAMPLES = (
    SolvedExample(toy_questions()[7], toy_passages()[7], "Havana"),
    SolvedExample(toy_questions()[9], toy_passages()[9], "Madrid"),
)
BATCH = Batch(toy_questions()[:2], [toy_passages()[:3], toy_passages()[4:7]], ["Paris", "Tokyo"])
WRITTEN = {
    "concatenated": "Question: {q}\nTitle: {t}\nPassage: {p}\nQuestion: {q}\nAnswer: {a}\n",
    "independent": "Title: {t}\nPassage: {p}\nQuestion: {q}\nAnswer: {a}\n",
}


@pytest.fixture(scope="module")
def tokenizer():
    return tiny_tokenizer()


def assert_same_prompts(found: PromptBatch, expected: PromptBatch):
    for field in fields(PromptBatch):
        value = getattr(expected, field.name)
        if isinstance(value, torch.Tensor):
            assert torch.equal(getattr(found, field.name), value), field.name


@pytest.mark.parametrize("context", CONTEXTS)
@pytest.mark.parametrize("answers", [BATCH.answers, ()])
def test_examples_are_shown_first_and_the_prompts_are_the_same(tokenizer, context, answers):
    batch = replace(BATCH, answers=answers)
    shown = PromptBuilder(tokenizer, context=context, examples=EXAMPLES).build(batch)
    assert tokenizer.decode(shown.prefix_ids) == "".join(
        WRITTEN[context].format(q=e.question.text, t=e.passage.title, p=e.passage.text, a=e.answer)
        for e in EXAMPLES
    )
    plain = PromptBuilder(tokenizer, context=context).build(batch)
    assert plain.prefix_ids == ()
    assert_same_prompts(shown, plain)


def test_the_budget_is_that_of_prompts_without_examples(tokenizer):
    long = [replace(passage, text=passage.text * 20) for passage in toy_passages()[:3]]
    settings = {"max_tokens_per_passage": 60, "context": "independent"}
    batch = Batch(toy_questions()[:1], [long])
    shown = PromptBuilder(tokenizer, examples=EXAMPLES, **settings).build(batch)
    plain = PromptBuilder(tokenizer, **settings).build(batch)
    assert plain.attention_mask.sum(dim=1).max() > 55, "passages that fit whole would show nothing"
    assert_same_prompts(shown, plain)


@pytest.mark.parametrize(
    ("template", "before"), [("<s> $A", ["<s>"]), ("<s> $A </s>", ["<s>"]), ("$A </s>", [])]
)
def test_what_a_tokenizer_adds_stands_before_the_examples_alone(template, before):
    tokenizer = tiny_tokenizer()
    tokenizer.add_special_tokens({"bos_token": "<s>"})
    special = [(name, tokenizer.convert_tokens_to_ids(name)) for name in ("<s>", "</s>")]
    tokenizer.backend_tokenizer.post_processor = processors.TemplateProcessing(
        single=template, special_tokens=special
    )
    shown = PromptBuilder(tokenizer, context="independent", examples=EXAMPLES).build(BATCH)
    bare = PromptBuilder(tiny_tokenizer(), context="independent", examples=EXAMPLES).build(BATCH)
    assert list(shown.prefix_ids) == tokenizer.convert_tokens_to_ids(before) + list(bare.prefix_ids)
    assert_same_prompts(shown, bare)


def test_closed_book_prompts_follow_examples_without_passages(tokenizer):
    prompts = PromptBuilder(tokenizer, examples=EXAMPLES).build_closed_book(BATCH.questions)
    assert tokenizer.decode(prompts.prefix_ids) == "".join(
        f"Question: {e.question.text}\nAnswer: {e.answer}\n" for e in EXAMPLES
    )
    assert_same_prompts(prompts, PromptBuilder(tokenizer).build_closed_book(BATCH.questions))


def test_long_examples_are_cut_like_prompts(tokenizer):
    example = SolvedExample(
        Question("e", "what is the capital of Ghana and Spain", ("x",)),
        Passage("p", "Rivers of Ghana of Spain", "Rivers run. " * 50),
        "Rivers of Ghana run down",
    )
    settings = {"max_question_tokens": 5, "max_title_tokens": 3, "max_answer_tokens": 4}
    builder = PromptBuilder(
        tokenizer, "independent", max_tokens_per_passage=40, examples=[example], **settings
    )
    written = tokenizer.decode(builder.build(BATCH).prefix_ids)
    assert written.startswith("Title: Rivers of Ghana\nPassage: Rivers run. Rivers run.")
    assert written.endswith("\nQuestion: what is the capital of\nAnswer: Rivers of Ghana run\n")
    before_answer = written.removesuffix(" Rivers of Ghana run\n")
    assert 35 < len(tokenizer(before_answer)["input_ids"]) <= 40


def test_other_settings_keep_the_examples_and_none_is_a_setting(tokenizer):
    builder = PromptBuilder(tokenizer, examples=EXAMPLES)
    assert builder.changed(context="independent").examples == EXAMPLES
    assert builder.changed(examples=()).build(BATCH).prefix_ids == ()


def test_a_prompt_batch_keeps_them_wherever_it_goes(tokenizer):
    prompts = PromptBuilder(tokenizer, examples=EXAMPLES).build(BATCH)
    assert prompts.to("meta").prefix_ids == prompts.select(torch.tensor([1])).prefix_ids == prompts.prefix_ids


def test_a_question_that_is_an_example_cannot_be_asked(tokenizer):
    builder = PromptBuilder(tokenizer, examples=EXAMPLES)
    solved = Question("other", " What is  the capital of CUBA", ("Havana",))
    with pytest.raises(
        ValueError, match=r"question other \(.*CUBA'\) is a solved example.*choose other examples"
    ):
        builder.build(Batch([toy_questions()[0], solved], [toy_passages()[:1]] * 2))
    with pytest.raises(ValueError, match="is a solved example"):
        builder.build_closed_book([solved])
