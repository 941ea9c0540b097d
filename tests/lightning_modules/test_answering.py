"""How the questions that are read are shared out among processes."""

import pytest

from lightning_modules.answering import share_of


@pytest.mark.parametrize("world_size", [1, 2, 3, 5])
@pytest.mark.parametrize("num_questions", [0, 1, 4, 7])
def test_shares_are_of_questions_dealt_out_in_turn(num_questions, world_size):
    dealt = [list(range(12))[rank::world_size] for rank in range(world_size)]
    read = [mine[: share_of(num_questions, rank, world_size)] for rank, mine in enumerate(dealt)]
    assert sorted(question for mine in read for question in mine) == list(range(num_questions))


def test_all_of_all_is_all():
    assert share_of(None, rank=1, world_size=2) is None
