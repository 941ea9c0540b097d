"""Lists of attention heads by published methods: those that are shipped here, and files of other readers."""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from transformers import PreTrainedModel

from datamodules.choices import Choice
from datamodules.sealed_files import DamagedFileError, read_json, write_json
from lightning_modules.attention_heads import AttentionHeads, HeadSource
from lightning_modules.fingerprint import model_fingerprint
from lightning_modules.metrics.head_methods import HEAD_METHODS

SHIPPED = Path(__file__).parent
SUFFIX = ".json"
"""By which a text is known to name a file."""

_PLACE = re.compile(r"(\d+)\.(\d+)")
_COMMAND = "python -m experiments.select_heads --exp NAME"


class HeadRows(Choice):
    """Whose attention to the passages a head is judged by."""

    QUESTION = "question"
    """The rows of the question's tokens, as the published methods do."""
    ANSWER = "answer"
    """The rows that predict the answer."""


@dataclass(frozen=True)
class HeadList:
    """All heads of a reader in the order of their scores, and where that comes from.

    Attributes:
        method: of `HEAD_METHODS`.
        rows: of the attention that was scored.
        num_heads: how many of the best are meant where nothing else is said.
        num_questions: that they were scored on, each with a positive and a negative passage.
        reader: what the reader was called; for people.
        fingerprint: of the reader (`model_fingerprint`).
        version: of this suite, where it is known.
        held_out: what the best heads were worth on questions held out from their choice; for people.
        heads: score of each head, named `layer.head`, the best first.
    """

    method: str
    rows: HeadRows
    num_heads: int
    num_questions: int
    reader: str
    fingerprint: str
    version: str | None
    held_out: list[dict[str, Any]]
    heads: dict[str, float]

    def best(self, num_heads: int) -> AttentionHeads:
        """The best heads, as many as are asked for and there are."""
        places = sorted(tuple(map(int, name.split("."))) for name in list(self.heads)[:num_heads])
        return AttentionHeads(
            tuple((range(layer, layer + 1), range(head, head + 1)) for layer, head in places)
        )

    def save(self, path: Path) -> None:
        """Writes JSON with its checksum, whole or not at all."""
        write_json(path, {**vars(self), "rows": str(self.rows)})


def read_head_list(path: Path) -> HeadList:
    """The list in a file.

    Raises:
        ValueError: there is no such file, or it holds something else.
    """
    try:
        found = read_json(path)
        listed = HeadList(**{**found, "rows": HeadRows(found["rows"])})
        is_whole = bool(listed.heads) and listed.num_heads >= 1 and all(map(_PLACE.fullmatch, listed.heads))
    except OSError as error:
        raise ValueError(f"cannot read the list of heads {path} ({error.strerror})") from error
    except DamagedFileError as error:
        raise ValueError(f"the list of heads {error}; give a file that {_COMMAND} wrote") from error
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        is_whole = False
    if not is_whole:
        raise ValueError(f"{path} holds no list of heads; give a file that {_COMMAND} wrote")
    return listed


def shipped_lists() -> Iterator[HeadList]:
    """All lists that come with this suite."""
    for path in sorted(SHIPPED.glob(f"*{SUFFIX}")):
        yield read_head_list(path)


def shipped_list(method: str, model: PreTrainedModel) -> HeadList | None:
    """The list of a model's heads by a published method that comes with this suite, if one does.

    Args:
        method: of `HEAD_METHODS`; lists are of the question's rows, as published.
        model: told by its fingerprint.
    """
    wanted = method, HeadRows.QUESTION, model_fingerprint(model)
    for listed in shipped_lists():
        if (listed.method, listed.rows, listed.fingerprint) == wanted:
            return listed
    return None


@dataclass(frozen=True)
class ShippedHeads:
    """The best heads of a published method, for the readers that a list is shipped of.

    Attributes:
        method: of `HEAD_METHODS`; lists are of the question's rows, as published.
        num_heads: how many.
    """

    method: str
    num_heads: int

    def heads_of(self, model: PreTrainedModel) -> AttentionHeads:
        """See `HeadSource`."""
        listed = shipped_list(self.method, model)
        if listed is None:
            raise ValueError(
                f"attention_heads={self}: no list of this reader's heads is shipped; make one with "
                f"{_COMMAND} --method {self.method} --num-heads {self.num_heads}, and set attention_heads to "
                "the file that it writes"
            )
        if self.num_heads > len(listed.heads):
            raise ValueError(
                f"attention_heads={self}: this reader has {len(listed.heads)} heads; ask for fewer"
            )
        return listed.best(self.num_heads)

    def __str__(self) -> str:
        return f"{self.method}:{self.num_heads}"


@dataclass(frozen=True)
class ListedHeads:
    """The heads of a file, for the reader that it was made of.

    Attributes:
        path: of the file.
        listed: what it holds.
    """

    path: Path
    listed: HeadList

    def heads_of(self, model: PreTrainedModel) -> AttentionHeads:
        """See `HeadSource`."""
        if self.listed.fingerprint != model_fingerprint(model):
            raise ValueError(
                f"attention_heads={self}: these are heads of {self.listed.reader!r}, whose weights are "
                f"not those of this one; make a list of it with {_COMMAND}, and set attention_heads to the "
                "file that it writes"
            )
        return self.listed.best(self.listed.num_heads)

    def __str__(self) -> str:
        return str(self.path)


def parse_heads(text: str) -> HeadSource:
    """Which heads count: layers and heads, a published method with a number, or the path of a .json file.

    Raises:
        ValueError: the text is of no such form, or the file holds no list.

    Example:
        >>> str(parse_heads("layers:10-14")), str(parse_heads("qrhead:16"))
        ('10-14.*', 'qrhead:16')
    """
    text = text.strip()
    if text.endswith(SUFFIX):
        path = Path(text).expanduser()
        return ListedHeads(path, read_head_list(path))
    method, colon, number = text.partition(":")
    if colon and method in HEAD_METHODS:
        if not number.isascii() or not number.isdigit() or int(number) < 1:
            raise ValueError(f"{text!r} names no attention head; write {method}:16, for its best 16 heads")
        return ShippedHeads(method, int(number))
    try:
        return AttentionHeads.parse(text)
    except ValueError as error:
        methods = ", ".join(f"{name}:16" for name in HEAD_METHODS)
        raise ValueError(f"{error}, or {methods}, or the {SUFFIX} file of {_COMMAND}") from error
