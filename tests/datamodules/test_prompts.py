"""Prompts against the template written out by hand, and masks against the strings that they should cover."""

import doctest
import itertools
import random

import pytest
import torch
from tokenizers import processors
from transformers import ByT5Tokenizer

from datamodules import prompts
from datamodules.batches import NOTHING, Batch, Passage, PromptBatch, Question, TokenScope
from datamodules.errors import DataError
from datamodules.fusion_prompts import FusionPromptBuilder
from datamodules.prompts import PromptBuilder
from lightning_modules.metrics.teacher_auc import teacher_auc
from tests.tiny_models import tiny_tokenizer, toy_passages, toy_questions

CONTEXTS = ["concatenated", "independent"]

FOREIGN = [
    Passage("f0", "Perú", "El río Ñuñoa nace en São José, 東京 y 😀 también."),
    Passage("f1", "東京都", "日本の首都は東京である。"),
    Passage("f2", "Plain", "Nothing but ASCII in here."),
]
ABOUT_FOREIGN = Question("f", "¿dónde está 東京 o Perú?", ("日本", "Peru"), nouns=((12, 14), (17, 21)))


@pytest.fixture(scope="module")
def tokenizer():
    return tiny_tokenizer()


def with_special_tokens(template):
    """The tiny tokenizer, with tokens put around every text as a model's own post-processor does."""
    tokenizer = tiny_tokenizer()
    tokenizer.add_special_tokens({"bos_token": "<s>"})
    special = [(name, tokenizer.convert_tokens_to_ids(name)) for name in ("<s>", "</s>")]
    tokenizer.backend_tokenizer.post_processor = processors.TemplateProcessing(
        single=template, special_tokens=special
    )
    return tokenizer


def decode(builder, ids):
    return builder.tokenizer.decode(ids, skip_special_tokens=False, clean_up_tokenization_spaces=False)


def text_where(builder, batch, row, mask):
    return decode(builder, batch.input_ids[row][mask])


def written_out(context, question, passages, order=None):
    """The template by hand: the texts of a question's prompts, without answers."""
    blocks = [f"Title: {p.title}\nPassage: {p.text}\n" for p in passages]
    asked = f"Question: {question.text}\n"
    if context == "independent":
        return [f"{block}{asked}Answer:" for block in blocks]
    order = range(len(passages)) if order is None else order
    return [f"{asked}{''.join(blocks[k] for k in order)}{asked}Answer:"]


def real_ids(batch: PromptBatch) -> list[list[int]]:
    return [ids[mask].tolist() for ids, mask in zip(batch.input_ids, batch.attention_mask, strict=True)]


def num_tokens(tokenizer, text):
    return len(tokenizer(text, add_special_tokens=False)["input_ids"])


CASES = {
    "toy": (toy_questions()[:3], [toy_passages()[i : i + 4] for i in (0, 10, 20)], ["Paris", "x y", "Lima"]),
    "foreign": ([ABOUT_FOREIGN], [FOREIGN], ["日本 (Ñandú)"]),
}


@pytest.fixture(params=list(itertools.product(CONTEXTS, ["left", "right"], sorted(CASES))), ids=str)
def built(request, tokenizer):
    context, side, case = request.param
    builder = PromptBuilder(tokenizer, context=context, padding_side=side)
    return builder, *CASES[case], builder.build(Batch(*CASES[case]))


# ------------------------------------------------------------------------------------- what tokens are
def test_prompts_are_the_template_and_the_answer(built):
    builder, questions, passages, answers, batch = built
    expected = [
        f"{prompt} {answer}</s>"
        for question, found, answer in zip(questions, passages, answers, strict=True)
        for prompt in written_out(builder.context, question, found)
    ]
    assert [decode(builder, ids) for ids in real_ids(batch)] == expected


