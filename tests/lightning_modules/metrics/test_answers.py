import doctest

import pytest
import torch

from datamodules.errors import DataError
from lightning_modules.metrics import answers as module
from lightning_modules.metrics.answers import AnswerScores, exact_match, f1_score

PREDICTIONS = ["the Paris", "Rome", "new york city", ""]
ANSWERS = [["Paris", "Lutetia"], ["Oslo"], ["New York"], ["x"]]


def test_means_of_the_pure_functions():
    scores = AnswerScores()
    scores.update(PREDICTIONS[:3], ANSWERS[:3])
    scores.update(PREDICTIONS[3:], ANSWERS[3:])
    pairs = list(zip(PREDICTIONS, ANSWERS, strict=True))
    expected = {
        "em": torch.tensor(sum(exact_match(*pair) for pair in pairs) / 4),
        "f1": torch.tensor(sum(f1_score(*pair) for pair in pairs) / 4),
    }
    assert expected["em"] == 0.25
    torch.testing.assert_close(scores.compute(), expected)


def test_ranks_with_unequal_shares_add_up():
    whole, first, second = AnswerScores(), AnswerScores(), AnswerScores()
    whole.update(PREDICTIONS, ANSWERS)
    first.update(PREDICTIONS[:1], ANSWERS[:1])
    second.update(PREDICTIONS[1:], ANSWERS[1:])
    first.merge_state(second)
    torch.testing.assert_close(first.compute(), whole.compute())


def test_reset_forgets():
    scores = AnswerScores()
    scores.update(["x"], [["x"]])
    scores.reset()
    scores.update(["x"], [["y"]])
    assert scores.compute()["em"] == 0


def test_unequal_lengths_are_refused():
    with pytest.raises(DataError, match="2 predictions, 1 lists of answers"):
        AnswerScores().update(["x", "y"], [["x"]])


def test_docstring_examples():
    assert doctest.testmod(module).failed == 0
