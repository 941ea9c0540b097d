"""Files and folders that appear whole or not at all, whatever is killed or fails when."""

import glob
import os
import re
import shutil
import socket
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from datamodules.errors import DataError

WRITTEN_IN_PART = re.compile(
    r"PytorchStreamWriter failed writing|inline_container.* unexpected pos|basic_ios::clear|"
    r"\d+ requested and \d+ written"
)
"""What torch, in three places, and NumPy make of the system's word for a full disk."""
_DAY_S = 86400.0
_LIFE = uuid.uuid4().hex[:8]
"""Of this process, whose number an earlier one may have had, as in a container that is started again."""


@contextmanager
def durably(path: Path, keep_old_as: Path | None = None) -> Iterator[Path]:
    """Inside, the place to write a file to; at the end it takes its name, whatever is killed or fails when.

    It is written beside its place, so that no other disk is needed, and is on the disk when it takes its
    name. An error leaves what was there before, and nothing else.

    Args:
        path: of the file, in a folder that is there.
        keep_old_as: the name of what was there before; None = it goes.

    Raises:
        OSError: it cannot be written.
    """
    delete_partials_of_dead(path)
    partial = partial_beside(path)
    try:
        yield partial
        flush_to_disk(partial)
        if keep_old_as is not None and path.is_file():
            path.replace(keep_old_as)
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)
    flush_to_disk(path.parent)


def partial_beside(path: Path) -> Path:
    """A name for what becomes a file, or a folder, when it is whole.

    The machine and the process in the name tell whether it is still being written.
    """
    return path.with_name(f".{path.name}.{_host()}.{os.getpid()}.{_LIFE}{uuid.uuid4().hex[:8]}.partial")


def delete_partials_of_dead(path: Path) -> None:
    """Deletes what killed processes had begun to write; `*` for a name means whatever is in the folder.

    Those of other machines may be alive, as long as something of theirs was written within a day.
    """
    name = path.name if path.name == "*" else glob.escape(path.name)
    for left in path.parent.glob(f".{name}.*.*.*.partial"):
        if _may_be_alive(left):
            continue
        if left.is_dir():
            shutil.rmtree(left, ignore_errors=True)
        else:
            left.unlink(missing_ok=True)


def _may_be_alive(partial: Path) -> bool:
    """Whether somebody may be writing it still."""
    host, process, number = partial.name.split(".")[-4:-1]
    if not process.isdecimal():  # named by somebody else
        return True
    if host != _host():
        return age_s(partial) < _DAY_S
    if int(process) == os.getpid():
        return number.startswith(_LIFE)
    return is_alive(int(process))


def _host() -> str:
    """The machine, without the dots that part a name."""
    return socket.gethostname().replace(".", "-")


def age_s(path: Path) -> float:
    """Since a file, or something in a folder, was written last."""
    try:
        return time.time() - max(each.stat().st_mtime for each in (path, *path.glob("*")))
    except OSError:  # gone meanwhile
        return 0.0


def is_alive(process: int) -> bool:
    """Whether a process of this machine is running."""
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except (PermissionError, OverflowError):
        pass
    return True


def flush_to_disk(path: Path) -> None:
    """Also of a folder, whose entries are what is flushed."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_durably(path: Path, text: str) -> None:
    """Writes a text, whole or not at all; a missing folder is made.

    Raises:
        DataError: it cannot be written.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with durably(path) as partial:
            partial.write_text(text, encoding="utf-8")
    except OSError as error:
        raise cannot_write(path, error) from error


def cannot_write(path: Path, error: Exception) -> DataError:
    """The message for a full disk, a folder that is read-only, and their like."""
    reason = getattr(error, "strerror", None) or error
    if WRITTEN_IN_PART.search(str(reason)):
        reason = "it could not be written whole, probably for want of space"
    return DataError(f"{path} cannot be written ({reason}); free the disk, or choose another folder")
