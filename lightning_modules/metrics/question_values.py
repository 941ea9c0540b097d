"""Metrics question by question, for intervals, paired comparisons and histograms."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np


@dataclass(frozen=True)
class QuestionValues:
    """The values of some metrics for each of some questions.

    Attributes:
        question_ids: the questions, of all processes.
        values: metric -> one value a question, in the same order; NaN where it has none.
    """

    question_ids: list[str] = field(default_factory=list)
    values: dict[str, list[float]] = field(default_factory=dict)

    def with_others(self, others: "QuestionValues") -> "QuestionValues":
        """The metrics of both, over the questions of both; NaN where a question has only the other ones."""
        ids = list(dict.fromkeys([*self.question_ids, *others.question_ids]))
        values = {}
        for some in (self, others):
            for name, of_questions in some.values.items():
                by_id = dict(zip(some.question_ids, of_questions, strict=True))
                values[name] = [by_id.get(question_id, float("nan")) for question_id in ids]
        return QuestionValues(ids, values)

    def to_json(self) -> dict[str, Any]:
        """`{"question_ids": [...], "values": {metric: [...]}}`, with null for NaN, which JSON has not."""
        values = {
            name: [None if math.isnan(value) else value for value in of_questions]
            for name, of_questions in self.values.items()
        }
        return {"question_ids": list(self.question_ids), "values": values}

    @classmethod
    def from_json(cls, content: Mapping[str, Any]) -> "QuestionValues":
        """What `to_json` made.

        Raises:
            KeyError, TypeError, ValueError, AttributeError, OverflowError: content of another form.
        """
        values = {
            name: [math.nan if value is None else float(value) for value in of_questions]
            for name, of_questions in content["values"].items()
        }
        return cls([str(question_id) for question_id in content["question_ids"]], values)


def pair_questions(before: QuestionValues, after: QuestionValues, name: str) -> tuple[np.ndarray, np.ndarray]:
    """A metric of the questions that both have, in the order of `after`; NaN where a side has no value.

    Both must be of one split of one data set: elsewhere an id may be another question's.
    """
    nothing = [float("nan")]
    values = before.values.get(name, nothing * len(before.question_ids))
    values_before = dict(zip(before.question_ids, values, strict=True))
    values = after.values.get(name, nothing * len(after.question_ids))
    values_after = dict(zip(after.question_ids, values, strict=True))
    shared = [question_id for question_id in values_after if question_id in values_before]
    return (
        np.array([values_before[question_id] for question_id in shared], dtype=float),
        np.array([values_after[question_id] for question_id in shared], dtype=float),
    )
