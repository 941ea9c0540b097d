import doctest

from experiments.show import decisions


def test_examples():
    assert doctest.testmod(decisions).failed == 0


def test_without_a_choice_nothing_is_said_of_the_start():
    kept = decisions.describe_kept({"best_step": None, "chosen_by": None})
    assert kept == "no checkpoint was chosen by a validation"
