"""How long what is found is."""

from datamodules.batches import Passage
from lightning_modules.evaluation import mean_words


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
