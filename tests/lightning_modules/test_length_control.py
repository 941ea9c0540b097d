"""What a bonus for length does to a retriever, and how a run's gain is separated from it."""

import numpy as np
import pytest
import torch

from datamodules.batches import Passage, Question
from lightning_modules import length_control
from lightning_modules.encoding import encode_passages
from lightning_modules.length_control import PassageRanking, control_length
from tests.tiny_models import tiny_retriever, toy_passages, toy_questions


def ranking(scores, lengths=(1, 4, 16), answers=("b", "c"), titles=("", "")):
    passages = [
        Passage(str(i), letter.upper(), " ".join([letter] * n))
        for i, (letter, n) in enumerate(zip("abc", lengths, strict=True))
    ]
    questions = [
        Question(id=str(i), text="q", answers=(answer,), title=title)
        for i, (answer, title) in enumerate(zip(answers, titles, strict=True))
    ]
    return PassageRanking(np.array(scores, dtype=float), questions, passages, "tokens")


def test_a_bonus_moves_long_passages_up():
    questions = ranking([[1.0, 0.9, 0.0], [1.0, 0.9, 0.0]])
    plain, small, large = (questions.with_bonus(size, 1) for size in (0.0, 0.1, 1.0))
    assert (plain.hit_rate, small.hit_rate, large.hit_rate) == (0.0, 0.5, 0.5)
    assert [bonus.hits.tolist() for bonus in (small, large)] == [[1.0, 0.0], [0.0, 1.0]]
    assert (plain.words, small.words, large.words) == (1, 4, 16)
    assert questions.with_bonus(0.0, 2).hits.tolist() == [1.0, 0.0]
    assert questions.with_bonus(0.0, 2).words == 2.5


def test_bonuses_are_in_units_of_the_scores():
    scores = np.array([[1.0, 0.9, 0.0], [0.2, 0.9, 0.1]])
    sizes = ranking(scores).sizes()
    assert 0.0 in sizes
    assert min(sizes) < 0 < max(sizes)
    assert ranking(10 * scores).sizes() == pytest.approx([10 * size for size in sizes])
    assert ranking(scores, lengths=(3, 3, 3)).sizes() == [0.0]


@pytest.mark.parametrize(
    ("titles", "size", "k", "found"),
    [
        (("A", "C"), 0.0, 1, 0.5),
        (("A", "C"), 0.0, 2, 0.5),
        (("A", "C"), 0.0, 3, 1.0),
        (("A", "C"), 1.0, 1, 0.5),
        (("A", "A"), 1.0, 1, 0.0),
        # a question that names no passage does not count, one that names a missing passage does
        (("A", ""), 0.0, 1, 1.0),
        (("A", "Z"), 0.0, 1, 0.5),
        (("", ""), 0.0, 1, None),
    ],
)
def test_gold_passages_are_found_by_title(titles, size, k, found):
    questions = ranking([[1.0, 0.9, 0.0], [1.0, 0.9, 0.0]], titles=titles)
    assert questions.with_bonus(size, k).gold_found == found


def two_retrievers():
    start, trained = tiny_retriever(), tiny_retriever()
    torch.manual_seed(3)
    for weights in trained.parameters():
        weights.data += 0.1 * torch.randn_like(weights)
    return start, trained


def test_gains_are_differences_of_hit_rates():
    start, trained = two_retrievers()
    questions, passages = toy_questions(), toy_passages()
    validation, test = questions[::2], questions[1::2]
    found = control_length(start, trained, passages, validation, test, num_passages=3)
    for retriever, controlled in ((start, found.start), (trained, found.trained)):
        sizes = {
            size: PassageRanking.of(
                retriever, encode_passages(retriever, passages), validation, passages, "tokens"
            )
            .with_bonus(size, 3)
            .hit_rate
            for size in PassageRanking.of(
                retriever, encode_passages(retriever, passages), validation, passages, "tokens"
            ).sizes()
        }
        assert controlled.plain.size == 0.0
        assert sizes[controlled.chosen.size] == max(sizes.values()), "chosen on the validation questions"
        on_test = PassageRanking.of(retriever, encode_passages(retriever, passages), test, passages, "tokens")
        assert controlled.chosen.hit_rate == on_test.with_bonus(controlled.chosen.size, 3).hit_rate
    start_plain, start_chosen = found.start.plain.hit_rate, found.start.chosen.hit_rate
    assert found.gain.mean == pytest.approx(found.trained.plain.hit_rate - start_plain)
    assert found.by_length.mean == pytest.approx(start_chosen - start_plain)
    assert found.beyond_length.mean == pytest.approx(found.trained.chosen.hit_rate - start_chosen)
    assert found.corpus_words == pytest.approx(np.mean([len(passage.text.split()) for passage in passages]))


def test_too_many_passages_are_refused(monkeypatch):
    monkeypatch.setattr(length_control, "MAX_PASSAGES", 3)
    with pytest.raises(ValueError, match=r"passages: \d+ cannot all be scored at once"):
        control_length(*two_retrievers(), toy_passages(), [], [])
