import pytest

from lightning_modules.preflight.choosing import PreflightSettings, choose_rows


def test_rows_with_a_positive_and_a_negative_passage_are_sought():
    has_both = [False] * 10 + [True, False, True] + [False] * 5
    assert choose_rows(has_both, 8) == [0, 10, 1, 12, 2, 4, 3, 5]
    assert sorted(choose_rows(has_both, 100)) == list(range(18))


@pytest.mark.parametrize(("name", "value"), [("num_instances", 1), ("num_compared", -1), ("batch_size", 0)])
def test_numbers_that_are_too_small_are_refused(name, value):
    with pytest.raises(ValueError, match=f"{name} is {value}; it must be at least {value + 1}"):
        PreflightSettings(**{name: value})
