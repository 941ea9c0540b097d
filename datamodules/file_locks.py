"""Locks of files, which the kernel takes back however their process ends."""

from typing import IO

try:
    import fcntl
except ImportError:  # not on Windows
    fcntl = None  # type: ignore[assignment]


def try_lock(file: IO | int) -> bool | None:
    """Locks an open file for this process, until it is closed, without waiting.

    Args:
        file: or its descriptor, open for writing: some network file systems lock no other.

    Returns:
        True = it is locked now; False = another process has locked it; None = there are no locks here, since
        the system or the file system (some of a cluster) has none.
    """
    if fcntl is None:
        return None
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:
        return None
    return True
