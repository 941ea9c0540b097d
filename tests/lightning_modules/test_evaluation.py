"""How the questions that are read are shared out among processes, and how long what is found is."""

import pytest

from datamodules.batches import Passage
from lightning_modules.evaluation import mean_words, share_of


@pytest.mark.parametrize("world_size", [1, 2, 3, 5])
@pytest.mark.parametrize("num_questions", [0, 1, 4, 7])
def test_shares_are_of_questions_dealt_out_in_turn(num_questions, world_size):
    dealt = [list(range(12))[rank::world_size] for rank in range(world_size)]
    read = [mine[: share_of(num_questions, rank, world_size)] for rank, mine in enumerate(dealt)]
    assert sorted(question for mine in read for question in mine) == list(range(num_questions))


def test_all_of_all_is_all():
    assert share_of(None, rank=1, world_size=2) is None


def test_words_of_the_first_passages_of_each_question():
    found = [
        [
            Passage("1", "a long title", "one two"),
            Passage("2", "", "one  two\nthree"),
            Passage("3", "", "x " * 9),
        ],
        [Passage("4", "", "one"), Passage("5", "", "one two"), Passage("6", "", "x " * 9)],
    ]
    assert mean_words(found, 2) == (2 + 3 + 1 + 2) / 4
