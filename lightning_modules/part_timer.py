"""Where the time of a run goes."""

import contextlib
import time
from collections import defaultdict
from collections.abc import Iterator


class PartTimer:
    """Adds up wall-clock seconds by part of the work.

    On a GPU a part ends when the host goes on, which can be before the device has finished.

    Example:
        >>> timer = PartTimer()
        >>> with timer.part("read"):
        ...     pass
        >>> sorted(timer.totals_s)
        ['read']
    """

    def __init__(self) -> None:
        self.totals_s: dict[str, float] = defaultdict(float)
        self.last_s: dict[str, float] = {}

    @contextlib.contextmanager
    def part(self, name: str) -> Iterator[None]:
        """Times what runs inside."""
        start = time.perf_counter()
        try:
            yield
        finally:
            self.last_s[name] = time.perf_counter() - start
            self.totals_s[name] += self.last_s[name]
