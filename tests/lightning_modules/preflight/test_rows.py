import math

import pytest
import torch

from lightning_modules.metrics.estimates import Estimate
from lightning_modules.objectives import ADist
from lightning_modules.preflight.question_scores import QuestionScores
from lightning_modules.preflight.rows import TeacherRow, recommended_row, variant_row
from lightning_modules.preflight.variants import Variant
from tests.tiny_models import toy_passages, toy_questions


def row_of(name, low, fixed_preference, at_equal_length=None, overrides=(), length_tau=0.2):
    def around(low):
        return Estimate(low + 0.1, low, low + 0.2, 50)

    nothing = Estimate(math.nan, math.nan, math.nan, 0)
    equal = around(low if at_equal_length is None else at_equal_length)
    always = (
        nothing
        if fixed_preference is None
        else Estimate(fixed_preference, fixed_preference, fixed_preference, 50)
    )
    found = None if overrides is None else list(overrides)
    by_length = Estimate(length_tau, length_tau - 0.1, length_tau + 0.1, 50)
    return TeacherRow(
        name, around(low), around(low), equal, always, by_length, nothing, nothing, overrides=found
    )


@pytest.mark.parametrize(
    ("rows", "recommended"),
    [
        ([row_of("a", 0.7, None), row_of("b", 0.8, None)], "b"),
        # about as good: the one that depends on what is asked
        ([row_of("a", 0.78, 0.1), row_of("b", 0.8, 0.6)], "a"),
        ([row_of("a", 0.78, 0.1), row_of("b", 0.8, None)], "a"),
        ([row_of("a", 0.7, 0.1), row_of("b", 0.8, 0.6)], "b"),
        ([row_of("a", 0.9, 0.1, at_equal_length=0.55), row_of("b", 0.7, 0.6)], "b"),
        ([row_of("a", 0.9, 0.1, at_equal_length=0.45)], None),
        ([row_of("a", 0.9, 0.1, at_equal_length=math.nan)], None),
        ([row_of("a", 0.9, 0.1, overrides=None), row_of("b", 0.7, 0.6)], "b"),
        ([row_of("a", 0.6, 0.1)], None),
        # an order that follows length, with either sign
        ([row_of("a", 0.9, 0.1, length_tau=-0.71), row_of("b", 0.7, 0.6)], "b"),
        ([row_of("a", 0.9, 0.1, length_tau=0.71)], None),
        ([row_of("a", 0.9, 0.1, length_tau=-0.42), row_of("b", 0.7, 0.6)], "a"),
        ([row_of("a", 0.9, 0.1, length_tau=0.55), row_of("b", 0.7, 0.6)], "a"),
        # below 0 is noise
        ([row_of("a", 0.78, -0.2), row_of("b", 0.8, -0.1)], "b"),
    ],
)
def test_what_is_recommended(rows, recommended):
    found = recommended_row(rows)
    assert (found and found.name) == recommended


def test_how_a_row_goes_with_passage_length():
    """By its own order and over the questions that were read that way, as Kendall counts pairs."""
    collected = QuestionScores()
    lengths = torch.tensor([[10, 20, 30], [10, 20, 30], [7, 7, 7]])
    has_answer = torch.tensor([[True, False, False]] * 3)
    collected.add_questions(
        toy_questions()[:3], [toy_passages()[:3]] * 3, has_answer, torch.zeros(3, 3), lengths
    )
    short, mixed = (Variant(ADist(passage_score=how)) for how in ("mean", "sum"))
    collected.add_scores([0, 1, 2], {short: torch.tensor([[3.0, 2.0, 1.0]] * 3)})
    collected.add_scores([1], {mixed: torch.tensor([[1.0, 3.0, 2.0]])})
    found = variant_row(collected, short).length_tau
    assert (found.mean, found.n) == (-1.0, 2)  # passages of one length have no order
    found = variant_row(collected, mixed).length_tau
    assert (found.mean, found.n) == (pytest.approx(1 / 3), 1)