def test_spans_hold_exactly_title_text_answer_and_nouns(built):
    builder, questions, passages, answers, batch = built
    per_question = 1 if builder.context == "concatenated" else len(passages[0])
    seen = set()
    for row in range(len(batch.input_ids)):
        b = row // per_question
        assert batch.question_of_prompt[row] == b
        for k in set(batch.passage_of_token()[row].tolist()) - {-1}:
            of_passage = batch.passage_of_token()[row] == k
            assert (
                text_where(builder, batch, row, of_passage)
                == f" {passages[b][k].title} {passages[b][k].text}"
            )
            seen.add((b, k))
        assert torch.equal(batch.content_mask[row], batch.passage_of_token()[row] >= 0)
        assert text_where(builder, batch, row, batch.answer_mask[row]) == f" {answers[b]}"
        nouns = [questions[b].text[start:end] for start, end in questions[b].nouns]
        found = text_where(builder, batch, row, batch.noun_mask[row])
        # a noun's first token brings the space before it along, unless that is a token of its own
        assert found.replace(" ", "") == "".join(nouns)
    assert seen == {(b, k) for b in range(len(questions)) for k in range(len(passages[0]))}


def test_nouns_are_those_of_the_last_question(tokenizer):
    builder = PromptBuilder(tokenizer)
    batch = builder.build(Batch(toy_questions()[:1], [toy_passages()[:2]], ["Paris"]))
    (positions,) = batch.noun_mask[0].nonzero(as_tuple=True)
    after = decode(builder, batch.input_ids[0, positions[-1] + 1 :])
    assert after == " of France\nAnswer: Paris</s>"


SPACED = [
    ("  what is the  capital of France", ["capital", "France"]),
    ("\tFrance has what capital ", ["France", "capital"]),
    ("what is\tthe capital \n of  New   York", ["capital", "New   York"]),
    ("what\u00a0is the capital\u3000of Perú\r\n", ["capital", "Perú"]),
]


@pytest.mark.parametrize("kind", [*CONTEXTS, "fusion"])
@pytest.mark.parametrize(("text", "nouns"), SPACED)
def test_nouns_are_found_whatever_white_space_is_between_the_words(tokenizer, kind, text, nouns):
    """Of a question that was made in Python, its nouns marked in its own text."""
    spans = tuple((text.index(noun), text.index(noun) + len(noun)) for noun in nouns)
    question = Question("q", text, ("x",), nouns=spans)
    fusion = kind == "fusion"
    builder = FusionPromptBuilder(tokenizer) if fusion else PromptBuilder(tokenizer, context=kind)
    batch = builder.build(Batch([question], [toy_passages()[:2]]))
    for row in range(len(batch.input_ids)):
        marked = text_where(builder, batch, row, batch.noun_mask[row])
        assert "".join(marked.split()) == "".join("".join(nouns).split())


def test_noun_spans_example():
    assert doctest.testmod(prompts).failed == 0


def test_answer_rows_and_labels_equal_a_loop_over_the_answer(built):
    batch = built[-1]
    for row in range(len(batch.input_ids)):
        answer = batch.answer_mask[row].nonzero()[:, 0].tolist()
        assert answer == list(range(answer[0], answer[-1] + 1))
        assert batch.answer_rows_mask[row].nonzero()[:, 0].tolist() == [t - 1 for t in answer]
        labels = batch.label_mask[row].nonzero()[:, 0]
        assert labels.tolist() == [t - 1 for t in [*answer, answer[-1] + 1]]
        assert batch.input_ids[row, labels[-1] + 1] == 1, "the last label is the end of sequence"
        assert bool(batch.attention_mask[row, labels + 1].all())


@pytest.mark.parametrize("scope", ["passage", "prompt"])
def test_a_token_across_a_border_is_what_its_last_character_is(scope):
    tokenizer = tiny_tokenizer()
    tokenizer.add_tokens([".\n", ": Fr"])
    builder = PromptBuilder(tokenizer)
    passage = Passage("p", "France", "It is a country.")
    batch = builder.build(Batch(toy_questions()[:1], [[passage]], ["Paris"]))
    ids = batch.input_ids[0].tolist()
    for text, counts in ((": Fr", True), (".\n", scope == "prompt")):
        (place,) = [t for t, i in enumerate(ids) if decode(builder, [i]) == text]
        assert (batch.passage_of_token(TokenScope(scope))[0, place] == 0) == counts
        assert batch.content_mask[0, place] == (text == ": Fr")


