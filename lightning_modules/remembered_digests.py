"""SHA-256 of large files, which are not read again while they are what they were."""

import contextlib
import hashlib
import os
import time
from pathlib import Path

from datamodules.durable_files import write_durably
from datamodules.errors import DataError

_SETTLED_NS = 2_000_000_000
"""Since its last change: file systems tell times in steps, within which another change would not show."""


def remembered_sha256(path: Path, folder: Path) -> str:
    """Of a file's bytes, hexadecimal.

    What was found is kept with the file's size, time of change and inode, and holds while these are the same.

    Args:
        path: of the file.
        folder: of what is kept; one that cannot be written keeps nothing.
    """
    stat = path.stat()
    state = f"{stat.st_size} {stat.st_mtime_ns} {stat.st_ino}"
    kept = folder / hashlib.sha256(os.fsencode(path.resolve())).hexdigest()[:32]
    with contextlib.suppress(OSError, ValueError):
        found, _, digest = kept.read_text(encoding="utf-8").rpartition(" ")
        if found == state:
            return digest
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    if time.time_ns() - stat.st_mtime_ns > _SETTLED_NS:
        with contextlib.suppress(DataError):
            write_durably(kept, f"{state} {digest}")
    return digest
