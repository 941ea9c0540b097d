"""What a tokenizer's own chat template puts around the messages of a chat."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from transformers import PreTrainedTokenizerBase

from datamodules.templates import SYSTEM

_TODAY = datetime(2024, 7, 26)
"""What chat templates that tell the date are told: a prompt must be the same tomorrow. Llama's own take this
date where nobody tells them any."""


@dataclass(frozen=True)
class Wrapping:
    """What a chat template says around messages.

    Attributes:
        before: each of them; before the last, that of the assistant, what it begins an answer with.
        answer_space: what it puts between that and an answer that it is given, where that is a space.
        end_id: the token that ends an answer.
    """

    before: tuple[str, ...]
    answer_space: str
    end_id: int


def wrap_messages(
    tokenizer: PreTrainedTokenizerBase, roles: Sequence[str], name: str = "template"
) -> Wrapping:
    """What the tokenizer's chat template says before, between and after messages, whatever they say.

    Args:
        tokenizer: of the reader.
        roles: of the messages; the last is the assistant's.
        name: of the template that they are of, for messages.

    Raises:
        ValueError: there is no chat template, or it cannot take these roles.
    """
    if tokenizer.chat_template is None:
        raise ValueError(
            f"template={name} is a chat, and the tokenizer of this reader has no chat template, like that of "
            "any model that was not tuned to follow instructions; set template=plain or template=few_shot, "
            "or name to a model that was"
        )
    *before, end = _split(tokenizer, roles, name, is_begun=False)
    asked = _split(tokenizer, roles, name, is_begun=True)
    space = " " if before[-1] == asked[-1] + " " else ""
    added = tokenizer.added_tokens_decoder
    ids = [token for token in tokenizer(end, add_special_tokens=False)["input_ids"] if token in added]
    return Wrapping(tuple(asked), space, ids[0] if ids else tokenizer.eos_token_id)


def _split(tokenizer: PreTrainedTokenizerBase, roles: Sequence[str], name: str, is_begun: bool) -> list[str]:
    """The words around the messages, without the last message and what follows it where it is only begun."""
    # private characters, which no chat template looks for and none strips
    marks = [f"\ue000{i}\ue001" for i in range(len(roles) - is_begun)]
    messages = [{"role": role, "content": mark} for role, mark in zip(roles, marks, strict=False)]
    try:
        text = _render(tokenizer, messages, is_begun)
    except Exception as error:  # a chat template is a program, and its errors are of many kinds
        raise ValueError(_explain(tokenizer, messages, is_begun, name, error)) from error
    words = []
    for mark, role in zip(marks, roles, strict=False):
        if text.count(mark) != 1:
            raise ValueError(
                f"template={name}: the chat template of this reader leaves a message of {role} out, or "
                f"repeats it; {_WAY_OUT[role == SYSTEM]}"
            )
        before, text = text.split(mark)
        words.append(before)
    return [*words, text]


_WAY_OUT = {
    True: "move what stands below 'system:' to 'user:'",
    False: "let 'user:' and 'assistant:' take turns, or set template=plain",
}


def _render(tokenizer: PreTrainedTokenizerBase, messages: list[dict[str, str]], is_begun: bool) -> str:
    settings: dict[str, Any] = {
        "enable_thinking": False,  # short answers are read and scored as they come
        "date_string": _TODAY.strftime("%d %b %Y"),
        "strftime_now": _TODAY.strftime,
    }
    text = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=is_begun, **settings)
    assert isinstance(text, str), "one conversation is one text"
    return text


def _explain(
    tokenizer: PreTrainedTokenizerBase,
    messages: list[dict[str, str]],
    is_begun: bool,
    name: str,
    error: Exception,
) -> str:
    detail = " ".join(str(error).split())[:200]
    of_system = messages[0]["role"] == SYSTEM
    if of_system:
        try:
            _render(tokenizer, messages[1:], is_begun)
        except Exception:  # it is not the system's message, or not that alone
            of_system = False
    what = "a message of system" if of_system else "these messages"
    return (
        f"template={name}: the chat template of this reader refuses {what} ({detail}); {_WAY_OUT[of_system]}"
    )