@pytest.mark.parametrize("side", ["left", "right"])
def test_padding_is_on_its_side_and_is_nothing(tokenizer, side):
    builder = PromptBuilder(tokenizer, padding_side=side)
    batch = builder.build(Batch(toy_questions()[:2], [FOREIGN[:1], toy_passages()[:1]], ["Paris", "Rome"]))
    mask = batch.attention_mask.int()
    assert len({*mask.sum(dim=1).tolist()}) == 2, "prompts of equal length would show nothing"
    assert torch.equal(mask.sort(dim=1, descending=side == "right", stable=True).values, mask)
    padding = ~batch.attention_mask
    assert (batch.input_ids[padding] == 0).all()
    assert (batch.block_of_token[padding] == -1).all()
    for name in ("content_mask", "noun_mask", "answer_mask", "answer_rows_mask", "label_mask"):
        assert not getattr(batch, name)[padding].any(), name


def test_a_tokenizer_without_padding_token_pads_with_its_end(tokenizer):
    bare = tiny_tokenizer()
    bare.pad_token = None
    batch = PromptBuilder(bare).build(Batch(toy_questions()[:2], [FOREIGN[:1], toy_passages()[:1]]))
    assert (batch.input_ids[~batch.attention_mask] == bare.eos_token_id).all()


