"""How prompts are written: text with fields, by name or from a file.

A template is the text of one prompt, with fields that each prompt fills in::

    Answer in a few words.
    Title: {title}
    Passage: {text}
    Question: {question}
    Answer: {answer}

- `{question}` must be there. Where it is more than once, its last place is *the* question.
- The lines from the first `{title}` or `{text}` to the last are repeated for each passage. `{passage}` is
  short for `{title} {text}`, and a line `{passages}` for the two lines above.
- `{answer}` is the end of the template: there the reader answers.
- A space before a field is part of it, as it is part of a word's first token in most vocabularies.
- `{{` and `}}` stand for braces.

Lines `system:`, `user:` and `assistant:`, each alone in its line as in Prompty's files, make it a chat, which
the tokenizer's own chat template wraps up.
"""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from string import Formatter

from datamodules.errors import DataError
from datamodules.text_files import existing_file, numbered_lines

QUESTION, ANSWER, TITLE, TEXT = "question", "answer", "title", "text"
SYSTEM, ASSISTANT = "system", "assistant"

_SHORT_FOR = {"passage": "{title} {text}", "passages": "Title: {title}\nPassage: {text}"}
_FIELDS = (QUESTION, *_SHORT_FOR, TITLE, TEXT, ANSWER)
_ROLE = re.compile(rf"({SYSTEM}|user|{ASSISTANT}):\s*")


@dataclass(frozen=True)
class Template:
    """How prompts are written.

    Attributes:
        together: the text of a prompt that shows all passages of a question.
        alone: of one that shows a single passage.
        num_examples: solved examples to show first, where nothing else is said.
        name: for messages.
    """

    together: str
    alone: str
    num_examples: int = 0
    name: str = field(default="template", compare=False, repr=False)

    @property
    def is_chat(self) -> bool:
        """Whether it names roles."""
        return parse_template(self.alone, self.name)[0].role is not None

    @property
    def shows_several(self) -> bool:
        """Whether a prompt can show several passages: nothing that is said once stands among their lines."""
        turns = parse_template(self.together, self.name)
        return all(
            isinstance(piece, Words) or _is_of_passage(piece) for turn in turns for piece in turn.block
        )


@dataclass(frozen=True)
class Words:
    """What a template says itself.

    Attributes:
        text: of any number of lines.
        is_of_chat: whether the tokenizer's chat template says it, so that it is of no passage.
    """

    text: str
    is_of_chat: bool = False


@dataclass(frozen=True)
class Field:
    """What each prompt fills in.

    Attributes:
        name: `question`, `title`, `text` or `answer`.
        space: directly before it.
        is_last: whether it stands nowhere after this.
    """

    name: str
    space: str = ""
    is_last: bool = False


Piece = Words | Field


@dataclass(frozen=True)
class Turn:
    """One message of a chat, or a whole template that is none.

    Attributes:
        role: whose message it is; None = no chat.
        before: what stands before the passages; all of it where it shows none.
        block: what is repeated for each passage.
        after: what stands after them.
    """

    role: str | None
    before: tuple[Piece, ...]
    block: tuple[Piece, ...] = ()
    after: tuple[Piece, ...] = ()

    @property
    def pieces(self) -> tuple[Piece, ...]:
        return (*self.before, *self.block, *self.after)

    def without_passages(self) -> "Turn":
        """What stands after the passages, where they are shown."""
        if not self.block:
            return self
        last = max(i for i, piece in enumerate(self.block) if _is_of_passage(piece))
        rest = [*self.block[last + 1 :], *self.after]
        while rest and isinstance(rest[0], Words):
            rest[0] = Words(rest[0].text.lstrip())
            if rest[0].text:
                break
            del rest[0]
        if rest and isinstance(rest[0], Field):
            rest[0] = replace(rest[0], space="")
        return Turn(self.role, tuple(rest))


@dataclass(frozen=True)
class Form:
    """A prompt up to its answer.

    Attributes:
        before: what stands before the passages.
        block: what is repeated for each passage.
        after: what stands after them, up to the answer.
        answer_space: directly before the answer, and part of it.
    """

    before: tuple[Piece, ...]
    block: tuple[Piece, ...]
    after: tuple[Piece, ...]
    answer_space: str

    @property
    def asks_last(self) -> bool:
        """Whether the question's last place is after the passages."""
        pieces = [piece for piece in (*self.block, *self.after) if isinstance(piece, Field)]
        return pieces[-1].name == QUESTION


