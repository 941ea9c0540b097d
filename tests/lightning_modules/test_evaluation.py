"""What is found: how long it is, and where the first hit."""

import torch

from datamodules.answer_matching import AnswerMatch
from datamodules.batches import Passage, Question
from lightning_modules.evaluation import find_hits, first_hit_ranks, mean_words


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


def test_the_first_hit_is_that_of_the_first_text_with_an_answer():
    texts = ["Rome", "in Paris", "Paris again"]
    questions = [Question(str(i), "where", (answer,)) for i, answer in enumerate(("paris", "rome", "Oslo"))]
    found = [[Passage(text, "", text) for text in texts]] * 3
    hits = find_hits(questions, found, AnswerMatch.TOKENS)
    assert hits.tolist() == [[False, True, True], [True, False, False], [False] * 3]
    assert first_hit_ranks(hits).tolist() == [1, 0, -1]
    assert first_hit_ranks(torch.zeros(2, 0, dtype=torch.bool)).tolist() == [-1, -1]
