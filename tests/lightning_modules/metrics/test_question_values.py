"""Values of questions: written as JSON and back, merged, and paired by question."""

import json
import math

import pytest

from lightning_modules.metrics.question_values import QuestionValues, pair_questions

NAME = "indicator1/spearman_p90"


def test_undefined_values_survive_as_null():
    values = QuestionValues(["a", "b"], {NAME: [0.25, math.nan]})
    text = json.dumps(values.to_json(), allow_nan=False)
    back = QuestionValues.from_json(json.loads(text))
    assert back.question_ids == ["a", "b"]
    assert back.values[NAME] == pytest.approx([0.25, math.nan], nan_ok=True)


@pytest.mark.parametrize(
    "content", [[], {}, {"question_ids": ["a"]}, {"question_ids": ["a"], "values": [0.1]}]
)
def test_other_content_is_refused(content):
    with pytest.raises((KeyError, TypeError, ValueError, AttributeError)):
        QuestionValues.from_json(content)


def test_the_metrics_of_both_over_the_questions_of_both():
    some = QuestionValues(["a", "b"], {"em": [1.0, 0.0]})
    others = QuestionValues(["b", "c"], {"f1": [0.5, 0.75]})
    both = some.with_others(others)
    assert both.question_ids == ["a", "b", "c"]
    assert both.values["em"] == pytest.approx([1.0, 0.0, math.nan], nan_ok=True)
    assert both.values["f1"] == pytest.approx([math.nan, 0.5, 0.75], nan_ok=True)


def test_nothing_joined_with_something_is_that():
    some = QuestionValues(["a", "b"], {"x": [1.0, 2.0]})
    assert QuestionValues().with_others(some) == some.with_others(QuestionValues()) == some


def test_pairs_are_of_the_questions_that_both_have_in_the_later_order():
    before = QuestionValues(["a", "b", "c"], {"x": [1.0, 2.0, 3.0]})
    after = QuestionValues(["c", "d", "a"], {"x": [30.0, 40.0, math.nan]})
    first, second = pair_questions(before, after, "x")
    assert first.tolist() == [3.0, 1.0]
    assert second.tolist() == pytest.approx([30.0, math.nan], nan_ok=True)


def test_a_side_without_the_metric_has_no_values():
    before, after = QuestionValues(["a"], {}), QuestionValues(["a"], {"x": [1.0]})
    first, second = pair_questions(before, after, "x")
    assert (math.isnan(first[0]), second.tolist()) == (True, [1.0])
