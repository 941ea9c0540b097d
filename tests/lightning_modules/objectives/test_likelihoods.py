"""Targets made of likelihoods, and passage scores of answer rows, against loops."""

import math

import pytest
import torch

from lightning_modules.objectives.emdr2 import log_p_posterior, marginal_likelihood_loss
from lightning_modules.objectives.loop import leave_one_out_marginals, leave_one_out_scores
from lightning_modules.readers.outputs import mean_log_prob
from lightning_modules.scores import PASSAGE_SCORES, PassageTokens

B, K, L = 2, 3, 4


@pytest.fixture
def likelihoods():
    """Log-probabilities of answers of 4 and 2 tokens; rubbish where there is none."""
    generator = torch.Generator().manual_seed(0)
    mask = torch.tensor([[True] * 4, [True, True, False, False]])
    log_probs = -3 * torch.rand(B, K, L, generator=generator)
    scores = torch.randn(B, K, generator=generator)
    return log_probs.masked_fill(~mask[:, None], 77.0), mask, scores


def test_mean_likelihoods_equal_a_loop(likelihoods):
    log_probs, mask, _ = likelihoods
    means = mean_log_prob(log_probs, mask)
    for b, length in enumerate((4, 2)):
        for k in range(K):
            assert means[b, k].item() == pytest.approx(sum(log_probs[b, k, :length].tolist()) / length)
    assert torch.equal(leave_one_out_scores(log_probs, mask), -means)


def test_marginals_without_a_passage_equal_a_loop(likelihoods):
    log_probs, _, scores = likelihoods
    p_retr = scores.softmax(dim=-1)
    without = leave_one_out_marginals(log_probs, p_retr.log())
    for b in range(B):
        for i in range(K):
            others = [j for j in range(K) if j != i]
            total = sum(p_retr[b, j].item() for j in others)
            for t in range((4, 2)[b]):
                expected = sum(p_retr[b, j].item() / total * math.exp(log_probs[b, j, t]) for j in others)
                assert without[b, i, t].exp().item() == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("constants", ["plain", "atlas"])
def test_marginal_likelihood_equals_a_loop(likelihoods, constants):
    log_probs, mask, scores = likelihoods
    p_retr = scores.softmax(dim=-1)
    terms = []
    for b, length in enumerate((4, 2)):
        products = p_retr[b, :, None] * log_probs[b, :, :length].exp()
        terms.append([math.log(sum(of_token)) for of_token in products.T.tolist()])
    flat = [term for of_answer in terms for term in of_answer]
    means = [sum(of_answer) / len(of_answer) for of_answer in terms]
    expected = {"atlas": -sum(flat) / 6, "plain": -sum(means) / 2}[constants]
    loss = marginal_likelihood_loss(log_probs, mask, p_retr.log(), constants)
    assert loss.item() == pytest.approx(expected, rel=1e-5)


def test_posterior_is_what_the_marginal_likelihood_pulls_towards(likelihoods):
    log_probs, mask, scores = likelihoods
    scores.requires_grad_()
    log_p_retr = scores.log_softmax(dim=-1)
    marginal_likelihood_loss(log_probs.requires_grad_(), mask, log_p_retr).backward()
    target = log_p_posterior(log_probs, mask, log_p_retr).exp()
    torch.testing.assert_close(target.sum(dim=-1), torch.ones(B))
    torch.testing.assert_close(scores.grad, (log_p_retr.exp() - target).detach() / B)
    assert log_probs.grad is None


@pytest.mark.parametrize("how", ["sum", "mean", "top5", "top10", "first"])
@pytest.mark.parametrize("context", ["concatenated", "independent"])
def test_passage_scores_of_rows_equal_a_loop(context, how):
    generator = torch.Generator().manual_seed(1)
    prompts = B if context == "concatenated" else B * K
    question_of_prompt = torch.arange(B).repeat_interleave(prompts // B)
    if context == "concatenated":
        passage_of_token = torch.randint(-1, K, (prompts, 30), generator=generator)
    else:
        shown = torch.randint(0, 4, (prompts, 30), generator=generator) > 0
        passage_of_token = torch.where(shown, torch.arange(K).repeat(B)[:, None], -1)
    rows = torch.rand(prompts, 3, 30, generator=generator)
    lengths = [3, 2]
    row_mask = torch.arange(3) < torch.tensor(lengths)[question_of_prompt][:, None]
    tokens = PassageTokens(passage_of_token, question_of_prompt, B, K)
    scores = PASSAGE_SCORES[how](rows, row_mask, tokens)
    for b in range(B):
        for k in range(K):
            of_row = []
            for r in range(1 if how == "first" else lengths[b]):
                found = [
                    rows[p, r, t].item()
                    for p in range(prompts)
                    for t in range(30)
                    if question_of_prompt[p] == b and passage_of_token[p, t] == k
                ]
                if how.startswith("top"):
                    found = sorted(found, reverse=True)[: int(how[3:])]
                    of_row.append(sum(found) / int(how[3:]))
                else:
                    of_row.append(sum(found) if how == "sum" else sum(found) / len(found))
            assert scores[b, k].item() == pytest.approx(sum(of_row) / len(of_row), rel=1e-5)
    if how in ("sum", "mean"):
        weights = row_mask / row_mask.sum(dim=1, keepdim=True)
        mean = (rows * weights[..., None]).sum(dim=1, keepdim=True)
        of_mean = PASSAGE_SCORES[how](mean, torch.ones(prompts, 1, dtype=torch.bool), tokens)
        torch.testing.assert_close(scores, of_mean)
