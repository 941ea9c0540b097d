"""The distillation loss against the sum written out, and against Atlas's own figures."""

import math

import numpy as np
import pytest
import torch

from datamodules.errors import DataError
from lightning_modules.objectives.base import kl_divergence
from lightning_modules.scores import log_p_attn


def distributions():
    generator = torch.Generator().manual_seed(0)
    target, student = (torch.randn(3, 5, generator=generator).log_softmax(dim=-1) for _ in range(2))
    return target.requires_grad_(), student.requires_grad_()


@pytest.mark.parametrize(("constants", "divisor"), [("plain", 3), ("atlas", 15)])
def test_loss_equals_the_sum_written_out(constants, divisor):
    target, student = distributions()
    total = 0.0
    for log_p, log_q in zip(target.tolist(), student.tolist(), strict=True):
        for lp, lq in zip(log_p, log_q, strict=True):
            total += math.exp(lp) * (lp - lq)
    loss = kl_divergence(target, student, constants)
    assert loss.item() == pytest.approx(total / divisor, rel=1e-5)
    assert total > 0.1


def test_is_zero_where_both_agree_and_grows_apart():
    target, student = distributions()
    assert kl_divergence(target, target).item() == pytest.approx(0.0, abs=1e-7)
    assert kl_divergence(target, student) > 0


def test_gradient_flows_into_the_student_only():
    target, _ = distributions()
    scores = torch.randn(3, 5, generator=torch.Generator().manual_seed(1), requires_grad=True)
    kl_divergence(target, scores.log_softmax(dim=-1)).backward()
    assert target.grad is None
    # d KL / d scores = (q - p) / B
    expected = (scores.detach().softmax(dim=-1) - target.detach().exp()) / 3
    torch.testing.assert_close(scores.grad, expected, rtol=1e-4, atol=1e-7)


def test_mixed_precision_leaves_the_loss_alone():
    target, student = distributions()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(kl_divergence(target, student), kl_divergence(target, student.float()))
        inside = kl_divergence(target, student)
    assert torch.equal(inside, kl_divergence(target, student))


def test_unknown_constants_are_refused():
    with pytest.raises(DataError, match="choose one of: plain, atlas"):
        kl_divergence(*distributions(), "fid")


@pytest.mark.parametrize(("tau_gold", "theta"), [(0.01, 0.01), (0.1, 0.1)])
def test_attention_distillation_equals_atlas(goldens_folder, tau_gold, theta):
    with np.load(goldens_folder / "atlas_fid_scores.npz") as goldens:
        gold, retriever_score = goldens["gold.adist"], goldens["in.retriever_score"]
        names = ("gold_dist", "score_logdist", "loss", "grad_retriever_score")
        expected = {name: goldens[f"kld.adist.tg{tau_gold}_ts{theta}.{name}"] for name in names}
    scores = torch.tensor(retriever_score, requires_grad=True)
    target = log_p_attn(torch.tensor(gold), temperature=tau_gold)
    student = (scores / theta).log_softmax(dim=-1)
    loss = kl_divergence(target, student, constants="atlas")
    loss.backward()
    results = (target.exp(), student.detach(), loss.detach(), scores.grad)
    for name, result in zip(names, results, strict=True):
        np.testing.assert_allclose(result.numpy(), expected[name], rtol=1e-5, atol=1e-8, err_msg=name)
