"""Template files: what they mean, and what is said of those that mean nothing."""

from pathlib import Path

import pytest

from datamodules.batches import Batch
from datamodules.errors import DataError
from datamodules.fusion_prompts import FusionPromptBuilder
from datamodules.prompts import PromptBuilder
from datamodules.templates import TEMPLATES, find_template
from tests.family_tokenizers import family_tokenizer
from tests.tiny_models import tiny_tokenizer, toy_passages, toy_questions

DOCS = Path(__file__).parents[2] / "docs"
BATCH = Batch(toy_questions()[:1], [toy_passages()[:2]], ["Paris"])
PLAIN = "Question: {question}\nTitle: {title}\nPassage: {text}\nQuestion: {question}\nAnswer: {answer}\n"
SYSTEM = "system:\nBe brief.\n\nuser:\n{passages}\n\n{question}\nassistant:\nIt is {answer}\n"


@pytest.fixture
def template(tmp_path):
    path = tmp_path / "mine.txt"

    def write(text: str) -> str:
        path.write_text(text, encoding="utf-8")
        return str(path)

    return write


def written(builder: PromptBuilder) -> list[str]:
    batch = builder.build(BATCH)
    return [
        builder.tokenizer.decode(ids[mask])
        for ids, mask in zip(batch.input_ids, batch.attention_mask, strict=True)
    ]


def test_plain_as_a_file_is_plain(template):
    of_file = PromptBuilder(tiny_tokenizer(), template=template(PLAIN))
    assert written(of_file) == written(PromptBuilder(tiny_tokenizer()))
    short = PLAIN.replace("Title: {title}\nPassage: {text}", "{passages}")
    assert written(PromptBuilder(tiny_tokenizer(), template=template(f"\n{short}\n\n"))) == written(of_file)


def test_few_shot_is_plain_with_examples():
    few_shot, plain = TEMPLATES["few_shot"], TEMPLATES["plain"]
    assert (few_shot.together, few_shot.alone) == (plain.together, plain.alone)
    assert (few_shot.num_examples, plain.num_examples, TEMPLATES["chat"].num_examples) == (3, 0, 0)


def test_a_system_speaks_once_and_an_answer_may_be_begun(template):
    tokenizer = family_tokenizer("smollm2")
    [text] = written(PromptBuilder(tokenizer, template=template(SYSTEM)))
    assert text == (
        "<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\n"
        "Title: France\nPassage: France is a country whose capital and seat of government is Paris.\n"
        "Title: Japan\nPassage: Japan is a country whose capital and seat of government is Tokyo.\n"
        "\nwhat is the capital of France<|im_end|>\n<|im_start|>assistant\nIt is Paris<|im_end|>"
    )


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{text}\n{answer}", r"mine.txt: \{question\} is missing"),
        ("{question}\n{answer}", r"mine.txt: \{passages\}, \{passage\} or \{text\} is missing"),
        ("{title}\n{question}\n{answer}", r"\{passages\}, \{passage\} or \{text\} is missing"),
        ("{passages}\n{question}", r"mine.txt: \{answer\} is missing"),
        ("{passages}\n{question}\n{answer}.", "once, at the end, with nothing after it"),
        ("{passages}\n{answer}\n{question}\n{answer}", "once, at the end"),
        (
            "{text}\n\n{query}\n{answer}",
            r"mine.txt, line 3: unknown field \{query\}; the fields are \{question\}, \{passage\}, .*\{\{",
        ),
        ("{text}\n{question!r}\n{answer}", "line 2: unknown field"),
        ("{text}\n{question:>9}\n{answer}", "line 2: unknown field"),
        ("{text}\n{}\n{question}\n{answer}", r"line 2: unknown field \{\}"),
        ("{text}\n{question\n{answer}", "line 2: expected '}'.*for braces that begin no field"),
        ("a } b\n{text}\n{question}\n{answer}", "line 1: Single '}'"),
        ("\n \n", "mine.txt is empty"),
        ("Hello\nuser:\n{text}{question}\nassistant:\n{answer}", "line 1: text before the first role"),
        ("user:\n\nassistant:\n{answer}", "nothing stands below user:"),
        ("user:\n{passages}\n{question} {answer}", "ends with a line 'assistant:'"),
        ("assistant:\n{passages}\n{question} {answer}", "begins with a line 'system:' or 'user:'"),
        ("system:\n{text}\nuser:\n{text} {question}\nassistant:\n{answer}", "shown in two messages"),
    ],
)
def test_broken_templates_are_refused(template, text, message):
    with pytest.raises(DataError, match=message):
        find_template(template(text))


