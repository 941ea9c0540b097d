"""Lines of plain and gzipped text files, with the line numbers that error messages need."""

import gzip
import io
import json
import re
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from datamodules.errors import DataError

_BOM = b"\xef\xbb\xbf"
_GZIP_MAGIC = b"\x1f\x8b"

_SPACE = re.compile(r"[ \t\n\r]*")
_BLOCK_LENGTH = 1 << 20
_DECODER = json.JSONDecoder()
_LONGEST_VALUE = 1 << 26
"""What is longer and still no whole JSON is broken, and not read to the file's end to find out."""


def existing_file(path: Path | str, what: str) -> Path:
    """The path of a file that is there.

    Args:
        path: where to look; `~` is the home folder.
        what: what the file holds, for the message ("question file").

    Raises:
        DataError: there is no file at `path`.
    """
    path = Path(path).expanduser()
    if not path.is_file():
        found = "is a folder" if path.is_dir() else "does not exist"
        raise DataError(f"{what} {path.absolute()} {found}; give the path of a readable file")
    return path


def format_suffix(path: Path) -> str:
    """The suffix that tells the format, lower case: `.csv` of `train.CSV` and of `train.csv.gz`."""
    name = path.with_suffix("") if path.suffix.lower() == ".gz" else path
    return name.suffix.lower()


def numbered_lines(path: Path) -> Iterator[tuple[int, str]]:
    """Yields (line number from 1, line without its end), blank lines included.

    Gzip is told by its first bytes, whatever the name. LF and CRLF both end a line; a byte order mark is
    dropped.

    Raises:
        DataError: the file cannot be read, is damaged, or holds a line that is not UTF-8.
    """
    number = 0
    try:
        with path.open("rb") as file, _decompressed(file) as lines:
            for number, line in enumerate(lines, start=1):
                text = line.removeprefix(_BOM) if number == 1 else line
                yield number, text.decode("utf-8").rstrip("\r\n")
    except UnicodeDecodeError as error:
        raise DataError(
            f"{path}, line {number}: not UTF-8 ({error.reason}); convert the file to UTF-8"
        ) from error
    except (OSError, EOFError, zlib.error) as error:
        raise DataError(
            f"{path}, after line {number}: cannot be read ({error}); is the file whole?"
        ) from error


def first_line(path: Path) -> str:
    """The first line that is not blank, without white space around it; "" of a file without one."""
    return next((line.strip() for _, line in numbered_lines(path) if line.strip()), "")


def json_objects(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    """Yields (line number from 1, object) of a JSON-lines file, leaving out blank lines.

    Raises:
        DataError: as `numbered_lines`, or a line is not one JSON object.
    """
    for number, line in numbered_lines(path):
        if not line.strip():
            continue
        value = parse_json(line, f"{path}, line {number}", "every line must be one whole JSON object")
        if not isinstance(value, dict):
            raise DataError(
                f"{path}, line {number}: a JSON {type(value).__name__}; every line must be one JSON object"
            )
        if "\\u" in line:
            _refuse_lone_surrogates(value, f"{path}, line {number}")
        yield number, value


def json_items(path: Path) -> Iterator[tuple[int, Any]]:
    """Yields (number from 1, value) of a file that is one JSON list, read one after another.

    Memory is that of some values, or of the longest line: DPR's training file has 8 GB.

    Raises:
        DataError: as `numbered_lines`, or it is not one JSON list.
    """
    text = _JsonText(path)
    if text.peek() != "[":
        raise DataError(f"{path}: not one JSON list of objects; choose another format")
    text.skip()
    number = 0
    while text.peek() != "]":
        number += 1
        if number > 1:
            if text.peek() != ",":
                raise DataError(
                    f"{path}, after object {number - 1}: broken JSON (neither a comma nor the list's end "
                    "follows); is the file whole?"
                )
            text.skip()
        yield number, text.value(f"{path}, object {number}")
    text.skip()
    if text.peek():
        raise DataError(f"{path}: broken JSON (more follows after the list's end); is the file whole?")


class _JsonText:
    """A JSON file's text, of which no more is kept than what is not read yet, and a block."""

    def __init__(self, path: Path) -> None:
        self._blocks = _blocks(path)
        self._text, self._place = "", 0

    def peek(self) -> str:
        """The next character that is no space; "" at the end."""
        while True:
            space = _SPACE.match(self._text, self._place)
            assert space is not None
            self._place = space.end()
            if self._place < len(self._text):
                return self._text[self._place]
            if not self._grow():
                return ""

    def skip(self) -> None:
        """Goes over one character."""
        self._place += 1

    def value(self, where: str) -> Any:
        """The next value.

        Raises:
            DataError: there is none, or a broken one.
        """
        self.peek()
        with _json_errors(where, "is the file whole?"):
            value, end = self._decoded()
        if "\\u" in self._text[self._place : end]:
            _refuse_lone_surrogates(value, where)
        self._place = end
        return value

    def _decoded(self) -> tuple[Any, int]:
        """The next value, and where it ends."""
        while True:
            try:
                return _DECODER.raw_decode(self._text, self._place)
            except json.JSONDecodeError as error:
                # most often the rest of it is in the next block
                if len(self._text) - self._place > _LONGEST_VALUE or not self._grow():
                    # without the place, which is not that in the file
                    raise ValueError(error.msg) from error

    def _grow(self) -> bool:
        block = next(self._blocks, None)
        if block is not None:
            self._text, self._place = self._text[self._place :] + block, 0
        return block is not None


def _blocks(path: Path) -> Iterator[str]:
    """Whole lines, of a length together that is read at once."""
    lines: list[str] = []
    length = 0
    for _, line in numbered_lines(path):
        lines.append(line)
        length += len(line)
        if length >= _BLOCK_LENGTH:
            yield "\n".join([*lines, ""])
            lines, length = [], 0
    yield "\n".join(lines)


def parse_json(text: str, where: str, way_out: str) -> Any:
    """What a JSON text holds.

    Args:
        text: the JSON.
        where: it stands, for the message: a file, and the line of it.
        way_out: the end of the message.

    Raises:
        DataError: it is no JSON, or one that is nested too deep to be read.
    """
    with _json_errors(where, way_out):
        return json.loads(text)


@contextmanager
def _json_errors(where: str, way_out: str) -> Iterator[None]:
    """Inside, JSON that cannot be read is an error of the data; see `parse_json`."""
    try:
        yield
    except ValueError as error:
        raise DataError(f"{where}: broken JSON ({error}); {way_out}") from error
    except RecursionError as error:
        raise DataError(f"{where}: JSON that is nested too deep to be read; {way_out}") from error


def _decompressed(file: io.BufferedReader) -> io.BufferedReader:
    if file.peek(2)[:2] != _GZIP_MAGIC:
        return file
    # GzipFile reads lines through Python code; a BufferedReader around it does it in C.
    return io.BufferedReader(gzip.GzipFile(fileobj=file))


def _refuse_lone_surrogates(value: Any, where: str) -> None:
    """JSON can spell half a character (`\\ud83d`), which no tokenizer and no file can take."""
    try:
        json.dumps(value, ensure_ascii=False).encode("utf-8")
    except RecursionError as error:
        raise DataError(f"{where}: JSON that is nested too deep to be read") from error
    except UnicodeEncodeError as error:
        raise DataError(f"{where}: holds half of a surrogate pair; write the character in UTF-8") from error
