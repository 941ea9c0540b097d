"""Passage scores and both distributions against loops and NumPy."""

import math

import numpy as np
import pytest
import torch

from datamodules.errors import DataError
from lightning_modules.objectives import ADist
from lightning_modules.scores import PASSAGE_SCORES, PassageTokens, less_length, log_p_attn, log_p_retr

B, K = 3, 4


def loop(token_scores, passage_of_token, question_of_prompt, how):
    """[B][K], a passage without tokens 0."""
    result = []
    for b in range(B):
        row = []
        for k in range(K):
            found = [
                token_scores[p][t]
                for p in range(len(token_scores))
                if question_of_prompt[p] == b
                for t in range(len(token_scores[p]))
                if passage_of_token[p][t] == k
            ]
            total = sum(found)
            row.append(total / len(found) if how == "mean" and found else total)
        result.append(row)
    return torch.tensor(result, dtype=torch.float32)


def passage_scores(token_scores, passage_of_token, question_of_prompt, how="sum"):
    """Of the scores of one answer row a prompt."""
    tokens = PassageTokens(passage_of_token, question_of_prompt, B, K)
    row_mask = torch.ones(len(token_scores), 1, dtype=torch.bool)
    return PASSAGE_SCORES[how](token_scores[:, None], row_mask, tokens)


def prompts(context):
    """Random scores, tokens of nothing (-1) among them, and a passage without any token."""
    generator = torch.Generator().manual_seed(0)
    if context == "concatenated":
        question_of_prompt = torch.arange(B)
        passage_of_token = torch.randint(-1, K, (B, 30), generator=generator)
    else:
        question_of_prompt = torch.arange(B).repeat_interleave(K)
        shown = torch.randint(0, 3, (B * K, 9), generator=generator) > 0
        passage_of_token = torch.where(shown, torch.arange(K).repeat(B)[:, None], -1)
    passage_of_token[0][passage_of_token[0] == 0] = -1
    token_scores = torch.rand(passage_of_token.shape, generator=generator)
    return token_scores, passage_of_token, question_of_prompt


@pytest.mark.parametrize("how", ["sum", "mean"])
@pytest.mark.parametrize("context", ["concatenated", "independent"])
def test_passage_scores_equal_a_loop(context, how):
    token_scores, passage_of_token, question_of_prompt = prompts(context)
    scores = passage_scores(token_scores, passage_of_token, question_of_prompt, how)
    expected = loop(token_scores.tolist(), passage_of_token.tolist(), question_of_prompt.tolist(), how)
    torch.testing.assert_close(scores, expected)
    assert scores[0, 0] == 0
    assert (expected > 0).sum() == B * K - 1


def test_tokens_of_nothing_do_not_count():
    token_scores, passage_of_token, question_of_prompt = prompts("concatenated")
    changed = torch.where(passage_of_token == -1, 1e6, token_scores)
    for how in ("sum", "mean"):
        assert torch.equal(
            passage_scores(changed, passage_of_token, question_of_prompt, how),
            passage_scores(token_scores, passage_of_token, question_of_prompt, how),
        )


def numpy_softmax(values):
    raised = np.exp(values - values.max(axis=-1, keepdims=True))
    return raised / raised.sum(axis=-1, keepdims=True)


@pytest.mark.parametrize("temperature", [1.0, 0.1, 2.5])
def test_softmax_p_attn_equals_numpy(temperature):
    scores = torch.rand(B, K, generator=torch.Generator().manual_seed(1))
    expected = numpy_softmax(scores.double().numpy() / temperature)
    result = log_p_attn(scores, "softmax", temperature).exp()
    np.testing.assert_allclose(result.numpy(), expected, rtol=1e-5)


def test_sum_p_attn_equals_numpy_and_has_no_temperature():
    scores = torch.rand(B, K, generator=torch.Generator().manual_seed(1))
    expected = scores.numpy() / scores.numpy().sum(axis=-1, keepdims=True)
    for temperature in (1.0, 0.1):
        np.testing.assert_allclose(log_p_attn(scores, "sum", temperature).exp().numpy(), expected, rtol=1e-5)


def test_sum_p_attn_of_a_passage_without_attention_is_finite():
    result = log_p_attn(torch.tensor([[0.0, 1.0, 3.0]]), "sum")
    assert result.isfinite().all()
    torch.testing.assert_close(result.exp(), torch.tensor([[0.0, 0.25, 0.75]]))


@pytest.mark.parametrize("divide_by_sqrt_dim", [False, True])
@pytest.mark.parametrize("temperature", [1.0, 0.05])
def test_p_retr_equals_numpy(temperature, divide_by_sqrt_dim):
    generator = torch.Generator().manual_seed(2)
    queries, passages = torch.randn(B, 16, generator=generator), torch.randn(B, K, 16, generator=generator)
    scores = np.array(
        [[float(queries[b].double() @ passages[b, k].double()) for k in range(K)] for b in range(B)]
    )
    if divide_by_sqrt_dim:
        scores = scores / 4.0
    expected = np.log(numpy_softmax(scores / temperature))
    result = log_p_retr(queries, passages, temperature, divide_by_sqrt_dim)
    np.testing.assert_allclose(result.numpy(), expected, rtol=1e-4, atol=1e-5)
    plain = log_p_retr(queries, passages, temperature, not divide_by_sqrt_dim)
    assert not np.allclose(plain.numpy(), expected, rtol=1e-2)