PLAIN = Template(
    together="Question: {question}\n{passages}\nQuestion: {question}\nAnswer: {answer}",
    alone="{passages}\nQuestion: {question}\nAnswer: {answer}",
    name="plain",
)

TEMPLATES: dict[str, Template] = {
    "plain": PLAIN,
    "few_shot": replace(PLAIN, num_examples=3, name="few_shot"),
    "chat": Template(
        # an instruction of the user, since some models know no system
        together=(
            "user:\nAnswer the question from the passages, in as few words as possible.\n\n"
            "Question: {question}\n{passages}\nQuestion: {question}\nassistant:\n{answer}"
        ),
        alone=(
            "user:\nAnswer the question from the passage, in as few words as possible.\n\n"
            "{passages}\nQuestion: {question}\nassistant:\n{answer}"
        ),
        name="chat",
    ),
}
"""Those that have a name: what `reader.template` offers beside files."""


def find_template(name: str) -> Template:
    """A template by its name, from a file, or as its text.

    Args:
        name: of `TEMPLATES`, the path of a text file, or a template's text, as a run keeps that of a file.

    Raises:
        DataError: there is neither; a field that is unknown, missing or out of place.
    """
    if name in TEMPLATES:
        return TEMPLATES[name]
    if f"{{{QUESTION}}}" in name:
        parse_template(name)
        return Template(together=name, alone=name)
    path = Path(name).expanduser()
    if not path.exists():
        raise DataError(
            f"{name!r} is no template's name, and {path.absolute()} does not exist; choose one of: "
            f"{', '.join(TEMPLATES)}, or give the path of a template file"
        )
    text = "\n".join(line for _, line in numbered_lines(existing_file(path, "template file")))
    parse_template(text, str(path))
    return Template(together=text, alone=text, name=str(path))


def parse_template(text: str, name: str = "template") -> list[Turn]:
    """The turns of a template's text; one without a role where it is no chat.

    Args:
        text: with fields.
        name: for messages.

    Raises:
        DataError: a field that is unknown, missing or out of place, or broken braces.
    """
    turns = [_parse_turn(role, lines, name) for role, lines in _split_turns(text, name)]
    _check_fields(turns, name)
    if turns[-1].role not in (None, ASSISTANT) or turns[0].role == ASSISTANT:
        raise DataError(
            f"{name}: a chat begins with a line 'system:' or 'user:', and ends with a line 'assistant:' and "
            "what is answered, {answer}"
        )
    return turns


def _split_turns(text: str, name: str) -> list[tuple[str | None, list[tuple[int, str]]]]:
    """Each role with its numbered lines, blank ones at both ends left out."""
    turns: list[tuple[str | None, list[tuple[int, str]]]] = [(None, [])]
    for number, line in enumerate(text.split("\n"), start=1):
        found = _ROLE.fullmatch(line)
        if found is not None:
            turns.append((found[1], []))
        else:
            turns[-1][1].append((number, line))
    turns = [(role, _without_blank_ends(lines)) for role, lines in turns]
    if len(turns) > 1:
        first = turns.pop(0)[1]
        if first:
            raise DataError(
                f"{name}, line {first[0][0]}: text before the first role; begin with a line 'system:' or "
                "'user:'"
            )
    for role, lines in turns:
        if not lines:
            raise DataError(f"{name}: nothing stands below {role}:" if role else f"{name} is empty")
    return turns


def _without_blank_ends(lines: list[tuple[int, str]]) -> list[tuple[int, str]]:
    filled = [i for i, (_, line) in enumerate(lines) if line.strip()]
    if not filled:
        return []
    kept = lines[filled[0] : filled[-1] + 1]
    kept[0] = (kept[0][0], kept[0][1].lstrip())
    kept[-1] = (kept[-1][0], kept[-1][1].rstrip())
    return kept


