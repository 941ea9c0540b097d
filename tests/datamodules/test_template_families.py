"""Templates with the tokenizers of reader families: whose each token is, against counted bytes."""

import itertools
import re
from dataclasses import replace

import pytest
import torch

from datamodules.batches import Batch, Passage, PromptBatch, Question, SolvedExample, TokenScope
from datamodules.fusion_prompts import FusionPromptBuilder
from datamodules.prompts import PromptBuilder
from datamodules.templates import TEMPLATES, Template
from tests.family_tokenizers import FAMILIES, WITH_BYTES, WITH_CHAT, family_tokenizer
from tests.tiny_models import toy_passages, toy_questions

CONTEXTS = ["concatenated", "independent"]
OF_FILE = Template(
    *["Use this {{only}}.\n{passage}\nQ:{question}\n\nA: {answer}"] * 2,
    name="mine.txt",
)
PASSAGES = [
    *toy_passages()[:2],
    Passage("n", "Rivers 1905", "It was  12 of\n 345, (or 7) in 1905."),
    Passage("empty", "", "Lima."),
]
FOREIGN = [
    Passage("f0", "Perú", "El río Ñuñoa nace en São José, 東京 y 😀 también."),
    Passage("f1", "東京都", "日本の首都は東京である。"),
]
ABOUT = Question("q", "what is  the capital of Peru", ("Lima",), nouns=((13, 20), (24, 28)))
EXAMPLES = [
    SolvedExample(toy_questions()[7], toy_passages()[7], "Havana"),
    SolvedExample(toy_questions()[9], toy_passages()[9], "Madrid"),
]


def one_line(text: str) -> str:
    return " ".join(text.split())


def user_text(name: str, context: str, question: Question, passages: list[Passage]) -> str:
    """What a template says before the answer, by hand; of `chat` what the user says."""
    asked = one_line(question.text)
    if name == "mine.txt":
        blocks = "".join(f"{one_line(p.title)} {one_line(p.text)}\n" for p in passages)
        return f"Use this {{only}}.\n{blocks}Q:{asked}\n\nA:"
    blocks = "".join(f"Title: {one_line(p.title)}\nPassage: {one_line(p.text)}\n" for p in passages)
    first = f"Question: {asked}\n" if context == "concatenated" else ""
    which = "passages" if context == "concatenated" else "passage"
    said = f"Answer the question from the {which}, in as few words as possible.\n\n" if name == "chat" else ""
    return f"{said}{first}{blocks}Question: {asked}" + ("" if name == "chat" else "\nAnswer:")


def as_chat(tokenizer, *messages: str, is_begun: bool = True) -> str:
    roles = itertools.cycle(["user", "assistant"])
    return tokenizer.apply_chat_template(
        [{"role": role, "content": text} for role, text in zip(roles, messages, strict=False)],
        tokenize=False,
        add_generation_prompt=is_begun,
        enable_thinking=False,
        date_string="26 Jul 2024",
    )


def token_ends(tokenizer, ids: list[int], text: str) -> list[int]:
    """Behind which byte of a text each of its tokens ends, by what the tokens spell."""
    whole, place, ends = text.encode(), 0, []
    added = tokenizer.added_tokens_decoder
    is_byte_level = type(tokenizer.backend_tokenizer.decoder).__name__ == "ByteLevel"
    joins_spaces = type(tokenizer.backend_tokenizer.model).__name__ == "Unigram"
    for token in tokenizer.convert_ids_to_tokens(ids):
        if tokenizer.convert_tokens_to_ids(token) in added:
            size = len(token.encode()) * whole[place:].startswith(token.encode())
        elif is_byte_level:
            size = len(token)
        elif re.fullmatch("<0x..>", token):
            size = 1
        elif joins_spaces:
            assert token != "<unk>"
            bare = token.removeprefix("▁")
            num_spaces = len(whole[place:]) - len(whole[place:].lstrip())
            size = len(bare.encode()) + num_spaces * (bare != token)
        else:
            assert token != "<unk>"
            spelt = token.replace("▁", " ").encode()
            # some begin with a space that stands in no text
            size = len(spelt) - (whole[place : place + len(spelt)] != spelt)
        place += size
        ends.append(place)
    assert place == len(whole)
    return ends


def real_ids(batch: PromptBatch, row: int) -> list[int]:
    return batch.input_ids[row][batch.attention_mask[row]].tolist()


