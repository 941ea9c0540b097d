"""What the processes of a run have between them: objects, rows of tensors, and shares of a batch."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TypeVar

import torch
from jaxtyping import Float
from lightning import LightningModule, Trainer
from torch import Tensor

_ItemT = TypeVar("_ItemT")


def process_number() -> int:
    """Of this process among those of its run, from 0."""
    is_one_of_several = torch.distributed.is_available() and torch.distributed.is_initialized()
    return torch.distributed.get_rank() if is_one_of_several else 0


def gather(trainer: Trainer, items: list[_ItemT]) -> list[_ItemT]:
    """Those of all processes, process after process, as `InstanceValues.values` has them."""
    if trainer.world_size == 1:
        return items
    gathered: list[list[_ItemT]] = [[] for _ in range(trainer.world_size)]
    torch.distributed.all_gather_object(gathered, items)
    return [item for of_process in gathered for item in of_process]


@contextmanager
def failing_together(trainer: Trainer, kind: type[Exception]) -> Iterator[None]:
    """Where what is inside fails in one process, all fail with its error, and none waits for it in vain.

    Args:
        trainer: whose processes all come here.
        kind: of error, made of a message; any other is of its process alone.
    """
    error: Exception | None = None
    try:
        yield
    except kind as raised:
        error = raised
    messages = gather(trainer, [None if error is None else str(error)])
    if error is not None:
        raise error
    for message in messages:
        if message is not None:
            raise kind(message)


def gather_rows(module: LightningModule, rows: Float[Tensor, "own dim"]) -> Float[Tensor, "all dim"]:
    """Rows of all processes, process after process, of any number each; their gradients flow back."""
    counts = gather(module.trainer, [len(rows)])
    if len(counts) == 1:
        return rows
    padded = torch.nn.functional.pad(rows, (0, 0, 0, max(counts) - len(rows)))
    gathered = module.all_gather(padded, sync_grads=True)
    assert isinstance(gathered, Tensor)
    return torch.cat([of_process[:count] for of_process, count in zip(gathered, counts, strict=True)])


def weight_of_share(module: LightningModule, num_questions: int) -> float:
    """What the mean over one process's questions is multiplied with to make means over processes exact.

    Gradients and losses are averaged over the processes; where these have unequally many questions, the mean
    of their means is not the mean over all questions.

    Args:
        module: in training.
        num_questions: of this process.
    """
    trainer = module.trainer
    if trainer.world_size == 1:
        return 1.0
    total = trainer.strategy.reduce(torch.tensor(num_questions, device=module.device), reduce_op="sum")
    return num_questions * trainer.world_size / int(total)
