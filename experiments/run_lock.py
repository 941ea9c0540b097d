"""One process at a time works in a run's folder."""

import contextlib
import json
import os
import socket
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from datamodules.durable_files import is_alive
from datamodules.file_locks import try_lock
from experiments.config import ConfigError

LOCK_FILE = "run.lock"
_SAID_WITHIN_S = 2.0
"""Who has just got the lock writes next who it is."""


@contextlib.contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Inside, no other run works in a run's folder.

    The lock is the kernel's, which takes it back however its process ends; what the file says is for the
    message. Where a file system has no locks, the process that the file names counts for as long as it runs.

    Args:
        folder: of the run.

    Raises:
        ConfigError: another process works in it; names the process and its machine.
    """
    path = folder / LOCK_FILE
    try:
        descriptor = _lock(path)
    except OSError as error:
        raise ConfigError(
            f"{folder} cannot be written to ({error.strerror}); a run needs to write to its folder"
        ) from error
    try:
        _write(descriptor)
        yield
    finally:
        path.unlink(missing_ok=True)  # while it is held: who waits for it looks again
        os.close(descriptor)


def _lock(path: Path) -> int:
    while True:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
        is_ours = try_lock(descriptor)
        if is_ours is False:
            owner = _holder(descriptor)
            os.close(descriptor)
            raise _taken(path, owner)
        if is_ours is None:
            owner = _owner(descriptor)
            if owner.get("process") != os.getpid() and _may_run(owner):
                os.close(descriptor)
                raise _taken(path, owner)
        if _is_at(path, descriptor):
            return descriptor
        os.close(descriptor)  # the one before has deleted it since


def _is_at(path: Path, descriptor: int) -> bool:
    try:
        return os.path.samestat(path.stat(), os.fstat(descriptor))
    except FileNotFoundError:
        return False


def _write(descriptor: int) -> None:
    said = {"process": os.getpid(), "host": socket.gethostname(), "since": time.strftime("%Y-%m-%d %H:%M:%S")}
    os.ftruncate(descriptor, 0)
    os.pwrite(descriptor, json.dumps(said).encode() + b"\n", 0)


def _holder(descriptor: int) -> dict[str, Any]:
    """What the process that holds the lock says, not what one that was killed has left in the file."""
    deadline = time.monotonic() + _SAID_WITHIN_S
    while True:
        owner = _owner(descriptor)
        if _may_run(owner):
            return owner
        if time.monotonic() > deadline:
            return {}
        time.sleep(0.01)


def _owner(descriptor: int) -> dict[str, Any]:
    """What the file says; nothing where it cannot be told."""
    try:
        said = json.loads(os.pread(descriptor, 4096, 0))
    except ValueError:
        return {}
    return said if isinstance(said, dict) else {}


def _may_run(owner: dict[str, Any]) -> bool:
    """Whether it is of another machine, where it cannot be told, or runs on this one."""
    if owner.get("host") not in (None, socket.gethostname()):
        return True
    process = owner.get("process")
    return isinstance(process, int) and is_alive(process)


def _taken(path: Path, owner: dict[str, Any]) -> ConfigError:
    who = "another process"
    if owner:
        who = f"process {owner.get('process')} on {owner.get('host')}, since {owner.get('since')}"
    return ConfigError(
        f"{path.parent} is being run by {who}: wait for it, or end it. If it is gone and this machine cannot "
        f"know, delete {path}"
    )
