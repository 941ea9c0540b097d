"""Processes that cost no imports: forked from one that has made them all, and hit where it matters."""

import contextlib
import os
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

LONGEST_S = 120.0
"""A process that takes longer hangs."""

_FILE_EVENTS = ("os.rename", "os.remove", "os.mkdir", "os.rmdir", "os.truncate", "os.link")


@dataclass(frozen=True)
class Ended:
    """How a process ended.

    Attributes:
        code: its exit code; the negative number of the signal that ended it; None = it hung.
        said: what it wrote to stderr and stdout.
    """

    code: int | None
    said: str


class Child:
    """A forked process that does some work in a folder.

    Args:
        work: what it does; its exit code.
        folder: where; what it says is kept beside it meanwhile.
        environment: variables that it sees.
    """

    def __init__(
        self, work: Callable[[], int], folder: Path, environment: Mapping[str, str] | None = None
    ) -> None:
        self._output = folder.parent / f"output-{os.getpid()}-{time.monotonic_ns()}.txt"
        self.started = time.monotonic()
        self.process = os.fork()
        if self.process:
            return
        code = 70
        try:  # nothing of it may come back to where the parent goes on
            descriptor = os.open(self._output, os.O_WRONLY | os.O_CREAT)
            os.dup2(descriptor, 1)
            os.dup2(descriptor, 2)
            sys.stdout = open(1, "w", buffering=1, closefd=False)  # noqa: SIM115
            sys.stderr = open(2, "w", buffering=1, closefd=False)  # noqa: SIM115
            os.environ.update(environment or {})
            tempfile.tempdir = None  # which the parent has looked up
            os.chdir(folder)
            code = work()
        except BaseException:
            import traceback

            traceback.print_exc()
        finally:
            with contextlib.suppress(Exception):
                sys.stdout.flush()
                sys.stderr.flush()
            os._exit(code)

    def wait(self, hit_after_s: float | None = None, by: int = signal.SIGKILL) -> Ended:
        """Waits for its end.

        Args:
            hit_after_s: when it gets a signal, since its start.
            by: the signal.
        """
        while True:
            ended, status = os.waitpid(self.process, os.WNOHANG)
            if ended:
                break
            age = time.monotonic() - self.started
            if age > LONGEST_S:
                self.kill()
                return Ended(None, self._said())
            if hit_after_s is not None and age >= hit_after_s:
                os.kill(self.process, by)
                hit_after_s = None
            time.sleep(0.002)
        return Ended(os.waitstatus_to_exitcode(status), self._said())

    def kill(self) -> None:
        """Ends it as a power cut would, if it has not ended."""
        with contextlib.suppress(ProcessLookupError, ChildProcessError):
            os.kill(self.process, signal.SIGKILL)
            os.waitpid(self.process, 0)

    def _said(self) -> str:
        said = self._output.read_text(errors="replace")
        self._output.unlink()
        return said


def count_file_operations(folder: Path, file: Path) -> None:
    """From now on this process counts what it does to files below a folder; the number is kept in a file."""
    count = 0

    def seen() -> None:
        nonlocal count
        count += 1
        descriptor = os.open(file, os.O_RDWR | os.O_CREAT)
        os.pwrite(descriptor, b"%d" % count, 0)
        os.close(descriptor)

    _watch(folder, seen, but=file)


def hit_at_file_operation(folder: Path, number: int, by: int = signal.SIGKILL) -> None:
    """From now on this process gets a signal before the N-th operation on files below a folder, from 1."""
    left = number

    def seen() -> None:
        nonlocal left
        left -= 1
        if left == 0:
            os.kill(os.getpid(), by)

    _watch(folder, seen)


def heed(number: int) -> None:
    """A signal does to this process what it does to one that nobody has told otherwise, as `nohup` does."""
    signal.signal(number, signal.default_int_handler if number == signal.SIGINT else signal.SIG_DFL)


def _watch(folder: Path, seen: Callable[[], None], but: Path | None = None) -> None:
    below = f"{folder.resolve()}/"

    def hook(event: str, arguments: tuple) -> None:
        if event == "open":
            path, _, flags = arguments
            if not isinstance(flags, int) or not flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT):
                return
        elif event in _FILE_EVENTS:
            path = arguments[0]
        else:
            return
        if isinstance(path, bytes | str | os.PathLike):
            place = os.path.abspath(os.fsdecode(path))  # noqa: PTH100
            if place.startswith(below) and place != str(but):
                seen()

    sys.addaudithook(hook)
