"""Where the time of a run goes."""

import contextlib
import time
from collections import defaultdict, deque
from collections.abc import Iterator
from dataclasses import dataclass

import torch


@dataclass(frozen=True)
class Mark:
    """A moment of a run.

    Attributes:
        host_s: seconds of the host's clock.
        event: on a GPU, of the device's: it comes when all has been done that was asked before.
    """

    host_s: float
    event: torch.cuda.Event | None

    @classmethod
    def now(cls) -> "Mark":
        """This one."""
        event = None
        if torch.cuda.is_initialized():
            event = torch.cuda.Event(enable_timing=True)
            event.record()
        return cls(time.perf_counter(), event)


class PartTimer:
    """Adds up seconds by part of the work, of the wall clock or, where there is a GPU, of that.

    A GPU is asked for work and does it later, so a part lasts there from when what came before it is done to
    when it is itself. Nothing waits for that but who asks for `totals_s`.

    Example:
        >>> timer = PartTimer()
        >>> with timer.part("read"):
        ...     pass
        >>> sorted(timer.totals_s)
        ['read']
    """

    def __init__(self) -> None:
        self._totals_s: dict[str, float] = defaultdict(float)
        self._last_s: dict[str, float] = {}
        self._pending: deque[tuple[str, Mark, Mark]] = deque()

    @property
    def totals_s(self) -> dict[str, float]:
        """Of every part, all that were timed; a GPU is waited for. 0 for a part that never was."""
        self._settle(waits=True)
        return self._totals_s

    @property
    def last_s(self) -> dict[str, float]:
        """Of every part, the latest that is done; on a GPU often that of the step before."""
        self._settle(waits=False)
        return self._last_s

    @contextlib.contextmanager
    def part(self, name: str) -> Iterator[None]:
        """Times what runs inside."""
        start = Mark.now()
        try:
            yield
        finally:
            self.add(name, start)

    def add(self, name: str, start: Mark) -> None:
        """Adds the time from a moment until now to a part."""
        self._pending.append((name, start, Mark.now()))
        self._settle(waits=False)

    def _settle(self, waits: bool) -> None:
        """Takes over what has ended, in the order in which it did."""
        while self._pending:
            name, start, end = self._pending[0]
            if end.event is not None and not end.event.query():
                if not waits:
                    return
                end.event.synchronize()
            self._pending.popleft()
            self._last_s[name] = _seconds_between(start, end)
            self._totals_s[name] += self._last_s[name]


def _seconds_between(start: Mark, end: Mark) -> float:
    if start.event is None or end.event is None:
        return end.host_s - start.host_s
    return start.event.elapsed_time(end.event) / 1000
