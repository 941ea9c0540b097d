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


class Gpu:
    """Does what it is asked for when `done_s` says so; its events are those of torch.

    Attributes:
        asked_s: seconds of work that it was given.
        done_s: of them those that it has done.
    """

    asked_s = done_s = 0.0

    def make_event(self, enable_timing):
        assert enable_timing
        gpu = self

        class Event:
            def record(self):
                self.at_s = gpu.asked_s

            def query(self):
                return self.at_s <= gpu.done_s

            def synchronize(self):
                gpu.done_s = max(gpu.done_s, self.at_s)

            def elapsed_time(self, end):
                assert self.query()
                assert end.query()
                return 1000 * (end.at_s - self.at_s)

        return Event()


def test_a_gpu_is_timed_by_what_it_does_and_waited_for_by_who_asks_for_totals(clock, monkeypatch):
    gpu = Gpu()
    monkeypatch.setattr(module.torch.cuda, "is_initialized", lambda: True)
    monkeypatch.setattr(module.torch.cuda, "Event", gpu.make_event)
    timer = PartTimer()
    for name, seconds in (("read", 3.0), ("encode", 2.0), ("read", 4.0)):
        with timer.part(name):
            gpu.asked_s += seconds
            clock.advance(0.1)  # the host goes on
    assert (timer.last_s, gpu.done_s) == ({}, 0.0)
    gpu.done_s = 5.5
    assert timer.last_s == {"read": 3.0, "encode": 2.0}
    assert dict(timer.totals_s) == {"read": 7.0, "encode": 2.0}
    assert (timer.last_s["read"], gpu.done_s) == (4.0, 9.0)


def test_a_part_in_which_a_gpu_is_first_used_is_timed_by_the_host(clock, monkeypatch):
    gpu, timer = Gpu(), PartTimer()
    with timer.part("load"):
        monkeypatch.setattr(module.torch.cuda, "is_initialized", lambda: True)
        monkeypatch.setattr(module.torch.cuda, "Event", gpu.make_event)
        clock.advance(2.0)
    assert timer.last_s == {"load": 2.0}


def test_docstring_examples():
    assert doctest.testmod(module).failed == 0
