import doctest

import pytest

from lightning_modules import part_timer as module
from lightning_modules.part_timer import PartTimer


@pytest.fixture
def clock(monkeypatch):
    """A clock that `advance`s when told."""

    class Clock:
        now = 100.0

        def advance(self, seconds):
            self.now += seconds

    clock = Clock()
    monkeypatch.setattr(module.time, "perf_counter", lambda: clock.now)
    return clock


def test_adds_up_by_part(clock):
    timer = PartTimer()
    for seconds in (1.0, 2.5):
        with timer.part("read"):
            clock.advance(seconds)
    with timer.part("encode"):
        clock.advance(4.0)
    assert dict(timer.totals_s) == {"read": 3.5, "encode": 4.0}
    assert timer.last_s == {"read": 2.5, "encode": 4.0}


def test_parts_may_be_nested(clock):
    timer = PartTimer()
    with timer.part("outer"):
        clock.advance(1.0)
        with timer.part("inner"):
            clock.advance(2.0)
    assert dict(timer.totals_s) == {"outer": 3.0, "inner": 2.0}


def test_a_part_that_fails_is_timed_too(clock):
    timer = PartTimer()

    def fail():
        clock.advance(2.0)
        raise KeyError

    with pytest.raises(KeyError), timer.part("read"):
        fail()
    assert timer.totals_s["read"] == 2.0


def test_docstring_examples():
    assert doctest.testmod(module).failed == 0
