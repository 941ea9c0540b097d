"""Objectives that need no reader: what a good teacher must beat."""

import math

import pytest
import torch

from datamodules.batches import Batch
from lightning_modules.objectives import make_objective
from tests.tiny_models import toy_passages, toy_questions


class NoReader:
    """Any pass is an error."""

    def read(self, batch):
        raise AssertionError("a control reads nothing")

    answer_likelihoods = read_drops = read


def batch() -> Batch:
    questions, passages = toy_questions()[:2], toy_passages()
    return Batch(questions, [passages[:3], [passages[0], passages[13], passages[20]]], ["x", "y"])


def test_uniform_teaches_every_passage_alike_and_reads_nothing():
    objective = make_objective("uniform")
    log_p_retr = torch.tensor([[1.0, 0.0, -1.0], [0.0, 0.0, 3.0]]).log_softmax(dim=-1).requires_grad_()
    output = objective.read(NoReader(), batch())
    log_p_target = objective.log_p_target(output, log_p_retr)
    assert log_p_target.exp().flatten().tolist() == pytest.approx([1 / 3] * 6)
    loss = objective.loss(log_p_target, log_p_retr, output)
    by_hand = sum(math.log(1 / 3) - q for row in log_p_retr.tolist() for q in row) / 3 / 2
    assert loss.item() == pytest.approx(by_hand, rel=1e-5)
    loss.backward()
    assert log_p_retr.grad.abs().sum() > 0, "it pulls p_RETR towards even"
