"""Learning rates of the two models: each with its own peak and warm-up, in one optimizer."""

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, assert_never

import torch
from torch import nn

from datamodules.choices import Choice


class LearningRateDecay(Choice):
    """What follows the warm-up."""

    LINEAR = "linear"
    """To 0 at the last step (Atlas's `linear`)."""
    CONSTANT = "constant"


@dataclass(frozen=True)
class LearningRate:
    """How one model is trained.

    Attributes:
        peak: learning rate after the warm-up.
        warmup_steps: optimizer steps of linear warm-up.
        decay: what follows.
    """

    peak: float
    warmup_steps: int = 0
    decay: LearningRateDecay = LearningRateDecay.LINEAR

    def factor(self, step: int, num_steps: int) -> float:
        """The share of the peak at an optimizer step (0-based) of `num_steps`."""
        if step < self.warmup_steps:
            return (step + 1) / (self.warmup_steps + 1)
        match self.decay:
            case LearningRateDecay.CONSTANT:
                return 1.0
            case LearningRateDecay.LINEAR:
                return max(0.0, (num_steps - step) / max(1, num_steps - self.warmup_steps))
            case _:
                assert_never(self.decay)


def make_optimizer(
    models: Sequence[tuple[nn.Module, LearningRate]], num_steps: int, weight_decay: float = 0.0
) -> tuple[torch.optim.Optimizer, torch.optim.lr_scheduler.LRScheduler]:
    """Adam (decoupled weight decay) with a parameter group, and a schedule, for each model.

    On a CPU it is torch's fused one, which reads and writes a weight once an update.

    Raises:
        ValueError: no model has a trainable parameter.
    """
    groups: list[dict[str, Any]] = []
    rates: list[LearningRate] = []
    for model, rate in models:
        parameters = [p for p in model.parameters() if p.requires_grad]
        if parameters:
            groups.append({"params": parameters, "lr": rate.peak})
            rates.append(rate)
    if not groups:
        raise ValueError("there is nothing to train; set train_retriever or train_reader to true")
    devices = {parameter.device.type for group in groups for parameter in group["params"]}
    fused = True if devices == {"cpu"} else None
    optimizer = torch.optim.AdamW(groups, weight_decay=weight_decay, fused=fused)
    # that it could undo the scaling of a loss itself is why Lightning refuses, in mixed precision, to clip
    # what a fused one updates with; without this it is undone before, as for any other optimizer
    optimizer._step_supports_amp_scaling = False
    factors: list[Callable[[int], float]] = [
        functools.partial(rate.factor, num_steps=num_steps) for rate in rates
    ]
    return optimizer, torch.optim.lr_scheduler.LambdaLR(optimizer, factors)