def _parse_turn(role: str | None, lines: Sequence[tuple[int, str]], name: str) -> Turn:
    parsed = [list(_parse_line(line, f"{name}, line {number}")) for number, line in lines]
    for pieces in parsed[:-1]:
        pieces.append(Words("\n"))
    of_passage = [i for i, pieces in enumerate(parsed) if any(map(_is_of_passage, pieces))]
    if not of_passage:
        return Turn(role, _joined(parsed))
    first, end = of_passage[0], of_passage[-1] + 1
    if end == len(parsed) and not any(_is_answer(piece) for piece in parsed[-1]):
        parsed[-1].append(Words("\n"))
    return Turn(role, _joined(parsed[:first]), _joined(parsed[first:end]), _joined(parsed[end:]))


def _parse_line(line: str, where: str) -> Iterator[Piece]:
    for short, meaning in _SHORT_FOR.items():
        line = re.sub(rf"(?<!{{){{{short}}}(?!}})", lambda _, meaning=meaning: meaning, line)  # type: ignore[misc]
    try:
        parsed = list(Formatter().parse(line))
    except ValueError as error:
        raise DataError(f"{where}: {error}; write {{{{ and }}}} for braces that begin no field") from error
    for words, name, form, conversion in parsed:
        if name is None:
            yield Words(words)
            continue
        if name not in _FIELDS or form or conversion:
            raise DataError(
                f"{where}: unknown field {{{name}}}; the fields are {_named(_FIELDS)}, and {{{{ and }}}} "
                "stand for braces"
            )
        space = " " if words.endswith(" ") else ""
        if words.removesuffix(" "):
            yield Words(words.removesuffix(" "))
        yield Field(name, space)


def _check_fields(turns: Sequence[Turn], name: str) -> None:
    pieces = [piece for turn in turns for piece in turn.pieces]
    names = [piece.name for piece in pieces if isinstance(piece, Field)]
    for needed in (QUESTION, TEXT, ANSWER):
        if needed not in names:
            whole = "{passages}, {passage} or {text}" if needed == TEXT else f"{{{needed}}}"
            raise DataError(
                f"{name}: {whole} is missing; a template needs {{question}}, passages and {{answer}}"
            )
    if names.count(ANSWER) > 1 or not _is_answer(pieces[-1]):
        raise DataError(
            f"{name}: {{answer}} is where the reader answers: once, at the end, with nothing after it"
        )
    if sum(bool(turn.block) for turn in turns) > 1:
        raise DataError(f"{name}: the passages are shown in two messages; show them in one")


def form_of(turns: Sequence[Turn], wrapping: Sequence[str] = ("",)) -> Form:
    """The prompt that turns make together.

    Args:
        turns: the last of which ends with the answer.
        wrapping: what the chat template says before each; "" where it is no chat.
    """
    before: list[Piece] = []
    block: list[Piece] = []
    after: list[Piece] = []
    now = before
    for words, turn in zip(wrapping, turns, strict=True):
        now += [Words(words, is_of_chat=True)] if words else []
        now += turn.before
        if turn.block:
            block, now = list(turn.block), after
            now += turn.after
    parts = [before, block, after]
    part = next(part for part in reversed(parts) if part)
    answer = part.pop()
    assert _is_answer(answer), "a template ends with the answer"
    assert isinstance(answer, Field), "which is a field"
    _mark_last_question(parts)
    return Form(tuple(before), tuple(block), tuple(after), answer.space)


def _mark_last_question(parts: Sequence[list[Piece]]) -> None:
    for part in reversed(parts):
        for i in range(len(part) - 1, -1, -1):
            piece = part[i]
            if isinstance(piece, Field) and piece.name == QUESTION:
                part[i] = replace(piece, is_last=True)
                return


def _joined(lines: Sequence[Sequence[Piece]]) -> tuple[Piece, ...]:
    """The pieces of all lines, neighbouring words as one."""
    joined: list[Piece] = []
    for piece in (piece for line in lines for piece in line):
        if joined and isinstance(piece, Words) and isinstance(joined[-1], Words):
            joined[-1] = Words(joined[-1].text + piece.text)
        else:
            joined.append(piece)
    return tuple(joined)


def _is_of_passage(piece: Piece) -> bool:
    return isinstance(piece, Field) and piece.name in (TITLE, TEXT)


def _is_answer(piece: Piece) -> bool:
    return isinstance(piece, Field) and piece.name == ANSWER


def _named(fields: Sequence[str]) -> str:
    return ", ".join(f"{{{name}}}" for name in fields)