@pytest.mark.parametrize("divide_by_sqrt_dim", [False, True])
def test_other_passages_of_the_batch_stand_in_the_softmax(divide_by_sqrt_dim):
    generator = torch.Generator().manual_seed(5)
    queries, passages = torch.randn(3, 16, generator=generator), torch.randn(3, 2, 16, generator=generator)
    is_other = torch.rand(3, 3, 2, generator=generator) > 0.4
    is_other[torch.arange(3), torch.arange(3)] = False
    result = log_p_retr(queries, passages, 0.5, divide_by_sqrt_dim, is_other)
    scale = 0.5 * (4 if divide_by_sqrt_dim else 1)
    for q in range(3):
        own = [math.exp(float(queries[q] @ passages[q, k]) / scale) for k in range(2)]
        others = [
            math.exp(float(queries[q] @ passages[b, k]) / scale)
            for b in range(3)
            for k in range(2)
            if is_other[q, b, k]
        ]
        expected = [math.log(value / (sum(own) + sum(others))) for value in own]
        assert result[q].tolist() == pytest.approx(expected, rel=1e-4)
    none = torch.zeros(3, 3, 2, dtype=torch.bool)
    torch.testing.assert_close(
        log_p_retr(queries, passages, 0.5, divide_by_sqrt_dim, none),
        log_p_retr(queries, passages, 0.5, divide_by_sqrt_dim),
    )


def test_mixed_precision_leaves_the_scores_alone():
    generator = torch.Generator().manual_seed(3)
    queries, passages = torch.randn(B, 64, generator=generator), torch.randn(B, K, 64, generator=generator)
    prompt = prompts("concatenated")
    with torch.autocast("cpu", dtype=torch.bfloat16):
        retr = log_p_retr(queries, passages)
        attn = log_p_attn(passage_scores(*prompt))
    assert torch.equal(retr, log_p_retr(queries, passages))
    assert torch.equal(attn, log_p_attn(passage_scores(*prompt)))
    assert retr.dtype == attn.dtype == torch.float32


def test_gradient_of_p_retr_flows_into_both_embeddings():
    generator = torch.Generator().manual_seed(4)
    queries = torch.randn(B, 8, generator=generator, dtype=torch.float64, requires_grad=True)
    passages = torch.randn(B, K, 8, generator=generator, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda q, p: log_p_retr(q, p, 0.7, True), (queries, passages))
    is_other = ~torch.eye(B, dtype=torch.bool)[..., None].expand(B, B, K)
    assert torch.autograd.gradcheck(lambda q, p: log_p_retr(q, p, 0.7, True, is_other), (queries, passages))


def test_unknown_choices_are_refused():
    with pytest.raises(ValueError, match="choose one of: sum, mean"):
        ADist(passage_score="max")
    with pytest.raises(DataError, match="choose one of: softmax, sum"):
        log_p_attn(torch.ones(1, 2), "linear")


@pytest.mark.parametrize("context", ["concatenated", "independent"])
def test_sums_and_counts_of_passages_equal_a_loop(context):
    token_scores, passage_of_token, question_of_prompt = prompts(context)
    tokens = PassageTokens(passage_of_token, question_of_prompt, B, K)
    expected = loop(token_scores.tolist(), passage_of_token.tolist(), question_of_prompt.tolist(), "sum")
    torch.testing.assert_close(tokens.sum(token_scores), expected)
    ones = torch.ones_like(token_scores).tolist()
    counts = loop(ones, passage_of_token.tolist(), question_of_prompt.tolist(), "sum")
    assert torch.equal(tokens.count(), counts.long())
    assert tokens.count()[0, 0] == 0


@pytest.mark.parametrize("num", [1, 3, 100])
@pytest.mark.parametrize("context", ["concatenated", "independent"])
def test_highest_tokens_are_those_that_sorting_finds(context, num):
    token_scores, passage_of_token, question_of_prompt = prompts(context)
    highest = PassageTokens(passage_of_token, question_of_prompt, B, K).highest(token_scores, num)
    for row, ranks in enumerate(passage_of_token.tolist()):
        for k in range(K):
            own = [t for t, rank in enumerate(ranks) if rank == k]
            own.sort(key=lambda t: -float(token_scores[row, t]))
            kept = (highest.passage_of_token[row] == k).nonzero()[:, 0].tolist()
            assert kept == sorted(own[:num])


def test_less_length_leaves_nothing_of_length_and_all_of_what_is_not_length():
    random = torch.Generator().manual_seed(0)
    lengths = torch.rand(50, 6, generator=random) * 90 + 10
    content = torch.randn(50, 6, generator=random)
    assert less_length(3 * lengths.log() - 1, lengths).abs().max() < 1e-4
    left = less_length(content + 0.7 * lengths.log(), lengths)
    standard = (content + 0.7 * lengths.log()).double().numpy()
    standard = (standard - standard.mean(axis=1, keepdims=True)) / standard.std(axis=1, keepdims=True)
    log_lengths = lengths.double().log().numpy()
    log_lengths = (log_lengths - log_lengths.mean(axis=1, keepdims=True)) / log_lengths.std(
        axis=1, keepdims=True
    )
    (slope,), *_ = np.linalg.lstsq(log_lengths.reshape(-1, 1), standard.ravel(), rcond=None)
    assert left.numpy() == pytest.approx(standard - slope * log_lengths, abs=1e-4)
    broken = content.clone()
    broken[3, 2] = math.nan
    left = less_length(broken, lengths)
    others = torch.arange(50) != 3
    assert left[3].isnan().all(), "a question that is no number stays none"
    torch.testing.assert_close(left[others], less_length(content[others], lengths[others]))
