"""Published scores of heads against loops, and their cross-validation on planted heads and leaks."""

import math
import statistics

import pytest
import torch

from lightning_modules.metrics.head_methods import (
    HEAD_METHODS,
    contrastive_score,
    judge_heads,
    ranked_heads,
    ranking_quality,
)
from lightning_modules.metrics.matched_auc import matched_auc
from lightning_modules.metrics.teacher_auc import teacher_auc

QUESTIONS, LAYERS, HEADS, PASSAGES = 30, 3, 4, 13


def made_up(seed: int = 0, questions: int = QUESTIONS) -> tuple[torch.Tensor, torch.Tensor]:
    """Heads of very different sizes that know nothing; each question has positives and negatives."""
    generator = torch.Generator().manual_seed(seed)
    sizes = torch.rand(LAYERS, HEADS, 1, generator=generator) * 3 + 0.1
    scores = torch.rand(questions, LAYERS, HEADS, PASSAGES, generator=generator) * sizes
    has_answer = torch.rand(questions, PASSAGES, generator=generator) < 0.3
    has_answer[:, 0], has_answer[:, 1] = True, False
    return scores, has_answer


def slow_ndcg(scores: list[float], has_answer: list[bool]) -> float:
    """nDCG@10 of scores without ties, from a sorted list."""
    order = sorted(range(len(scores)), key=lambda i: -scores[i])
    gain = sum(1 / math.log2(2 + place) for place, i in enumerate(order[:10]) if has_answer[i])
    return gain / sum(1 / math.log2(2 + place) for place in range(min(10, sum(has_answer))))


def slow_share(scores: list[float], has_answer: list[bool], temperature: float) -> float:
    """Mean over positives of the softmax over that positive and all negatives."""
    negatives = [s for s, answers in zip(scores, has_answer, strict=True) if not answers]
    shares = []
    for positive in (s for s, answers in zip(scores, has_answer, strict=True) if answers):
        weights = [math.exp(s / temperature) for s in (positive, *negatives)]
        shares.append(weights[0] / sum(weights))
    return statistics.mean(shares)


def by_loop(scores: torch.Tensor, has_answer: torch.Tensor, of_question) -> torch.Tensor:
    found = torch.zeros(LAYERS, HEADS)
    for layer in range(LAYERS):
        for head in range(HEADS):
            pairs = zip(scores[:, layer, head].tolist(), has_answer.tolist(), strict=True)
            found[layer, head] = statistics.mean(of_question(s, a) for s, a in pairs)
    return found


def test_ranking_quality_equals_the_loop():
    scores, has_answer = made_up()
    has_answer[3, :12] = True  # more positives than ranks that count
    torch.testing.assert_close(ranking_quality(scores, has_answer), by_loop(scores, has_answer, slow_ndcg))
    assert torch.equal(ranking_quality(scores * 1000, has_answer), ranking_quality(scores, has_answer))


def test_tied_passages_do_not_depend_on_their_order():
    tied = torch.tensor([[[[1.0, 1.0, 0.0]]]])
    of_mean_rank = 1 / math.log2(1 + 1.5)
    for has_answer in ([True, False, False], [False, True, False]):
        found = ranking_quality(tied, torch.tensor([has_answer]))
        assert found.item() == pytest.approx(of_mean_rank)


@pytest.mark.parametrize("temperature", [0.05, 1.0, 30.0])
def test_contrastive_score_equals_the_loop(temperature):
    scores, has_answer = made_up()
    expected = by_loop(scores, has_answer, lambda s, a: slow_share(s, a, temperature))
    torch.testing.assert_close(contrastive_score(scores, has_answer, temperature), expected)


def test_the_usual_temperature_follows_the_scores():
    scores, has_answer = made_up()
    spreads = [
        math.sqrt(statistics.mean(statistics.pvariance(q) for q in scores[:, layer, head].double().tolist()))
        for layer in range(LAYERS)
        for head in range(HEADS)
    ]
    usual = sorted(spreads)[(len(spreads) - 1) // 2]
    found = contrastive_score(scores, has_answer)
    torch.testing.assert_close(found, contrastive_score(scores, has_answer, usual))
    torch.testing.assert_close(found, contrastive_score(scores * 100, has_answer))
    same = torch.ones_like(scores)
    shares = 1 / (1 + (~has_answer).sum(dim=1))
    torch.testing.assert_close(
        contrastive_score(same, has_answer), shares.mean().expand(LAYERS, HEADS), msg="chance, and no NaN"
    )


@pytest.mark.parametrize("method", list(HEAD_METHODS))
def test_a_planted_head_is_first_and_worth_it(method):
    scores, has_answer = made_up(seed=1)
    scores[:, 1, 2] += 3 * has_answer
    scores[:, 0, 0] *= 50  # loud, and knows nothing: it drowns the mean over all heads
    assert ranked_heads(HEAD_METHODS[method](scores, has_answer))[0].tolist() == [1, 2]
    lengths = torch.ones(has_answer.shape)
    one, two, of_all = judge_heads(scores, has_answer, lengths, HEAD_METHODS[method], (1, 2))
    assert [row.num_heads for row in (one, two, of_all)] == [1, 2, LAYERS * HEADS]
    assert one.auc == 1.0 >= two.auc > of_all.auc
    expected = teacher_auc(scores.double().mean(dim=(1, 2)), has_answer)
    assert of_all.auc == pytest.approx(expected.double().mean().item())
    assert (of_all.gain, of_all.interval) == (0.0, (0.0, 0.0))
    assert one.gain == pytest.approx(one.auc - of_all.auc)
    assert one.interval[0] <= one.gain <= one.interval[1]
    assert one.interval[0] > 0


def test_no_held_out_question_has_part_in_its_choice():
    """Each question has a head that is right there, loudly, and wrong elsewhere; only a leak finds it."""
    scores = torch.zeros(10, 2, 5, 2)
    scores[..., 1] = 1.0
    has_answer = torch.tensor([[True, False]]).expand(10, -1)
    for question in range(10):
        scores[question, question // 5, question % 5] = torch.tensor([100.0, 0.0])
    for method in HEAD_METHODS.values():
        one, of_all = judge_heads(scores, has_answer, torch.ones(10, 2), method, (1,))
        assert (one.auc, of_all.auc) == (0.0, 1.0)


def test_length_is_told_from_content():
    scores, has_answer = made_up(seed=2, questions=60)
    generator = torch.Generator().manual_seed(3)
    lengths = (torch.randn(has_answer.shape, generator=generator) + 2 * has_answer).exp()
    scores[:, 2, 1] = 100 * lengths.log()
    one, of_all = judge_heads(scores, has_answer, lengths, ranking_quality, (1,))
    assert one.auc > 0.8
    assert one.at_equal_length == matched_auc(lengths.double(), has_answer, lengths)
    assert one.at_equal_length.mean == pytest.approx(0.5)
    assert one.to_json() == {
        "num_heads": 1,
        "auc": round(one.auc, 4),
        "gain": round(one.auc - of_all.auc, 4),
        "low": round(one.interval[0], 4),
        "high": round(one.interval[1], 4),
        "auc_at_equal_length": 0.5,
    }


def test_nothing_to_match_by_length_is_null():
    scores, has_answer = made_up(seed=4)
    lengths = 1.0 + has_answer
    one, _ = judge_heads(scores, has_answer, lengths, ranking_quality, (1,))
    assert one.to_json()["auc_at_equal_length"] is None
