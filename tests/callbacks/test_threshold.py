"""What the text of a threshold means, and which text means nothing."""

import math
import re

import pytest
import torch

from callbacks.decisions import Action
from callbacks.threshold import Relation, Threshold, paper_thresholds

HR = "validation/hr_at_5"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (f"{HR} >= 0.3", Threshold(HR, Relation.AT_LEAST, 0.3)),
        (f"  {HR}>=.3 ", Threshold(HR, Relation.AT_LEAST, 0.3)),
        (f"{HR} <= -1e-3", Threshold(HR, Relation.AT_MOST, -0.001)),
        (f"{HR} >= start", Threshold(HR, Relation.AT_LEAST, 0.0, from_start=True)),
        (f"{HR} >= start-0.02", Threshold(HR, Relation.AT_LEAST, -0.02, from_start=True)),
        (f"{HR} <= start + 2", Threshold(HR, Relation.AT_MOST, 2.0, from_start=True)),
        (f"{HR} >= 0.3 for 5", Threshold(HR, Relation.AT_LEAST, 0.3, patience=5)),
        (
            f"{HR} >= start for 1 then reader_first",
            Threshold(HR, Relation.AT_LEAST, 0.0, True, patience=1, action=Action.READER_FIRST),
        ),
        (f"until {HR} >= 0.6", Threshold(HR, Relation.AT_LEAST, 0.6, is_goal=True, patience=1)),
        (f"until {HR} >= 0.6 for 3", Threshold(HR, Relation.AT_LEAST, 0.6, is_goal=True, patience=3)),
    ],
)
def test_a_text_and_what_it_means(text, expected):
    found = Threshold.parse(text)
    assert found == expected
    assert Threshold.parse(str(found), patience=9, action="freeze_retriever") == found


def test_a_bound_that_says_neither_has_the_patience_and_action_of_the_run():
    found = Threshold.parse(f"{HR} >= 0.3", patience=7, action="freeze_retriever")
    assert (found.patience, found.action) == (7, Action.FREEZE_RETRIEVER)
    goal = Threshold.parse(f"until {HR} >= 0.3", patience=7, action="freeze_retriever")
    assert (goal.patience, goal.action) == (1, Action.STOP)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "'' is no threshold; write METRIC >= BOUND"),
        (HR, "is no threshold"),
        (f"{HR} > 0.3", "is no threshold"),
        (f"{HR} >= ", "is no threshold"),
        (f"{HR} >= end", "is no threshold"),
        (f"{HR} >= start * 2", "is no threshold"),
        (f"{HR} >= nan", "is no threshold"),
        (f"{HR} >= 0.3 for ever", "is no threshold"),
        (f"{HR} >= 0.3 then stop for 3", "is no threshold"),
        (f"{HR} >= 0.3 for 0", "'for 0' must be at least 'for 1'"),
        (f"{HR} >= 0.3 then nap", "'nap' is unknown; choose one of: stop, freeze_retriever, reader_first"),
        (f"until {HR} >= 0.3 then reader_first", "leave it or 'then reader_first' out"),
    ],
)
def test_a_malformed_text_is_answered_with_the_form(text, message):
    with pytest.raises(ValueError, match=re.escape(message)) as error:
        Threshold.parse(text)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("text", "holding", "broken"),
    [
        ("m >= 0.3", [0.3, 0.5], [0.2999, -1.0]),
        ("m <= 0.3", [0.3, -1.0], [0.3001]),
        ("m >= start - 0.25", [0.25, 0.5], [0.2499]),
        ("m <= start + 0.25", [0.75, 0.0], [0.7501]),
    ],
)
def test_bounds_include_themselves_and_nothing_that_is_not_finite(text, holding, broken):
    threshold = Threshold.parse(text)
    assert all(threshold.holds(value, start=0.5) for value in holding)
    assert not any(threshold.holds(v, start=0.5) for v in (*broken, math.nan, math.inf, -math.inf))


@pytest.mark.parametrize("number", [i / 10 for i in range(-10, 11)])
def test_a_metric_in_float32_equals_the_bound_of_the_text(number):
    value, start = (float(torch.tensor(one)) for one in (number, number + 0.02))
    for relation in Relation:
        assert Threshold("m", relation, number).holds(value)
        assert Threshold("m", relation, -0.02, from_start=True).holds(value, start)


def test_the_rules_of_the_paper():
    assert [one.requirement for one in paper_thresholds((90,))] == [
        "indicator1/attention_p90 >= start",
        "indicator1/spearman_p90 >= start",
        "indicator2/attention_p90 >= start",
        "indicator2/spearman_p90 >= 0.3",
    ]
    found = paper_thresholds(patience=3, action="freeze_retriever")
    assert len(found) == 8
    assert {(one.patience, one.action) for one in found} == {(3, Action.FREEZE_RETRIEVER)}
