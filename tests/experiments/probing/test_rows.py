import math

import pytest

from experiments.estimates import Estimate
from experiments.probing.rows import TeacherRow, recommended_row


def row_of(name, low, favourites, at_equal_length=None, overrides=()):
    def around(low):
        return Estimate(low + 0.1, low, low + 0.2, 50)

    nothing = Estimate(math.nan, math.nan, math.nan, 0)
    equal = around(low if at_equal_length is None else at_equal_length)
    always = nothing if favourites is None else Estimate(favourites, favourites, favourites, 50)
    found = None if overrides is None else list(overrides)
    return TeacherRow(name, around(low), around(low), equal, always, nothing, nothing, overrides=found)


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
        # below 0 is noise
        ([row_of("a", 0.78, -0.2), row_of("b", 0.8, -0.1)], "b"),
    ],
)
def test_what_is_recommended(rows, recommended):
    found = recommended_row(rows)
    assert (found and found.name) == recommended