def test_what_is_no_template_is_refused(tmp_path):
    with pytest.raises(
        DataError, match=r"'Plain' is no template's name, and .*choose one of: plain, few_shot, chat"
    ):
        find_template("Plain")
    with pytest.raises(DataError, match=r"template file .* is a folder"):
        find_template(str(tmp_path))
    (tmp_path / "latin.txt").write_bytes("{text} é".encode("latin-1"))
    with pytest.raises(DataError, match=r"latin.txt, line 1: not UTF-8"):
        find_template(str(tmp_path / "latin.txt"))


def test_templates_that_a_context_or_a_tokenizer_cannot_take(template):
    one_line = template("{text} Q: {question} A: {answer}")
    with pytest.raises(
        ValueError, match=r"mine.txt: .*repeated for each passage.*or set context=independent"
    ):
        PromptBuilder(tiny_tokenizer(), template=one_line)
    alone = PromptBuilder(tiny_tokenizer(), "independent", template=one_line)
    assert alone.contexts == ["independent"], "the check looks at no other"
    assert PromptBuilder(tiny_tokenizer()).contexts == ["concatenated", "independent"]
    assert written(alone)[1] == (f"{toy_passages()[1].text} Q: what is the capital of France A: Paris</s>")
    early = template("{question}\n{passages}\nAnswer: {answer}")
    with pytest.raises(ValueError, match=r"stands before the passages alone.*ask after them"):
        PromptBuilder(tiny_tokenizer(), template=early)
    assert FusionPromptBuilder(tiny_tokenizer(), template=early).build(BATCH).num_passages == 2


def test_chats_that_a_tokenizer_cannot_take(template):
    with pytest.raises(
        ValueError, match=r"template=chat is a chat.*has no chat template.*set template=plain"
    ):
        PromptBuilder(tiny_tokenizer(), template="chat")
    with pytest.raises(ValueError, match="template=chat is a chat, and a Fusion-in-Decoder"):
        FusionPromptBuilder(family_tokenizer("unigram"), template="chat")
    gemma = family_tokenizer("gemma")
    with pytest.raises(
        ValueError, match=r"refuses a message of system \(System role not supported\); move what stands below"
    ):
        PromptBuilder(gemma, template=template(SYSTEM))
    twice = "user:\n{passages}\nuser:\n{question}\nassistant:\n{answer}"
    with pytest.raises(ValueError, match=r"refuses these messages .*must alternate.*take turns"):
        PromptBuilder(gemma, template=template(twice))
    with pytest.raises(ValueError, match="leaves a message of system out"):
        PromptBuilder(family_tokenizer("llama2"), template=template(SYSTEM))


def test_a_template_that_leaves_passages_no_room_is_refused(template):
    builder = PromptBuilder(
        tiny_tokenizer(), template=template("Be brief. " * 60 + PLAIN), max_tokens_per_passage=128
    )
    builder.check_room(num_passages=20)
    with pytest.raises(
        ValueError, match=r"max_tokens_per_passage=128 leaves a passage no room .*at least \d{3}"
    ):
        builder.check_room(num_passages=2)
    PromptBuilder(tiny_tokenizer(), "independent").check_room(5)


@pytest.mark.parametrize("name", ["question_first", "short_answers"])
def test_the_files_of_the_docs_are_templates_and_shown_as_they_are(name):
    path = DOCS / "templates" / f"{name}.txt"
    assert find_template(str(path)).num_examples == 0
    assert f"```\n{path.read_text()}```" in (DOCS / "prompts.md").read_text()
