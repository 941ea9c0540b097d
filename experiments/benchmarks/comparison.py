"""The suite beside its baseline: both do the same work in turns, and agree on what comes out.

A benchmark is a module with `measure(setting)`, which gives `Comparison`s.
"""

import statistics
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from datamodules.choices import Choice


class Size(Choice):
    """How much work a benchmark does."""

    TINY = "tiny"
    """For tests: whether it runs, and whether the results agree. Its times say nothing."""
    SMALL = "small"
    """All benchmarks together in a few minutes on two cores."""
    FULL = "full"
    """As large as what each of them is about: for a GPU, or with patience."""


@dataclass(frozen=True)
class Setting:
    """What the command line says of every benchmark.

    Attributes:
        device: where the models are.
        size: how much work.
        seconds: roughly what each comparison may take; each work has two turns at least.
    """

    device: torch.device
    size: Size = Size.SMALL
    seconds: float = 8.0

    @property
    def most_turns(self) -> int:
        """Of each work."""
        return 2 if self.size is Size.TINY else 15


@dataclass(frozen=True)
class Reach(ABC):
    """What a comparison should come to.

    Attributes:
        limit: of the ratio.
    """

    limit: float

    @abstractmethod
    def ratio(self, suite: float, baseline: float) -> float:
        """The number that has the limit."""

    @abstractmethod
    def is_met(self, ratio: float) -> bool:
        """Whether it is within."""


class AtMost(Reach):
    """Suite / baseline."""

    def ratio(self, suite: float, baseline: float) -> float:
        return suite / baseline

    def is_met(self, ratio: float) -> bool:
        return ratio <= self.limit

    def __str__(self) -> str:
        return f"at most {self.limit:g}"


class TimesFaster(Reach):
    """Baseline / suite."""

    def ratio(self, suite: float, baseline: float) -> float:
        return baseline / suite

    def is_met(self, ratio: float) -> bool:
        return ratio >= self.limit

    def __str__(self) -> str:
        return f"at least {self.limit:g}"


@dataclass(frozen=True)
class Spread:
    """Of the turns of one work.

    Attributes:
        values: in the order of the turns.
    """

    values: Sequence[float]

    @property
    def median(self) -> float:
        return statistics.median(self.values)

    @property
    def quartiles(self) -> tuple[float, float]:
        """The lower and the upper one."""
        if len(self.values) < 2:
            return self.values[0], self.values[0]
        low, _, high = statistics.quantiles(self.values, n=4, method="inclusive")
        return low, high

    def as_json(self) -> dict[str, Any]:
        low, high = self.quartiles
        return {"median": self.median, "quartiles": [low, high], "values": list(self.values)}


@dataclass(frozen=True)
class Comparison:
    """One work, by the suite and by a baseline.

    Attributes:
        what: the work, with its sizes.
        baseline_is: what the suite is compared with.
        suite, baseline: what each turn took; `baseline` is None where it cannot be run.
        reach: None = the ratio, suite / baseline, is for information.
        agreement: how far the results are the same.
        unit: of the values, such as seconds; less is better.
    """

    what: str
    baseline_is: str
    suite: Spread
    baseline: Spread | None
    reach: Reach | None = None
    agreement: str = ""
    unit: str = "s"

    @property
    def ratio(self) -> float | None:
        """The median over turns, in each of which both had the same machine; in the reach's direction."""
        if self.baseline is None:
            return None
        reach = self.reach or AtMost(1.0)
        pairs = zip(self.suite.values, self.baseline.values, strict=True)
        return statistics.median(reach.ratio(suite, baseline) for suite, baseline in pairs)

    @property
    def is_met(self) -> bool | None:
        """Whether the reach is; None without one."""
        ratio = self.ratio
        return None if ratio is None or self.reach is None else self.reach.is_met(ratio)

    def as_json(self) -> dict[str, Any]:
        return {
            "what": self.what,
            "baseline_is": self.baseline_is,
            "unit": self.unit,
            "suite": self.suite.as_json(),
            "baseline": None if self.baseline is None else self.baseline.as_json(),
            "ratio": self.ratio,
            "reach": None if self.reach is None else str(self.reach),
            "is_met": self.is_met,
            "agreement": self.agreement,
        }


# ---- measuring ----


def in_turns(
    works: Mapping[str, Callable[[], object]], setting: Setting, is_warm: bool = False
) -> dict[str, Spread]:
    """Seconds of each work, one after the other in every turn, after one of each that is not counted.

    Every second turn is in the opposite order, so that none always has the caches that another leaves.

    Args:
        works: by name; each does the same in its own way.
        setting: where, and for how long.
        is_warm: whether each has been done just now, so that all are counted.
    """
    started = time.perf_counter()
    for work in () if is_warm else works.values():
        work()
    wait_for(setting.device)
    took: dict[str, list[float]] = {name: [] for name in works}
    order = list(works)
    for turn in range(setting.most_turns):
        if turn >= 2 and time.perf_counter() - started > setting.seconds:
            break
        for name in order:
            took[name].append(seconds_of(works[name], setting.device))
        order.reverse()
    return {name: Spread(values) for name, values in took.items()}


def seconds_of(work: Callable[[], object], device: torch.device) -> float:
    """What it takes until the device has done it."""
    wait_for(device)
    started = time.perf_counter()
    work()
    wait_for(device)
    return time.perf_counter() - started


def wait_for(device: torch.device) -> None:
    """Until a GPU has done what it was given."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


# ---- agreeing ----


def agreement_of(what: str, suite: Tensor, baseline: Tensor, within: float) -> str:
    """Says how far two results differ, relative to the largest number of the baseline's.

    Args:
        what: the results, for the words.
        suite, baseline: of the same shape, on any devices.
        within: the most that they may differ by.

    Raises:
        ValueError: they differ by more, or one of them is not a number where the other is.
    """
    ours, theirs = suite.detach().cpu().double(), baseline.detach().cpu().double()
    differs = (ours - theirs).abs().max() / theirs.abs().max().clamp(min=1e-30)
    if not bool(differs <= within):
        raise ValueError(f"{what} of suite and baseline differ by {differs:.2g}, where {within:g} is allowed")
    return f"{what} equal to the bit" if differs == 0 else f"{what} equal within {differs:.0e} of the largest"
