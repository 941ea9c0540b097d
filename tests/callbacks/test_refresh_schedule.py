"""Atlas's schedules: the same steps as Atlas, and a message where Atlas would fail while training."""

import doctest
import json
import time
from pathlib import Path

import pytest

from callbacks import refresh_schedule
from callbacks.refresh_schedule import RefreshSchedule, WhenStale, parse_refresh

GOLDENS = json.loads((Path(__file__).parents[1] / "goldens" / "index_refresh_schedule.json").read_text())


def atlas_is_due(pieces: list[tuple[int, int, int]], step: int) -> bool:
    """Atlas's rule, a step at a time (src/util.py, `is_time_to_refresh`)."""
    for start, end, every in pieces:
        if start <= step < end:
            return (step - start) % every == 0
    return False


@pytest.mark.parametrize("golden", GOLDENS["valid"], ids=lambda golden: golden["schedule"])
def test_refreshes_at_the_steps_of_atlas(golden):
    schedule = RefreshSchedule(golden["schedule"])
    assert [step for step in range(2001) if schedule.is_due(step)] == golden["refresh_steps_0_2000"]


@pytest.mark.parametrize("golden", GOLDENS["valid"], ids=lambda golden: golden["schedule"])
def test_next_due_walks_through_the_same_steps(golden):
    schedule, steps, step = RefreshSchedule(golden["schedule"]), [], 0
    while (due := schedule.next_due(step)) is not None and due <= 2000:
        steps.append(due)
        step = due + 1
    assert steps == golden["refresh_steps_0_2000"]


@pytest.mark.parametrize("text", GOLDENS["invalid"])
def test_invalid_schedules_are_refused_with_a_right_example(text):
    with pytest.raises(ValueError, match=r'refresh schedule.*"0-500:50,500-2000:250"'):
        RefreshSchedule(text)


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("", "is empty"),
        (" \n", "is empty"),
        ("0", "every 0 steps"),
        ("0-100:0", "every 0 steps"),
        ("often", "'often' is not a whole number"),
        ("１００", "is not a whole number"),
        ("9" * 5000, "at most 18 digits"),
        ("1 000", "'1 000' is not a whole number"),
        ("0-100", "'0-100' is not of the form from-to:every"),
        ("0-100:10,", "'' is not of the form from-to:every"),
        ("0-100:10,500", "'500' is not of the form from-to:every"),
        ("0-100:-1", "'-1' is not a whole number"),
        ("0-100-200:10", "'100-200' is not a whole number"),
        ("100-100:10", "'100-100:10' ends before it begins"),
        ("0-10:5,1000-500:10", "'1000-500:10' ends before it begins"),
        ("0-100:10;100-200:20", "'10;100-200:20' is not a whole number"),
    ],
)
def test_the_message_names_what_is_wrong(text, complaint):
    with pytest.raises(ValueError, match=complaint):
        RefreshSchedule(text)


@pytest.mark.parametrize("not_text", [100, -1, 1.5, None, ["0-100:10"], b"100", True])
def test_anything_but_text_is_refused(not_text):
    with pytest.raises(ValueError, match="put it in quotation marks"):
        RefreshSchedule(not_text)


@pytest.mark.parametrize(
    "pieces",
    [
        [(0, 100, 7), (50, 150, 10)],
        [(50, 150, 10), (0, 200, 7)],
        [(0, 300, 13), (40, 60, 2), (100, 110, 1)],
        [(40, 60, 2), (45, 50, 1), (0, 300, 13)],
        [(10, 20, 3), (10, 20, 2), (15, 25, 4), (5, 15, 6)],
        [(200, 300, 1000), (0, 1, 1)],
    ],
)
def test_of_overlapping_pieces_the_first_written_decides(pieces):
    schedule = RefreshSchedule(",".join(f"{start}-{end}:{every}" for start, end, every in pieces))
    expected = [step for step in range(400) if atlas_is_due(pieces, step)]
    assert [step for step in range(400) if schedule.is_due(step)] == expected
    for step in range(400):
        assert schedule.next_due(step) == next((due for due in expected if due >= step), None)


def test_huge_numbers_take_no_time():
    started = time.perf_counter()
    schedule = RefreshSchedule("0-100000000000000000:3,100000000000000000-999999999999999999:999999999999")
    assert schedule.is_due(3 * 10**16)
    assert not schedule.is_due(3 * 10**16 + 1)
    assert schedule.next_due(10**17 + 1) == 10**17 + 999_999_999_999
    assert schedule.next_due(10**18) is None
    assert time.perf_counter() - started < 0.5


def test_a_step_before_training_is_never_due():
    assert not RefreshSchedule("10").is_due(-10)
    assert RefreshSchedule("10").next_due(-10) == 0


def test_blanks_do_not_matter():
    spaced, plain = RefreshSchedule(" 0 - 100 : 10 ,\t100-200:50\n"), RefreshSchedule("0-100:10,100-200:50")
    assert spaced == plain
    assert hash(spaced) == hash(plain)
    assert repr(spaced) == "RefreshSchedule(text='0-100:10,100-200:50')"
    assert plain != RefreshSchedule("0-100:10")


@pytest.mark.parametrize(
    ("text", "least"),
    [("when_stale", 0.9), (" when_stale:0.75 ", 0.75), ("when_stale:1", 1.0), ("when_stale:.5", 0.5)],
)
def test_when_stale(text, least):
    policy = parse_refresh(text)
    assert policy == WhenStale(least)
    assert policy.is_stale(least - 1e-6)
    assert not policy.is_stale(least)


@pytest.mark.parametrize(
    "rest",
    [":", ":0", ":1.1", ":-1", "0.9", ":nan", ":1e-1", ":0.9,100"],
)
def test_a_wrong_when_stale(rest):
    with pytest.raises(ValueError, match=r'is not of the form when_stale:OVERLAP .*"when_stale:0.9"'):
        parse_refresh(f"when_stale{rest}")


def test_other_texts_are_schedules():
    assert parse_refresh("0-100:10") == RefreshSchedule("0-100:10")
    for wrong in ("stale", 5):
        with pytest.raises(ValueError, match="refresh schedule"):
            parse_refresh(wrong)


def test_docstring_examples():
    assert doctest.testmod(refresh_schedule).failed == 0
