"""What a downloaded file was like when it was whole, and whether it still is.

The record of `nq-train.qa.csv` is `nq-train.qa.csv.sha256`, which `sha256sum --check` can read, too.
"""

import hashlib
import re
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from datamodules.errors import DataError

# Told how many bytes are done, and how many there are, where that is known.
Progress = Callable[[int, int | None], None]

# Makes, from a file's name, what shows the progress of its download while the context lasts.
ProgressMaker = Callable[[str], AbstractContextManager[Progress]]

CHUNK_BYTES = 1 << 20
_RECORD = re.compile(r"# (\d+) bytes from .*\n([0-9a-f]{64})  .*\n")


class Digests:
    """SHA-256 of the bytes it is given, and the digest that a published checksum needs.

    Args:
        checksum: published one, "md5:..." or "sha256:...".
    """

    def __init__(self, checksum: str | None = None) -> None:
        self._published = checksum
        algorithms = {"sha256", *([checksum.partition(":")[0]] if checksum else [])}
        self._digests = {algorithm: hashlib.new(algorithm) for algorithm in algorithms}

    def update(self, chunk: bytes) -> None:
        """Takes in the next bytes."""
        for digest in self._digests.values():
            digest.update(chunk)

    def update_from(self, file: IO[bytes], progress: Progress | None = None, size: int | None = None) -> None:
        """Takes in the rest of an open file."""
        while chunk := file.read(CHUNK_BYTES):
            self.update(chunk)
            if progress:
                progress(file.tell(), size)

    @property
    def sha256(self) -> str:
        """Hexadecimal."""
        return self._digests["sha256"].hexdigest()

    def compare(self, path: Path, remedy: str) -> None:
        """Refuses bytes that do not have the published checksum.

        Raises:
            DataError: names the file, both sums and the remedy.
        """
        if self._published:
            algorithm, _, expected = self._published.partition(":")
            found = self._digests[algorithm].hexdigest()
            _refuse_difference(path, algorithm, found, expected, "published", remedy)


@dataclass(frozen=True)
class _Record:
    num_bytes: int
    sha256: str


def write_record(path: Path, url: str, sha256: str | None = None) -> None:
    """Keeps size and SHA-256 of a whole file beside it.

    Args:
        path: the file.
        url: where it came from.
        sha256: its sum, where it is known already; else the file is read.
    """
    if sha256 is None:
        digests = Digests()
        with path.open("rb") as file:
            digests.update_from(file)
        sha256 = digests.sha256
    record = record_file(path)
    partial = record.with_name(f"{record.name}.partial")
    partial.write_text(f"# {path.stat().st_size} bytes from {url}\n{sha256}  {path.name}\n")
    partial.replace(record)


def record_file(path: Path) -> Path:
    """Where the record of a file is, or would be."""
    return path.with_name(f"{path.name}.sha256")


def recorded_sha256(path: Path) -> str | None:
    """What the record of a file says; None = it has none.

    Raises:
        DataError: the record is broken.
    """
    record = _read_record(path)
    return None if record is None else record.sha256


def check_size(path: Path) -> None:
    """The cheap check: a file has the size that it was downloaded with. Files without a record pass.

    Raises:
        DataError: it has another.
    """
    record = _read_record(path)
    size = path.stat().st_size
    if record and size != record.num_bytes:
        raise DataError(f"{path}: {size:,} bytes, {record.num_bytes:,} when it was downloaded; {_mend(path)}")


def verify_file(path: Path, checksum: str | None = None, progress: Progress | None = None) -> str:
    """The whole check: reads a file and compares it with its record and with a published checksum.

    Args:
        path: the file.
        checksum: published one, "md5:..." or "sha256:...".
        progress: see `Progress`.

    Returns:
        Its SHA-256.

    Raises:
        DataError: it differs from either.
    """
    check_size(path)
    digests = Digests(checksum)
    with path.open("rb") as file:
        digests.update_from(file, progress, path.stat().st_size)
    digests.compare(path, "delete the file and download it again")
    record = _read_record(path)
    if record:
        _refuse_difference(path, "sha256", digests.sha256, record.sha256, "recorded", _mend(path))
    return digests.sha256


def _refuse_difference(path: Path, algorithm: str, found: str, expected: str, what: str, remedy: str) -> None:
    if found != expected:
        raise DataError(f"{path}: its {algorithm} is {found}, the {what} one is {expected}; {remedy}")


def _mend(path: Path) -> str:
    return (
        f"delete the file and download it again, or delete {record_file(path).name} if you changed the file"
    )


def _read_record(path: Path) -> _Record | None:
    record = record_file(path)
    if not record.is_file():
        return None
    found = _RECORD.fullmatch(record.read_text(encoding="utf-8", errors="replace"))
    if not found:
        raise DataError(f"{record}: not a record of size and SHA-256; delete it")
    return _Record(int(found[1]), found[2])