def expected_passages(tokenizer, ids, text: str, passages: list[Passage]) -> list[int]:
    """Index of the passage whose title or text each token's last byte is in."""
    ends = token_ends(tokenizer, ids, text)
    owner, start = [-1] * len(ids), text.index("passage") if "Answer the" in text else 0
    for k, passage in enumerate(passages):
        for part in (one_line(passage.title), one_line(passage.text)):
            # of an empty title the space is left
            begin = text.index(part, start) if part else text.find("Title: \n", start) + len("Title: ")
            if begin < start:
                continue
            first = begin - (text[begin - 1] == " ")
            low, high = len(text[:first].encode()), len(text[: begin + len(part)].encode())
            start = begin + len(part)
            for i, end in enumerate(ends):
                begun = ends[i - 1] if i else 0
                if low < end <= high and end > begun:
                    owner[i] = k
    return owner


CASES = [
    (family, template, context, which)
    for family in FAMILIES
    for template in ("plain", "chat", "mine.txt")
    for context in CONTEXTS
    for which in ("ascii", "foreign")
    if (template != "chat" or family in WITH_CHAT) and (which == "ascii" or family in WITH_BYTES)
]


@pytest.mark.parametrize(("family", "template", "context", "which"), CASES)
def test_prompts_are_written_out_and_spans_are_exact(family, template, context, which):
    tokenizer = family_tokenizer(family)
    passages = PASSAGES if which == "ascii" else FOREIGN
    builder = PromptBuilder(
        tokenizer,
        context,
        max_tokens_per_passage=512,
        template=OF_FILE if template == "mine.txt" else template,
    )
    answered = builder.build(Batch([ABOUT], [passages], ["Lima 19"]))
    asked = builder.build(Batch([ABOUT], [passages]))
    shown = [passages] if context == "concatenated" else [[passage] for passage in passages]
    for row, found in enumerate(shown):
        text = user_text(template, context, ABOUT, found)
        if template == "chat":
            text = as_chat(tokenizer, text)
        ids = tokenizer(text, add_special_tokens=template != "chat")["input_ids"]
        if ids[-1] == tokenizer.eos_token_id:
            ids.pop()
        assert real_ids(asked, row) == ids
        owner = answered.passage_of_token()[row][answered.attention_mask[row]].tolist()
        expected = expected_passages(tokenizer, ids, text, found)
        offset = 0 if context == "concatenated" else row
        assert owner[: len(ids)] == [k + offset if k >= 0 else -1 for k in expected]
        assert_answered(tokenizer, answered, row, ids)
        noun_ids = answered.input_ids[row][answered.noun_mask[row]]
        assert "".join(tokenizer.decode(noun_ids).split()) == "capitalPeru"


def assert_answered(tokenizer, batch: PromptBatch, row: int, ids: list[int]) -> None:
    """The prompt goes on with the answer and its end, and the rows before them are those that count."""
    whole = real_ids(batch, row)
    answer = batch.answer_mask[row][batch.attention_mask[row]]
    # a token over the border would begin before the answer
    assert whole[: len(ids) - 1] == ids[:-1]
    assert tokenizer.decode([i for i, yes in zip(whole, answer, strict=True) if yes]).strip() == "Lima 19"
    assert answer.nonzero()[-1] == len(whole) - 2
    rows = batch.label_mask[row][batch.attention_mask[row]]
    assert torch.equal(rows[:-1], answer[1:] | (torch.arange(len(whole) - 1) == len(whole) - 2))


@pytest.mark.parametrize("context", CONTEXTS)
@pytest.mark.parametrize("family", WITH_CHAT)
def test_solved_examples_are_earlier_turns(family, context):
    tokenizer = family_tokenizer(family)
    builder = PromptBuilder(
        tokenizer, context, max_tokens_per_passage=512, template="chat", examples=EXAMPLES
    )
    batch = builder.build(Batch([ABOUT], [PASSAGES[:1]], ["Lima"]))
    turns = [
        text
        for example in EXAMPLES
        for text in (user_text("chat", context, example.question, [example.passage]), example.answer)
    ]
    text = as_chat(tokenizer, *turns, user_text("chat", context, ABOUT, PASSAGES[:1]))
    end = text.rindex("Madrid") + len("Madrid")
    assert list(batch.prefix_ids) == tokenizer(text[:end], add_special_tokens=False)["input_ids"]
    ids = tokenizer(text[end:], add_special_tokens=False)["input_ids"]
    asked = builder.build(Batch([ABOUT], [PASSAGES[:1]]))
    assert real_ids(asked, 0) == ids
    owner = batch.passage_of_token()[0].tolist()
    assert owner[: len(ids)] == expected_passages(tokenizer, ids, text[end:], PASSAGES[:1])


