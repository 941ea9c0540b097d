"""A batch whose step does not fit into the memory of the device: its losses and gradients part by part."""

import logging
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from datamodules.batches import Batch

log = logging.getLogger(__name__)

Losses = dict[str, Tensor]
"""Means over the questions of a batch, by name."""


class PartsOfBatch:
    """Gives the losses of a whole batch, made in parts that fit into the memory.

    Where a device runs out of memory, forward or backward, the part is halved, from that step on. Losses are
    means over questions, so those of the parts, weighted by their questions, add up to the batch's, and the
    gradients with them: what is learnt is the same up to rounding (and to dropout, which is drawn anew). The
    activations of one part are kept at a time, and the sum of the gradients beside them.

    Attributes:
        num_questions: of a part, at most; None = the whole batch.
    """

    def __init__(self) -> None:
        self.num_questions: int | None = None

    def losses(
        self, compute: Callable[[Batch], Losses], batch: Batch, weights: Sequence[nn.Parameter]
    ) -> Losses:
        """The losses of a batch, as `compute` gives them for all of it; all gradients are the first one's.

        Args:
            compute: the losses of some questions.
            batch: all of them.
            weights: what is trained.

        Raises:
            torch.OutOfMemoryError: a single question does not fit.
        """
        random_state = _random_state()
        while True:
            size = min(self.num_questions or len(batch), len(batch))
            try:
                return _in_parts(compute, batch, weights, size)
            except torch.OutOfMemoryError:
                if size == 1:
                    raise
            # not within `except`: the error holds what was computed until it came
            if torch.cuda.is_available():
                torch.cuda.empty_cache()
            self.num_questions = (size + 1) // 2
            log.warning(
                "out of memory: from now on a batch of %d questions is computed in parts of %d, to the "
                "same result",
                len(batch),
                self.num_questions,
            )
            _set_random_state(random_state)


def _in_parts(
    compute: Callable[[Batch], Losses], batch: Batch, weights: Sequence[nn.Parameter], size: int
) -> Losses:
    sums: Losses = {}
    gradients: list[Tensor | None] = [None] * len(weights)
    for first in range(0, len(batch), size):
        part = _slice(batch, slice(first, first + size))
        losses = {name: len(part) / len(batch) * loss for name, loss in compute(part).items()}
        found = torch.autograd.grad(torch.stack(list(losses.values())).sum(), weights, allow_unused=True)
        for number, gradient in enumerate(found):
            if gradient is not None:
                before = gradients[number]
                gradients[number] = gradient if before is None else before.add_(gradient)
        for name, loss in losses.items():
            sums[name] = sums.get(name, torch.zeros_like(loss)) + loss.detach()
    name, loss = next(iter(sums.items()))
    return {**sums, name: _GivenGradients.apply(loss, gradients, *weights)}


class _GivenGradients(torch.autograd.Function):
    """A number whose gradients are known already."""

    @staticmethod
    def forward(ctx: Any, loss: Tensor, gradients: list[Tensor | None], *weights: Tensor) -> Tensor:
        ctx.gradients = gradients
        return loss.clone()

    @staticmethod
    def backward(ctx: Any, *outer: Any) -> Any:
        [factor] = outer
        return None, None, *(None if known is None else factor * known for known in ctx.gradients)


def _slice(batch: Batch, rows: slice) -> Batch:
    return replace(
        batch, questions=batch.questions[rows], passages=batch.passages[rows], answers=batch.answers[rows]
    )


def _random_state() -> tuple[Tensor, list[Tensor]]:
    on_gpus = torch.cuda.get_rng_state_all() if torch.cuda.is_available() else []
    return torch.get_rng_state(), on_gpus


def _set_random_state(state: tuple[Tensor, list[Tensor]]) -> None:
    torch.set_rng_state(state[0])
    if state[1]:
        torch.cuda.set_rng_state_all(state[1])
