"""A template as the prompts of one tokenizer are written: its forms, with the solved examples before them."""

from dataclasses import dataclass, replace

from transformers import PreTrainedTokenizerBase

from datamodules.chat_templates import wrap_messages
from datamodules.templates import ASSISTANT, SYSTEM, Form, Turn, form_of, parse_template


@dataclass(frozen=True)
class PromptForms:
    """How prompts are written.

    Attributes:
        examples: of the solved examples, in order.
        prompt: of what follows them.
        example_end: after each example.
        end_id: the token that ends an answer.
        is_chat: whether a chat template says all special tokens, so that the tokenizer adds none.
    """

    examples: tuple[Form, ...]
    prompt: Form
    example_end: str
    end_id: int
    is_chat: bool


def prompt_forms(
    text: str,
    tokenizer: PreTrainedTokenizerBase,
    num_examples: int = 0,
    with_passages: bool = True,
    name: str = "template",
) -> PromptForms:
    """The forms of a template's text.

    Solved examples of a chat are turns before the last: what the system says is said once.

    Args:
        text: of a template.
        tokenizer: of the reader.
        num_examples: before each prompt.
        with_passages: or without what stands before them and themselves.
        name: of the template, for messages.

    Raises:
        DataError: a broken template.
        ValueError: a chat that the tokenizer's chat template cannot take.
    """
    turns = parse_template(text, name)
    if not with_passages:
        turns = [turn.without_passages() for turn in turns]
    if turns[0].role is None:
        form = form_of(turns)
        return PromptForms((form,) * num_examples, form, "\n", tokenizer.eos_token_id, is_chat=False)
    system = turns[:1] if turns[0].role == SYSTEM else []
    asked = turns[len(system) :]
    return _chat_forms([system + asked, *[asked] * num_examples], tokenizer, name)


def _chat_forms(parts: list[list[Turn]], tokenizer: PreTrainedTokenizerBase, name: str) -> PromptForms:
    """Of a chat, each part of which ends with an answer."""
    wrapping = wrap_messages(tokenizer, [turn.role or ASSISTANT for part in parts for turn in part], name)
    words = iter(wrapping.before)
    around = [[next(words) for _ in part] for part in parts]
    is_answer_alone = len(parts[-1][-1].pieces) == 1
    if not is_answer_alone:  # the space is before the words that begin it
        around[-1][-1] += wrapping.answer_space
    *examples, prompt = (form_of(part, before) for part, before in zip(parts, around, strict=True))
    if is_answer_alone:
        prompt = replace(prompt, answer_space=wrapping.answer_space)
    return PromptForms(tuple(examples), prompt, "", wrapping.end_id, is_chat=True)