ENDS = {
    "llama3": "<|eot_id|>",
    "qwen3": "<|im_end|>",
    "smollm2": "<|im_end|>",
    "falcon": "<|endoftext|>",
    "gemma": "<end_of_turn>",
    "llama2": "</s>",
    "metaspace": "</s>",
}


@pytest.mark.parametrize("family", WITH_CHAT)
def test_an_answer_ends_with_the_turn(family):
    tokenizer = family_tokenizer(family)
    builder = PromptBuilder(tokenizer, max_tokens_per_passage=512, template="chat")
    assert tokenizer.convert_ids_to_tokens(builder.end_id) == ENDS[family]
    batch = builder.build(Batch([ABOUT], [PASSAGES], ["Lima"]))
    assert int(batch.input_ids[0, -1]) == builder.end_id
    assert PromptBuilder(tokenizer).end_id == tokenizer.eos_token_id
    # as the chat template would write the whole of it
    text = as_chat(tokenizer, user_text("chat", "concatenated", ABOUT, PASSAGES), "Lima", is_begun=False)
    if family != "qwen3":  # which leaves out of earlier turns that it did not think
        written = tokenizer(text, add_special_tokens=False)["input_ids"]
        assert written[: batch.input_ids.shape[1] - 1] == batch.input_ids[0, :-1].tolist()


@pytest.mark.parametrize("scope", TokenScope)
@pytest.mark.parametrize("context", CONTEXTS)
@pytest.mark.parametrize("family", WITH_CHAT)
def test_what_the_chat_template_says_is_of_no_passage(family, context, scope):
    tokenizer = family_tokenizer(family)
    batch = PromptBuilder(tokenizer, context, template="chat").build(Batch([ABOUT], [PASSAGES], ["Lima"]))
    added = torch.tensor(sorted({*tokenizer.added_tokens_decoder} - {tokenizer.unk_token_id}))
    is_added = torch.isin(batch.input_ids, added) & batch.attention_mask
    assert (batch.passage_of_token(scope)[is_added] == -1).all()
    assert family == "falcon" or is_added.any(dim=1).all()


@pytest.mark.parametrize("template", ["plain", "chat"])
@pytest.mark.parametrize("context", CONTEXTS)
@pytest.mark.parametrize("family", FAMILIES)
def test_long_passages_are_cut_to_the_budget(family, context, template):
    if template == "chat" and family not in WITH_CHAT:
        template = "mine.txt"
    tokenizer = family_tokenizer(family)
    long = [replace(p, text=f"{p.text} {p.text} " * 30) for p in toy_passages()[:3]]
    builder = PromptBuilder(
        tokenizer,
        context,
        max_tokens_per_passage=256,
        template=OF_FILE if template == "mine.txt" else TEMPLATES[template],
    )
    lengths = builder.build(Batch([ABOUT], [long])).attention_mask.sum(dim=1)
    room = 256 * (3 if context == "concatenated" else 1)
    assert room - 9 < lengths.max() <= room


def test_the_encoder_of_a_fusion_reader_sees_what_stands_before_the_answer():
    tokenizer = family_tokenizer("unigram")
    for template, text in (
        ("plain", "question: {q} title: {t} context: {p}"),
        (OF_FILE, "Use this {{only}}.\n{t} {p}\nQ:{q}\n\nA:"),
    ):
        batch = FusionPromptBuilder(tokenizer, template=template).build(Batch([ABOUT], [PASSAGES]))
        for row, passage in enumerate(PASSAGES):
            written = text.format(q=one_line(ABOUT.text), t=one_line(passage.title), p=one_line(passage.text))
            assert real_ids(batch, row) == tokenizer(written)["input_ids"]
            owner = batch.passage_of_token()[row][batch.attention_mask[row]].tolist()
            assert {*owner} == {-1, row}
            found = tokenizer.decode(batch.input_ids[row][batch.passage_of_token()[row] == row])
            assert "".join(found.split()) == "".join(passage.full_text.split())


@pytest.mark.parametrize("template", ["plain", "chat", "mine.txt"])
def test_closed_book_prompts_are_the_template_without_its_passages(template):
    tokenizer = family_tokenizer("smollm2")
    builder = PromptBuilder(tokenizer, template=OF_FILE if template == "mine.txt" else template)
    asked = one_line(ABOUT.text)
    expected = {
        "plain": f"Question: {asked}\nAnswer:",
        "chat": as_chat(tokenizer, f"Question: {asked}"),
        "mine.txt": f"Q:{asked}\n\nA:",
    }[template]
    batch = builder.build_closed_book([ABOUT])
    assert tokenizer.decode(batch.input_ids[0]) == expected
    assert not batch.content_mask.any()
