"""Files that a run writes and reads back, known to be as they were written.

Three ways to know, by what a file is for. A binary file is *sealed*: checksums of its blocks lie behind its
content, where the programs that read it do not look. A JSON object or a YAML file holds its own checksum. Of
files that others read line by line, and of folders of files, somebody else keeps the checksums.
"""

import hashlib
import json
import os
import re
import shutil
import struct
import zlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import numpy as np

from datamodules.durable_files import (
    cannot_write,
    delete_partials_of_dead,
    flush_to_disk,
    partial_beside,
    write_durably,
)
from datamodules.errors import DataError

CHECKSUM = "checksum"
"""The key, and the word in a comment, that a text's own checksum stands behind."""

_CHECKSUMS = "checksums.json"
"""Within a folder: of its files, by name."""
_BLOCK_BYTES = 1 << 20
_BLOCK = np.dtype([("end", "<u8"), ("crc", "<u4")])
_FOOTER = struct.Struct("<QI8s")  # blocks, CRC of what is said of them, `_MAGIC`
_MAGIC = b"SEALED.1"
_COMMENT = re.compile(rf"^# {CHECKSUM}: ([0-9a-f]{{32}})\n?", re.MULTILINE)


class DamagedFileError(DataError):
    """A file is not what was written; the message names it, and who catches it knows what to do about it."""


# ---- binary files ----


def crc(content: Any) -> int:
    """CRC-32 of bytes or an array: of two that differ in one byte, or in 32 bits in a row, never the same."""
    return zlib.crc32(content)


def seal(path: Path, ends: Sequence[int] | None = None) -> None:
    """Writes checksums of a file's blocks behind its content.

    Args:
        path: of the file.
        ends: of each block, in bytes; None = blocks of 1 MiB.

    Raises:
        OSError: the disk is full.
    """
    size = path.stat().st_size
    if ends is None:
        ends = [*range(_BLOCK_BYTES, size, _BLOCK_BYTES), *([size] if size else [])]
    assert list(ends[-1:]) == ([size] if size else []), "the last block ends the file"
    table = np.zeros(len(ends), dtype=_BLOCK)
    table["end"] = ends
    with path.open("r+b") as file:
        for number, end in enumerate(ends):
            table["crc"][number] = _crc_of_next(file, end - file.tell())
        said = table.tobytes()
        file.write(said + _FOOTER.pack(len(table), crc(said), _MAGIC))


def _crc_of_next(file: Any, num_bytes: int) -> int:
    found = 0
    while num_bytes > 0:
        chunk = file.read(min(num_bytes, _BLOCK_BYTES))
        if not chunk:
            raise OSError("the file became shorter while it was read")
        found, num_bytes = zlib.crc32(chunk, found), num_bytes - len(chunk)
    return found


