"""When the index is rebuilt with the fresh retriever: at which training steps, or how stale."""

import re
from dataclasses import dataclass, field
from itertools import pairwise
from typing import NamedTuple

NEVER_AGAIN = "-1"
"""The schedule that makes an index at the start only."""
_EXAMPLES = 'right are "100", "-1" and "0-500:50,500-2000:250"'
_WHOLE_NUMBER = re.compile("[0-9]{1,18}")
_NEVER_ENDS = 10**18
_WHEN_STALE = "when_stale"
_FRACTION = re.compile(r"[0-9]*\.?[0-9]+")


class _Piece(NamedTuple):
    """Steps start, start + every, ... before end."""

    start: int
    end: int
    every: int


class _Segment(NamedTuple):
    """The steps first <= step < end, in which one piece decides; it counts from its own start."""

    first: int
    end: int
    start: int
    every: int

    def next_due(self, step: int) -> int | None:
        steps_since_start = max(step, self.first) - self.start
        due = self.start + -(-steps_since_start // self.every) * self.every
        return due if due < self.end else None


@dataclass(frozen=True)
class RefreshSchedule:
    """Atlas's schedule of index refreshes (`IndexRefreshScheduler`, src/util.py).

    Three ways to write one; blanks around numbers and signs do not matter:

    - `"100"`: every 100 steps, beginning with step 0;
    - `"-1"`: at step 0 only, that is never again once training has begun;
    - `"0-500:50,500-2000:250"`: pieces `from-to:every`, in any order. A piece holds the steps
      from <= step < to and refreshes at from, from + every, ... Steps that no piece holds have no
      refresh; of pieces that overlap the one written first decides.

    Args:
        text: the schedule.

    Raises:
        ValueError: `text` is not a schedule; Atlas would only find out while training.

    Example:
        >>> schedule = RefreshSchedule("0-100:25, 100-1000:300")
        >>> [step for step in range(1001) if schedule.is_due(step)]
        [0, 25, 50, 75, 100, 400, 700]
        >>> schedule.next_due(101)
        400
        >>> print(schedule.next_due(701))
        None
        >>> RefreshSchedule("-1").is_due(0), RefreshSchedule("-1").next_due(1)
        (True, None)
        >>> overlapping = RefreshSchedule("0-20:10,0-50:5")
        >>> [step for step in range(50) if overlapping.is_due(step)]
        [0, 10, 20, 25, 30, 35, 40, 45]
    """

    text: str
    _segments: tuple[_Segment, ...] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        if not isinstance(self.text, str):
            raise ValueError(
                f"a refresh schedule is text, not {self.text!r}; put it in quotation marks: {_EXAMPLES}"
            )
        text = re.sub(r"\s*([-:,])\s*", r"\1", self.text.strip())
        object.__setattr__(self, "text", text)
        object.__setattr__(self, "_segments", _disjoint(_parse(text)))

    def is_due(self, step: int) -> bool:
        """Whether the index is refreshed before training step `step`, counted from 0."""
        return self.next_due(step) == step

    def next_due(self, step: int) -> int | None:
        """The first refresh at `step` or later; None where there is none."""
        later = (segment.next_due(step) for segment in self._segments if step < segment.end)
        return next((due for due in later if due is not None), None)


@dataclass(frozen=True)
class WhenStale:
    """Refreshes once a measurement finds the index stale, instead of by steps.

    Two ways to write it: `"when_stale"`, and with the least overlap that is good enough `"when_stale:0.8"`.

    Args:
        min_overlap: share of the index's top K that the fresh retriever must still rank so.

    Example:
        >>> parse_refresh("when_stale:0.8").is_stale(0.79)
        True
        >>> parse_refresh("when_stale")
        WhenStale(min_overlap=0.9)
    """

    min_overlap: float = 0.9

    def is_stale(self, overlap: float) -> bool:
        """Whether an overlap is below the least that is good enough."""
        return overlap < self.min_overlap


def parse_refresh(text: str) -> RefreshSchedule | WhenStale:
    """A schedule of steps, or `when_stale`.

    Raises:
        ValueError: neither.
    """
    if not isinstance(text, str) or not text.strip().startswith(_WHEN_STALE):
        return RefreshSchedule(text)
    rest = text.strip().removeprefix(_WHEN_STALE)
    if not rest:
        return WhenStale()
    colon, overlap = rest[:1], rest[1:].strip()
    if colon != ":" or not _FRACTION.fullmatch(overlap) or not 0 < float(overlap) <= 1:
        raise ValueError(
            f"{text!r} is not of the form when_stale:OVERLAP with an overlap above 0 and at most 1, below "
            'which the index is refreshed; right are "when_stale" and "when_stale:0.9"'
        )
    return WhenStale(float(overlap))


def _parse(text: str) -> list[_Piece]:
    if not text:
        raise ValueError(f"the refresh schedule is empty; {_EXAMPLES}")
    if text == "-1":
        return [_Piece(0, 1, 1)]
    if not set("-:,") & set(text):
        return [_Piece(0, _NEVER_ENDS, _positive(text, text))]
    return [_parse_piece(piece, text) for piece in text.split(",")]


def _parse_piece(piece: str, text: str) -> _Piece:
    steps, colon, every = piece.partition(":")
    start, dash, end = steps.partition("-")
    if not (start and dash and end and colon and every):
        raise ValueError(
            f"refresh schedule {text!r}: {piece!r} is not of the form from-to:every; {_EXAMPLES}"
        )
    parsed = _Piece(_whole_number(start, text), _whole_number(end, text), _positive(every, text))
    if parsed.end <= parsed.start:
        raise ValueError(f"refresh schedule {text!r}: {piece!r} ends before it begins; {_EXAMPLES}")
    return parsed


def _positive(digits: str, text: str) -> int:
    number = _whole_number(digits, text)
    if number == 0:
        raise ValueError(f"refresh schedule {text!r}: every 0 steps is not possible; {_EXAMPLES}")
    return number


def _whole_number(digits: str, text: str) -> int:
    if not _WHOLE_NUMBER.fullmatch(digits):
        raise ValueError(
            f"refresh schedule {text!r}: {digits!r} is not a whole number of at most 18 digits; {_EXAMPLES}"
        )
    return int(digits)


def _disjoint(pieces: list[_Piece]) -> tuple[_Segment, ...]:
    """The pieces cut where any of them begins or ends, in the order of steps, the first written on top."""
    cuts = sorted({cut for piece in pieces for cut in (piece.start, piece.end)})
    segments = []
    for first, end in pairwise(cuts):
        deciding = next((piece for piece in pieces if piece.start <= first < piece.end), None)
        if deciding is not None:
            segments.append(_Segment(first, end, deciding.start, deciding.every))
    return tuple(segments)