# ---------------------------------------------------------------------------------------------- shapes
@pytest.mark.parametrize(("context", "prompts"), [("concatenated", 3), ("independent", 12)])
def test_shapes_and_passages_of_a_context(tokenizer, context, prompts):
    batch = PromptBuilder(tokenizer, context=context).build(Batch(*CASES["toy"]))
    assert (batch.num_questions, batch.num_passages) == (3, 4)
    for name, value in vars(batch).items():
        if isinstance(value, torch.Tensor):
            assert value.shape == ((prompts,) if name == "question_of_prompt" else batch.input_ids.shape)
    for row, ranks in enumerate(batch.passage_of_token()):
        wanted = {-1, 0, 1, 2, 3} if context == "concatenated" else {-1, row % 4}
        assert set(ranks.tolist()) == wanted
    assert batch.question_of_prompt.tolist() == [b for b in range(3) for _ in range(prompts // 3)]


@pytest.mark.parametrize("context", CONTEXTS)
@pytest.mark.parametrize("template", ["$A", "<s> $A", "$A </s>", "<s> $A </s>"])
def test_without_answer_it_is_a_prefix_of_the_prompt_with_one(context, template):
    builder = PromptBuilder(with_special_tokens(template), context=context)
    questions, passages, answers = CASES["toy"]
    asked = real_ids(builder.build(Batch(questions, passages)))
    answered = real_ids(builder.build(Batch(questions, passages, answers)))
    for short, long in zip(asked, answered, strict=True):
        assert len(short) < len(long)
        assert long[: len(short)] == short
        assert 1 not in short
        assert long.count(1) == 1


@pytest.mark.parametrize("context", CONTEXTS)
def test_a_prompt_without_answer_has_no_answer_rows(tokenizer, context):
    batch = PromptBuilder(tokenizer, context=context).build(Batch(*CASES["toy"][:2]))
    assert not (batch.answer_mask | batch.answer_rows_mask | batch.label_mask).any()


@pytest.mark.parametrize("scope", ["passage", "prompt"])
def test_tokens_that_a_tokenizer_adds_belong_to_nothing(scope):
    builder = PromptBuilder(with_special_tokens("<s> $A </s>"), context="independent")
    plain = PromptBuilder(tiny_tokenizer(), context="independent")
    case = CASES["toy"]
    batch, expected = builder.build(Batch(*case)), plain.build(Batch(*case))
    bos = builder.tokenizer.bos_token_id
    assert [ids[0] for ids in real_ids(batch)] == [bos] * len(batch.input_ids)
    assert [ids[1:] for ids in real_ids(batch)] == real_ids(expected)
    for name in ("block_of_token", "content_mask", "noun_mask", "answer_mask", "label_mask"):
        assert torch.equal(getattr(batch, name)[:, 1:], getattr(expected, name)), name
    counted = batch.passage_of_token(TokenScope(scope))
    assert torch.equal(counted[:, 1:], expected.passage_of_token(TokenScope(scope)))
    assert (counted[batch.input_ids == bos] == -1).all()


# --------------------------------------------------------------------------------------------- choices
def test_shuffled_prompts_show_a_permutation_that_the_seed_decides(tokenizer):
    builder = PromptBuilder(tokenizer, passage_order="shuffled")
    questions, passages = toy_questions()[:2], toy_passages()[:4]
    of_text = {
        written_out("concatenated", question, passages, order)[0]: order
        for question in questions
        for order in itertools.permutations(range(4))
    }
    orders = set()
    for seed in range(12):
        batch = builder.build(Batch(questions, [passages, passages], order_seed=seed))
        again = builder.build(Batch(questions, [passages, passages], order_seed=seed))
        assert torch.equal(batch.input_ids, again.input_ids)
        for row, ids in enumerate(real_ids(batch)):
            order = of_text[decode(builder, ids)]
            shown = [k for k in dict.fromkeys(batch.passage_of_token()[row].tolist()) if k >= 0]
            assert shown == list(order), "passage_of_token is the rank, wherever the passage stands"
            for k in range(4):
                text = text_where(builder, batch, row, batch.passage_of_token()[row] == k)
                assert text == f" {passages[k].title} {passages[k].text}"
            orders.add(order)
    assert len(orders) > 8, "seeds and questions give orders of their own"


def shown_order(batch: PromptBatch, row: int) -> list[int]:
    """Ranks of a concatenated prompt's passages, in the order in which it shows them."""
    return [k for k in dict.fromkeys(batch.passage_of_token()[row].tolist()) if k >= 0]


def test_a_question_has_its_own_order_whatever_batch_it_comes_in(tokenizer):
    builder = PromptBuilder(tokenizer, passage_order="shuffled")
    questions, passages = toy_questions(), toy_passages()[:5]
    together = builder.build(Batch(questions, [passages] * len(questions)))
    backwards = builder.build(Batch(questions[::-1], [passages] * len(questions)))
    orders = [shown_order(together, b) for b in range(len(questions))]
    assert orders == [shown_order(backwards, b) for b in range(len(questions))][::-1]
    assert orders == [shown_order(builder.build(Batch([question], [passages])), 0) for question in questions]
    assert len({tuple(order) for order in orders}) > 8, "questions differ in their orders"


def test_a_teacher_that_looks_at_the_place_alone_tells_nothing(tokenizer):
    """One question a batch, as evaluations read; passages of a low rank hold the answer more often."""
    builder = PromptBuilder(tokenizer, passage_order="shuffled")
    passages, chance = [Passage(str(k), "a", "b") for k in range(5)], random.Random(0)
    p_place, has_answer = [], []
    for number in range(400):
        batch = builder.build(Batch([Question(f"q{number}", "c", ("d",))], [passages]))
        order = shown_order(batch, 0)
        p_place.append([float(order.index(k)) for k in range(5)])
        has_answer.append([chance.random() < 0.5 / (k + 1) for k in range(5)])
    by_place = teacher_auc(torch.tensor(p_place), torch.tensor(has_answer)).nanmean()
    assert float(by_place) == pytest.approx(0.5, abs=0.04)
    one_for_all = teacher_auc(torch.tensor(p_place[:1] * 400), torch.tensor(has_answer)).nanmean()
    assert abs(float(one_for_all) - 0.5) > 0.04, "one order for all questions would tell something"


def test_independent_prompts_are_never_shuffled(tokenizer):
    shuffled = PromptBuilder(tokenizer, context="independent", passage_order="shuffled")
    plain = PromptBuilder(tokenizer, context="independent")
    assert torch.equal(
        shuffled.build(Batch(*CASES["toy"])).input_ids, plain.build(Batch(*CASES["toy"])).input_ids
    )


def test_prompt_scope_takes_the_template_of_the_block_in(tokenizer):
    builder = PromptBuilder(tokenizer)
    questions, passages, answers = CASES["toy"]
    batch = builder.build(Batch(questions, passages, answers))
    wide = batch.passage_of_token(TokenScope.PROMPT)
    for b, found in enumerate(passages):
        for k, passage in enumerate(found):
            block = text_where(builder, batch, b, wide[b] == k)
            assert block == f"Title: {passage.title}\nPassage: {passage.text}\n"
    narrow = batch.passage_of_token(TokenScope.PASSAGE)
    assert torch.equal(narrow, wide.where(batch.content_mask, NOTHING))


def test_prompt_scope_of_independent_prompts_takes_the_question_in(tokenizer):
    builder = PromptBuilder(tokenizer, context="independent")
    questions, passages, answers = CASES["toy"]
    batch = builder.build(Batch(questions, passages, answers))
    wide = batch.passage_of_token(TokenScope.PROMPT)
    expected = [
        text
        for q, found in zip(questions, passages, strict=True)
        for text in written_out("independent", q, found)
    ]
    for row, text in enumerate(expected):
        assert text_where(builder, batch, row, wide[row] == row % 4) == text
    narrow = batch.passage_of_token(TokenScope.PASSAGE)
    assert torch.equal(narrow, wide.where(batch.content_mask, NOTHING))


# ------------------------------------------------------------------------------------------ truncation
def random_text(generator, length, alphabet):
    return "".join(generator.choice(alphabet) for _ in range(length)).strip() or "x"


@pytest.mark.parametrize(
    "alphabet", ["abc Paris Tokyo, the sea. x ", "abc é 日本 😀 ñ  Paris Tokyo, the sea. x"]
)
@pytest.mark.parametrize("context", CONTEXTS)
def test_prompts_stay_within_their_tokens(tokenizer, context, alphabet):
    generator = random.Random(0)
    for _ in range(60):
        limit, num_passages = generator.choice([70, 90, 128]), generator.choice([2, 3, 5])
        builder = PromptBuilder(
            tokenizer,
            context=context,
            max_tokens_per_passage=limit,
            max_question_tokens=12,
            max_title_tokens=6,
        )
        question = Question("q", random_text(generator, 30, alphabet), ("a",))
        passages = [
            Passage(
                str(k),
                random_text(generator, generator.choice([5, 30]), alphabet),
                random_text(generator, generator.choice([20, 400]), alphabet),
            )
            for k in range(num_passages)
        ]
        lengths = builder.build(Batch([question], [passages])).attention_mask.sum(dim=1)
        allowed = limit * num_passages if context == "concatenated" else limit
        assert lengths.max() <= allowed
        if context == "concatenated" and all(len(p.text) > 300 for p in passages):
            assert lengths.max() > allowed - 6 * num_passages, "room is not wasted"


def test_each_passage_of_a_prompt_gets_an_equal_share(tokenizer):
    builder = PromptBuilder(tokenizer, max_tokens_per_passage=40)
    long = " ".join(["the capital of France is Paris and"] * 30)
    passages = [Passage("0", "A", long), Passage("1", "B", "short."), Passage("2", "C", f"Tokyo {long}")]
    batch = builder.build(Batch([toy_questions()[0]], [passages]))
    texts = []
    for k, passage in enumerate(passages):
        text = text_where(builder, batch, 0, batch.passage_of_token()[0] == k)
        assert f" {passage.title} {passage.text}".startswith(text)
        texts.append(text)
    assert texts[1] == " B short."
    lengths = [num_tokens(tokenizer, text) for text in texts]
    assert abs(lengths[0] - lengths[2]) <= 1
    assert lengths[0] > 20
    # what the short passage leaves over goes to nobody: the share is the limit's, less the rest of the prompt
    assert batch.attention_mask.sum() < 120 - 10


@pytest.mark.parametrize("context", CONTEXTS)
def test_long_questions_titles_and_answers_are_cut(tokenizer, context):
    builder = PromptBuilder(
        tokenizer, context=context, max_question_tokens=5, max_title_tokens=3, max_answer_tokens=4
    )
    question = Question(
        "q", "what is the capital of France and Spain", ("x",), nouns=((12, 19), (23, 29), (34, 39))
    )
    passage = Passage("p", "Rivers of France of Spain", "Rivers run.")
    batch = builder.build(Batch([question], [[passage]], ["Rivers of France run down to the sea"]))
    text = decode(builder, real_ids(batch)[0])
    asked = "Question: what is the capital of\n"
    before = asked if context == "concatenated" else ""
    assert (
        text
        == f"{before}Title: Rivers of France\nPassage: Rivers run.\n{asked}Answer: Rivers of France run</s>"
    )
    assert text_where(builder, batch, 0, batch.noun_mask[0]) == " capital", "nouns that were cut off are gone"


def test_texts_are_put_in_one_line(tokenizer):
    builder = PromptBuilder(tokenizer)
    passage = Passage("p", " A\ntitle", "one\n\ttwo   three ")
    batch = builder.build(Batch([Question("q", "who", ("x",))], [[passage]], ["a\nb"]))
    text = decode(builder, real_ids(batch)[0])
    assert text == "Question: who\nTitle: A title\nPassage: one two three\nQuestion: who\nAnswer: a b</s>"


# --------------------------------------------------------------------------------------------- refused
def test_unusable_tokenizers_and_settings_are_refused(tokenizer):
    with pytest.raises(ValueError, match="ByT5Tokenizer gives no character offsets"):
        PromptBuilder(ByT5Tokenizer())
    endless = tiny_tokenizer()
    endless.eos_token = None
    with pytest.raises(ValueError, match="no end-of-sequence token"):
        PromptBuilder(endless)
    with pytest.raises(ValueError, match="'left' or 'right'"):
        PromptBuilder(tokenizer, padding_side="middle")
    with pytest.raises(DataError, match="choose one of: concatenated, independent"):
        PromptBuilder(tokenizer, context="both")


def test_moves_to_a_device_whole(tokenizer):
    batch = PromptBuilder(tokenizer).build(Batch(*CASES["toy"]))
    moved = batch.to("meta")
    assert all(value.is_meta for value in vars(moved).values() if isinstance(value, torch.Tensor))
    assert (moved.num_questions, moved.num_passages) == (3, 4)


@pytest.mark.parametrize("context", CONTEXTS)
def test_closed_book_prompts_hold_the_question_alone(tokenizer, context):
    builder = PromptBuilder(tokenizer, context=context)
    questions = [*toy_questions()[:2], ABOUT_FOREIGN]
    batch = builder.build_closed_book(questions)
    assert (batch.num_questions, batch.num_passages) == (3, 0)
    assert batch.question_of_prompt.tolist() == [0, 1, 2]
    for row, question in enumerate(questions):
        shown = text_where(builder, batch, row, batch.attention_mask[row])
        assert shown == f"Question: {question.text}\nAnswer:"
    assert (batch.block_of_token == -1).all()
    assert not (batch.content_mask | batch.answer_mask | batch.label_mask).any()


@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("context", CONTEXTS)
def test_without_a_known_answer_the_row_that_would_predict_it_counts(tokenizer, context, side):
    builder = PromptBuilder(tokenizer, context, padding_side=side)
    questions, passages = toy_questions()[:2], [toy_passages()[:2], toy_passages()[2:4]]
    batch = builder.build(Batch(questions, passages, ["", "Tokyo"]))
    known = builder.build(Batch(questions, passages, ["Paris", "Tokyo"]))
    per_question = len(batch.input_ids) // 2
    for row in range(per_question):
        assert not batch.answer_mask[row].any()
        assert batch.answer_rows_mask[row].sum() == 1
        assert torch.equal(batch.label_mask[row], batch.answer_rows_mask[row])
        (position,) = batch.answer_rows_mask[row].nonzero()[:, 0].tolist()
        assert decode(builder, batch.input_ids[row][position]) == ":"
        assert int(batch.input_ids[row][position + 1]) == tokenizer.eos_token_id
        # where the known answer's first row stands, counted from the prompt's first token
        first = int(known.answer_rows_mask[row].int().argmax() - known.attention_mask[row].int().argmax())
        assert position - int(batch.attention_mask[row].int().argmax()) == first
    for row in range(per_question, 2 * per_question):
        assert text_where(builder, batch, row, batch.answer_mask[row]) == " Tokyo"