class SealedFile:
    """A file that `seal` has sealed.

    Args:
        path: of the file.

    Attributes:
        path: of the file.
        size: of its content, in bytes.
        ends: of its blocks, in bytes.

    Raises:
        FileNotFoundError: there is none.
        DamagedFileError: it has no seal, or not that of its size.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            with path.open("rb") as file:
                total = file.seek(0, os.SEEK_END)
                table = _read_seal(file, total)
        except FileNotFoundError:
            raise
        except (OSError, ValueError) as error:
            raise DamagedFileError(f"{path} is damaged: {error}") from error
        self.ends: list[int] = table["end"].tolist()
        self._crcs: list[int] = table["crc"].tolist()
        self.size = self.ends[-1] if self.ends else 0

    def check(self, block: int, content: Any) -> None:
        """Compares the content of one block with its checksum.

        Raises:
            DamagedFileError: names the file and the bytes.
        """
        if crc(content) != self._crcs[block]:
            first, last = self.ends[block - 1] if block else 0, self.ends[block] - 1
            raise DamagedFileError(
                f"{self.path} is damaged: bytes {first:,} to {last:,} are not what was written"
            )

    def verify(self) -> None:
        """Reads the whole file and compares all of it.

        Raises:
            DamagedFileError: names the file and the first bytes that differ.
        """
        try:
            with self.path.open("rb") as file:
                for block, end in enumerate(self.ends):
                    self.check(block, file.read(end - file.tell()))
        except OSError as error:
            raise DamagedFileError(f"{self.path} cannot be read ({error.strerror})") from error


def _read_seal(file: Any, total: int) -> np.ndarray:
    """What is said of the blocks."""
    if total < _FOOTER.size:
        raise ValueError("it is cut short")
    file.seek(total - _FOOTER.size)
    count, sum_of_table, magic = _FOOTER.unpack(file.read(_FOOTER.size))
    start = total - _FOOTER.size - count * _BLOCK.itemsize
    if magic != _MAGIC or start < 0:
        raise ValueError("it ends without the checksums that were written behind it; was it cut short?")
    file.seek(start)
    said = file.read(count * _BLOCK.itemsize)
    table = np.frombuffer(said, dtype=_BLOCK)
    if crc(said) != sum_of_table or start != (int(table["end"][-1]) if count else 0):
        raise ValueError("what is written behind it is not of this file")
    return table


# ---- texts ----


def checksum(content: Any) -> str:
    """BLAKE2b of 16 bytes, hexadecimal, of anything that gives its bytes."""
    return hashlib.blake2b(content, digest_size=16).hexdigest()


def write_json(path: Path, content: Mapping[str, Any]) -> None:
    """Writes a JSON object with its checksum, whole or not at all.

    Raises:
        DataError: it cannot be written.
    """
    write_durably(path, json.dumps({**content, CHECKSUM: _checksum_of(content)}, indent=2) + "\n")


def read_json(path: Path) -> dict[str, Any]:
    """What `write_json` was given. An object without a checksum, such as one edited by hand, passes.

    Raises:
        FileNotFoundError: there is none.
        DamagedFileError: it is no JSON object, or not the one that was written.
    """
    read = _read_bytes(path)
    try:
        content = json.loads(read.decode("utf-8"))
    except RecursionError as error:
        raise DamagedFileError(f"{path} is damaged: JSON nested too deep") from error
    except ValueError as error:
        raise DamagedFileError(f"{path} is damaged: no JSON ({error})") from error
    if not isinstance(content, dict):
        raise DamagedFileError(
            f"{path} is damaged: a JSON {type(content).__name__} in the place of an object"
        )
    written = content.pop(CHECKSUM, None)
    if written is not None and written != _checksum_of(content):
        raise DamagedFileError(f"{path} is damaged: it is not what was written (its checksum differs)")
    return content


def _read_bytes(path: Path) -> bytes:
    """A whole file.

    Raises:
        FileNotFoundError: there is none.
        DamagedFileError: it cannot be read.
    """
    try:
        return path.read_bytes()
    except FileNotFoundError:
        raise
    except OSError as error:
        raise DamagedFileError(f"{path} cannot be read ({error.strerror})") from error


def json_line(content: Mapping[str, Any]) -> str:
    """A line of a file that is added to, with its own checksum."""
    return json.dumps({**content, CHECKSUM: _checksum_of(content)}) + "\n"


def read_json_lines(path: Path) -> list[dict[str, Any] | None]:
    """What `json_line` was given, line by line; None for a line that is damaged, or was never whole.

    Raises:
        FileNotFoundError: there is no such file.
        DamagedFileError: it cannot be read.
    """
    return [_parse_json_line(line) for line in _read_bytes(path).splitlines(keepends=True)]


def _parse_json_line(line: bytes) -> dict[str, Any] | None:
    try:
        content = json.loads(line)
        is_whole = line.endswith(b"\n") and content.pop(CHECKSUM) == _checksum_of(content)
    except (ValueError, RecursionError, KeyError, TypeError, AttributeError):
        return None
    return content if is_whole else None


def _checksum_of(content: Mapping[str, Any]) -> str:
    # a half of a surrogate pair is spelled out in ASCII, and keys that are no strings become some
    plain = json.loads(json.dumps(content))
    return checksum(json.dumps(plain, sort_keys=True).encode())


def with_checksum(text: str) -> str:
    """A text with its checksum as a comment in its first line, which is there still where the end is not."""
    return f"# {CHECKSUM}: {checksum(text.encode())}\n{text}"


def read_with_checksum(path: Path) -> str:
    """The text that `with_checksum` was given. One without a checksum passes.

    Raises:
        FileNotFoundError: there is none.
        DamagedFileError: it is not what was written.
    """
    read = _read_bytes(path)
    try:
        text = read.decode("utf-8")
    except UnicodeDecodeError as error:
        raise DamagedFileError(f"{path} is damaged: not UTF-8 ({error.reason})") from error
    lines = _COMMENT.findall(text)
    content = _COMMENT.sub("", text)
    if CHECKSUM in content or (lines and lines != [checksum(content.encode())]):
        raise DamagedFileError(f"{path} is damaged: it is not what was written (its checksum differs)")
    return content


def has_checksum(path: Path) -> bool:
    """Whether a text has `with_checksum`'s line, so that `read_with_checksum` gives it as it was written."""
    return _COMMENT.search(path.read_text(encoding="utf-8")) is not None


