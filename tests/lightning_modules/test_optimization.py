import math

import pytest
import torch
from torch import nn

from lightning_modules.optimization import LearningRate, LearningRateDecay, make_optimizer


def test_linear_warmup_and_decay():
    rate = LearningRate(1.0, warmup_steps=4)
    factors = [rate.factor(step, num_steps=10) for step in range(12)]
    assert factors == pytest.approx([0.2, 0.4, 0.6, 0.8, 1, 5 / 6, 4 / 6, 3 / 6, 2 / 6, 1 / 6, 0, 0])


def test_constant_after_warmup():
    rate = LearningRate(1.0, warmup_steps=1, decay=LearningRateDecay.CONSTANT)
    assert [rate.factor(step, num_steps=3) for step in range(5)] == [0.5, 1, 1, 1, 1]


@pytest.mark.parametrize("num_steps", [1, 4])
def test_a_run_shorter_than_its_warmup_stays_finite(num_steps):
    rate = LearningRate(1.0, warmup_steps=4)
    factors = [rate.factor(step, num_steps) for step in range(num_steps + 1)]
    assert all(math.isfinite(factor) and 0 <= factor <= 1 for factor in factors)


def test_each_model_has_its_own_rate_and_schedule():
    first, second = nn.Linear(2, 2), nn.Linear(3, 3)
    rates = LearningRate(0.1), LearningRate(0.01, warmup_steps=3, decay=LearningRateDecay.CONSTANT)
    optimizer, schedule = make_optimizer([(first, rates[0]), (second, rates[1])], 4, weight_decay=0.5)
    assert [group["params"] for group in optimizer.param_groups] == [
        list(first.parameters()),
        list(second.parameters()),
    ]
    assert [group["weight_decay"] for group in optimizer.param_groups] == [0.5, 0.5]
    seen = []
    for _ in range(4):
        seen.append([group["lr"] for group in optimizer.param_groups])
        optimizer.step()
        schedule.step()
    assert [first for first, _ in seen] == pytest.approx([0.1, 0.075, 0.05, 0.025])
    assert [second for _, second in seen] == pytest.approx([0.0025, 0.005, 0.0075, 0.01])


def test_frozen_parameters_get_no_group():
    frozen, half = nn.Linear(2, 2).requires_grad_(False), nn.Linear(2, 2)
    half.bias.requires_grad_(False)
    optimizer, _ = make_optimizer([(frozen, LearningRate(1.0)), (half, LearningRate(0.5))], 1)
    assert [(group["params"], group["lr"]) for group in optimizer.param_groups] == [([half.weight], 0.5)]
    assert isinstance(optimizer, torch.optim.AdamW)


def test_nothing_to_train_is_refused():
    with pytest.raises(ValueError, match="nothing to train"):
        make_optimizer([(nn.Linear(2, 2).requires_grad_(False), LearningRate(1.0))], 1)
