"""The search for heads against loops, on planted heads, and on noise, where it must find nothing."""

import math
import statistics

import pytest
import torch

from lightning_modules.metrics.head_search import (
    HEAD_COUNTS,
    HeadSearch,
    head_auc,
    head_passage_scores,
    layer_auc,
    search_heads,
)
from lightning_modules.scores import PassageTokens

QUESTIONS, LAYERS, HEADS, PASSAGES = 60, 4, 5, 8


def noise(seed: int, questions: int = QUESTIONS) -> tuple[torch.Tensor, torch.Tensor]:
    """Heads of very different sizes that know nothing, and questions of every kind."""
    generator = torch.Generator().manual_seed(seed)
    scores = torch.rand(questions, LAYERS, HEADS, PASSAGES, generator=generator)
    sizes = torch.rand(LAYERS, HEADS, 1, generator=generator) * 3 + 0.1
    has_answer = torch.rand(questions, PASSAGES, generator=generator) < 0.3
    return scores * sizes, has_answer


def search(scores: torch.Tensor, has_answer: torch.Tensor, seed: int = 0) -> HeadSearch:
    """Of passages that are all equally long."""
    return search_heads(scores, has_answer, torch.ones(has_answer.shape), seed=seed)


def slow_auc(scores: list[float], has_answer: list[bool]) -> float:
    with_answer = [s for s, answers in zip(scores, has_answer, strict=True) if answers]
    without = [s for s, answers in zip(scores, has_answer, strict=True) if not answers]
    wins = [1.0 if a > b else 0.5 if a == b else 0.0 for a in with_answer for b in without]
    return statistics.mean(wins) if wins else math.nan


def slow_mean_auc(scores: torch.Tensor, has_answer: torch.Tensor) -> float:
    """Over the questions that have one. scores [questions, passages]"""
    found = [slow_auc(s, a) for s, a in zip(scores.tolist(), has_answer.tolist(), strict=True)]
    return statistics.mean(auc for auc in found if not math.isnan(auc))


# ---- from token scores to AUC ----


def test_passage_scores_by_head_are_those_of_each_head():
    generator = torch.Generator().manual_seed(0)
    by_head = torch.rand(6, LAYERS, HEADS, 11, generator=generator)
    passage_of_token = torch.randint(-1, 3, (6, 11), generator=generator)
    tokens = PassageTokens(passage_of_token, torch.tensor([0, 0, 0, 1, 1, 1]), 2, 3)
    found = head_passage_scores(by_head, tokens)
    for layer in range(LAYERS):
        for head in range(HEADS):
            torch.testing.assert_close(found[:, layer, head], tokens.sum(by_head[:, layer, head]))
    torch.testing.assert_close(found.mean(dim=(1, 2)), tokens.sum(by_head.mean(dim=(1, 2))))


def test_auc_by_head_and_by_layer_equal_the_loop():
    scores, has_answer = noise(seed=0)
    scores = (scores * 3).round()  # ties
    has_answer[0], has_answer[1] = True, False
    by_head, by_layer = head_auc(scores, has_answer), layer_auc(scores, has_answer)
    for layer in range(LAYERS):
        for head in range(HEADS):
            expected = slow_mean_auc(scores[:, layer, head], has_answer)
            assert by_head[layer, head].item() == pytest.approx(expected, abs=1e-6)
        expected = slow_mean_auc(scores.mean(dim=2)[:, layer], has_answer)
        assert by_layer[layer].item() == pytest.approx(expected, abs=1e-6)


def test_no_question_with_an_auc_is_nan():
    scores, has_answer = noise(seed=0)
    assert head_auc(scores, torch.ones_like(has_answer)).isnan().all()


# ---- the search ----


def test_a_planted_head_is_found_and_pays():
    scores, has_answer = noise(seed=1)
    scores[:, 2, 3] += 2 * has_answer
    scores[:, 0, 0] *= 100  # loud, and knows nothing: it drowns the mean over all heads
    found = search(scores, has_answer)
    assert found.heads.mask(LAYERS, HEADS)[2, 3]
    assert not found.heads.mask(LAYERS, HEADS)[0, 0]
    of_all = slow_mean_auc(scores.double().mean(dim=(1, 2)), has_answer)
    assert found.auc_of_all == pytest.approx(of_all, abs=1e-6)
    assert found.auc > 0.9 > found.auc_of_all
    assert found.difference == pytest.approx(found.auc - found.auc_of_all)
    assert 0 < found.interval[0] < found.difference < found.interval[1]
    assert found.pays
    assert found.excludes_zero