# ---- files whose checksums somebody else keeps ----


def checksums_of(folder: Path, files: Iterable[Path]) -> dict[str, str]:
    """Checksum by name within a folder, for `verify_files`."""
    return {file.relative_to(folder).as_posix(): _checksum_of_file(file) for file in sorted(files)}


def verify_files(folder: Path, checksums: Mapping[str, str]) -> None:
    """Compares files with what `checksums_of` said of them.

    Raises:
        DamagedFileError: names the first that differs or is gone.
    """
    for name, wanted in checksums.items():
        path = folder / name
        try:
            found = _checksum_of_file(path)
        except (OSError, ValueError) as error:  # the second for a name that is none
            reason = getattr(error, "strerror", None) or error
            raise DamagedFileError(f"{path} cannot be read ({reason})") from error
        if found != wanted:
            raise DamagedFileError(f"{path} is damaged: it is not what was written (its checksum differs)")


@contextmanager
def whole_folder(folder: Path) -> Iterator[Path]:
    """Inside, the place to write a folder's files to; at the end it takes its name, with a checksum of each.

    Where there is a whole one by then, of another process, that one stays; a damaged one is replaced.

    Args:
        folder: which is made, and what it is in.

    Raises:
        DataError: it cannot be written.
    """
    partial = partial_beside(folder)
    try:
        partial.mkdir(parents=True)
        delete_partials_of_dead(folder)
        yield partial
        files = [path for path in partial.rglob("*") if path.is_file()]
        write_json(partial / _CHECKSUMS, checksums_of(partial, files))
        for path in files:
            flush_to_disk(path)
        _take_place(partial, folder)
    except OSError as error:
        raise cannot_write(folder, error) from error
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def _take_place(partial: Path, folder: Path) -> None:
    damaged = partial_beside(folder)
    for is_last in (False, False, True):  # others may be doing the same
        try:
            partial.rename(folder)
        except OSError:
            if is_last:
                raise
        else:
            break
        with suppress(FileNotFoundError, DamagedFileError):
            verify_folder(folder)
            return
        with suppress(OSError):
            folder.rename(damaged)
    shutil.rmtree(damaged, ignore_errors=True)


def verify_folder(folder: Path) -> None:
    """Compares all files of a folder that `whole_folder` wrote with their checksums.

    Raises:
        FileNotFoundError: there is no such folder.
        DamagedFileError: it is not what was written.
    """
    try:
        checksums = read_json(folder / _CHECKSUMS)
    except FileNotFoundError as error:
        if not folder.is_dir():
            raise
        raise DamagedFileError(f"{folder} is damaged: it has no {_CHECKSUMS}") from error
    verify_files(folder, checksums)


def _checksum_of_file(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, lambda: hashlib.blake2b(digest_size=16)).hexdigest()
