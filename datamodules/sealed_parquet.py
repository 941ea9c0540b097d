"""Parquet files with a checksum before the footer, where the programs that read them do not look."""

import hashlib
import os
from pathlib import Path
from typing import Any

from datamodules.sealed_files import DamagedFileError

_MAGIC = b"SEALED.1"
_DIGEST_BYTES = 16
_CHUNK_BYTES = 1 << 20


def seal_parquet(path: Path) -> None:
    """Writes a checksum of a Parquet file before its footer, where the programs that read it do not look.

    Raises:
        OSError: the disk is full.
    """
    with path.open("r+b") as file:
        start = _start_of_footer(file)
        assert start is not None, "pyarrow has just written it"
        digest = _digest_but(file, start, start)
        file.seek(start)
        footer = file.read()
        file.seek(start)
        file.write(_MAGIC + digest + footer)


def verify_parquet(path: Path) -> None:
    """Compares a Parquet file with its checksum. One without, which something else wrote, passes.

    Raises:
        DamagedFileError: it is not what was written.
    """
    try:
        with path.open("rb") as file:
            start = _start_of_footer(file) or 0
            begin = start - len(_MAGIC) - _DIGEST_BYTES
            if begin < 0:
                return
            file.seek(begin)
            seal = file.read(start - begin)
            if not seal.startswith(_MAGIC):
                return
            if seal[len(_MAGIC) :] == _digest_but(file, begin, start):
                return
    except OSError as error:
        raise DamagedFileError(f"{path} cannot be read ({error.strerror})") from error
    raise DamagedFileError(f"{path} is damaged: it is not what was written (its checksum differs)")


def _start_of_footer(file: Any) -> int | None:
    """Where the metadata of a Parquet file begin, whose length stands before the last four bytes."""
    size = file.seek(0, os.SEEK_END)
    if size < 8:
        return None
    file.seek(size - 8)
    start = size - 8 - int.from_bytes(file.read(4), "little")
    return start if start >= 0 else None


def _digest_but(file: Any, begin: int, end: int) -> bytes:
    """BLAKE2b of a file without some of its bytes."""
    digest = hashlib.blake2b(digest_size=_DIGEST_BYTES)
    file.seek(0)
    while chunk := file.read(min(begin - file.tell(), _CHUNK_BYTES)):
        digest.update(chunk)
    file.seek(end)
    while chunk := file.read(_CHUNK_BYTES):
        digest.update(chunk)
    return digest.digest()