def test_many_weak_heads_are_better_together():
    """Each knows little: the number of heads must be chosen too, and not be 1."""
    scores, has_answer = noise(seed=2, questions=150)
    scores = scores / scores.mean(dim=(0, 3), keepdim=True)
    scores[:, 1] += 0.5 * has_answer[:, None]
    scores[:, 3] += 0.5 * has_answer[:, None]
    scores[:, ::2] *= 5
    found = search(scores, has_answer)
    mask = found.heads.mask(LAYERS, HEADS)
    assert mask.sum() == 8 in HEAD_COUNTS
    assert mask[[1, 3]].sum() == 8
    assert found.auc > head_auc(scores, has_answer).max()
    assert found.pays


def test_noise_gains_nothing_on_average():
    """The choice on all questions looks good on them; the reported difference must not."""
    found, flattering = [], []
    for seed in range(40):
        scores, has_answer = noise(seed)
        result = search(scores, has_answer, seed=seed)
        found.append(result)
        chosen = scores.double()[:, result.heads.mask(LAYERS, HEADS)].mean(dim=1)[:, None, None]
        flattering.append(head_auc(chosen, has_answer).item() - result.auc_of_all)
    differences = [result.difference for result in found]
    error = statistics.stdev(differences) / math.sqrt(len(differences))
    assert abs(statistics.mean(differences)) < 2.5 * error < 0.03
    assert statistics.mean(flattering) > 0.03, "a choice judged on its own questions would fail this test"
    assert sum(result.pays for result in found) <= 4
    assert sum(result.excludes_zero for result in found) <= 8


def test_heads_that_follow_the_length_of_passages_do_not_pay():
    """Length is the best guess there is here; all other heads know a little of the content."""
    generator = torch.Generator().manual_seed(9)
    has_answer = torch.rand(200, PASSAGES, generator=generator) < 0.3
    lengths = (torch.randn(200, PASSAGES, generator=generator) + 2 * has_answer).exp()
    scores = torch.randn(200, LAYERS, HEADS, PASSAGES, generator=generator) + 0.1 * has_answer[:, None, None]
    scores[:, 1, 2] = lengths.log()
    found = search_heads(scores, has_answer, lengths)
    assert str(found.heads) == "1.2"
    assert found.interval[0] > 0
    assert found.at_equal_length.mean == pytest.approx(0.5)
    assert found.at_equal_length_of_all.mean > 0.55
    assert not found.pays


def test_no_held_out_question_has_part_in_its_choice():
    """Each question has a head that is right, loudly, there and wrong elsewhere; only a leak finds it."""
    _, has_answer = noise(seed=3, questions=10)
    has_answer[:, 0], has_answer[:, 1] = True, False
    scores = torch.where(has_answer, 0.0, 1.0)[:, None, None].repeat(1, 2, 5, 1)
    for question in range(10):
        scores[question, question // 5, question % 5] = 100 * has_answer[question]
    found = search(scores, has_answer)
    assert (found.auc, found.auc_of_all, found.interval) == (0.0, 1.0, (-1.0, -1.0))
    assert found.excludes_zero
    assert not found.pays


def test_ties_are_half_and_the_first_heads_are_taken():
    _, has_answer = noise(seed=4)
    found = search(torch.ones(QUESTIONS, LAYERS, HEADS, PASSAGES), has_answer)
    assert (found.auc, found.auc_of_all, found.difference, found.interval) == (0.5, 0.5, 0.0, (0.0, 0.0))
    assert not found.excludes_zero
    assert str(found.heads) == "0.*,1.*,2.*,3.0", "16 of 20, the most heads among equals"


def test_questions_without_an_auc_and_broken_ones_do_not_count():
    scores, has_answer = noise(seed=5)
    has_answer[:, 0], has_answer[:, 1] = True, False
    added, _ = noise(seed=6)
    kinds = torch.cat([torch.ones(30, PASSAGES), torch.zeros(29, PASSAGES), has_answer[:1]]).bool()
    added[-1, 0, 0, 0] = torch.nan
    plain = search(scores, has_answer)
    mixed = search(torch.cat([scores, added]), torch.cat([has_answer, kinds]))
    assert mixed == plain
    assert mixed.num_questions == QUESTIONS


def test_the_seed_decides():
    scores, has_answer = noise(seed=7)
    assert search(scores, has_answer, seed=1) == search(scores, has_answer, seed=1)
    assert search(scores, has_answer, seed=1) != search(scores, has_answer, seed=2)


def test_too_few_questions_are_refused():
    scores, has_answer = noise(seed=8)
    has_answer[9:] = False
    has_answer[:9, 0], has_answer[:9, 1] = True, False
    with pytest.raises(ValueError, match=r"only 9 questions have passages with and without .* at least 10"):
        search(scores, has_answer)
