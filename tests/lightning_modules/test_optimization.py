import math

import lightning as L
import pytest
import torch
from torch import nn

from lightning_modules.optimization import LearningRate, LearningRateDecay, make_optimizer
from tests.toy_training import toy_trainer


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


def test_on_a_cpu_an_update_is_fused_and_the_same():
    torch.manual_seed(0)
    model, other = nn.Linear(40, 30), nn.Linear(40, 30)
    other.load_state_dict(model.state_dict())
    optimizer, _ = make_optimizer([(model, LearningRate(0.1, decay=LearningRateDecay.CONSTANT))], 5, 0.3)
    plain = torch.optim.AdamW(other.parameters(), lr=0.1, weight_decay=0.3, foreach=False)
    assert optimizer.defaults["fused"]
    for inputs in torch.randn(5, 8, 40):
        for of, update in ((model, optimizer), (other, plain)):
            update.zero_grad()
            of(inputs).square().sum().backward()
            update.step()
    for weight, expected in zip(model.parameters(), other.parameters(), strict=True):
        torch.testing.assert_close(weight, expected, rtol=1e-5, atol=1e-6)


def test_on_other_devices_torch_chooses():
    optimizer, _ = make_optimizer([(nn.Linear(2, 2, device="meta"), LearningRate(1.0))], 1)
    assert optimizer.defaults["fused"] is None


@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed"])
def test_a_fused_update_is_clipped_in_any_precision(precision, tmp_path):
    """Lightning refuses a fused optimizer in mixed precision, where it could undo a scaled loss."""

    class Module(L.LightningModule):
        def __init__(self):
            super().__init__()
            self.layer = nn.Linear(4, 1)

        def training_step(self, batch):
            return 1e3 * self.layer(batch).sum()

        def on_train_batch_end(self, outputs, batch, batch_idx):
            self.norm = torch.nn.utils.get_total_norm([weight.grad for weight in self.parameters()])

        def configure_optimizers(self):
            return make_optimizer([(self, LearningRate(0.1))], 2)[0]

    trainer = toy_trainer(tmp_path, [], precision=precision, max_steps=2, gradient_clip_val=0.5)
    module = Module()
    before = module.layer.weight.detach().clone()
    trainer.fit(module, torch.utils.data.DataLoader(torch.ones(2, 4)))
    assert float(module.norm) == pytest.approx(0.5, rel=1e-2)
    assert not torch.equal(module.layer.weight, before)
