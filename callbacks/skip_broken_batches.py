"""A batch whose numbers break changes nothing; a run whose numbers stay broken ends."""

import logging
from collections import deque
from collections.abc import Sequence
from typing import Any

import torch
from lightning import Callback, LightningModule, Trainer
from lightning.pytorch.trainer.states import TrainerFn
from torch import Tensor
from torch.nn.utils import get_total_norm

from lightning_modules.processes import gather
from lightning_modules.retriever_reader import RetrieverReaderModule, StepRows

log = logging.getLogger(__name__)

_NAMED = 20
"""Questions that a message names; the others are counted."""


class BrokenNumbersError(Exception):
    """What broke, with the ids of the questions."""


class SkipBrokenBatches(Callback):
    """Leaves out optimizer steps whose loss or gradient is NaN or infinite, and ends a run that stays broken.

    The gradients of such a step are dropped in all processes, so that weights and optimizer stay as they are;
    the step counts as one that changed nothing, as those that a loss scaler skips do. Its questions are
    logged and kept. `BrokenNumbersError` is raised after more than `max_in_a_row` of them in a row, and where
    trained weights are NaN or infinite, which is looked for before validations and before anything is saved.
    The device is waited for once an optimizer step.

    It must come before the callbacks that use or save what it looks at.

    Args:
        max_in_a_row: steps that may be skipped one after the other.

    Attributes:
        skipped: `{"step": N, "questions": [ids]}` of each step skipped, N = 1 for the first.

    Raises:
        ValueError: `max_in_a_row` is negative.
    """

    def __init__(self, max_in_a_row: int = 10) -> None:
        if max_in_a_row < 0:
            raise ValueError(f"max_in_a_row={max_in_a_row} must be at least 0")
        self.max_in_a_row = max_in_a_row
        self.skipped: list[dict[str, Any]] = []
        self._num_in_a_row = 0
        self._losses: list[tuple[Tensor, Sequence[StepRows]]] = []  # of the batches of a step
        self._asked: deque[str] = deque(maxlen=_NAMED)  # since weights were last found to be whole

    # ---- each step ----

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._losses = []

    def on_before_backward(self, trainer: Trainer, pl_module: LightningModule, loss: Tensor) -> None:
        module = _checked(pl_module)
        self._losses.append((loss.detach().isfinite(), module.step_rows))
        self._asked += [question for rows in module.step_rows for question in rows.question_ids]

    def on_before_optimizer_step(
        self, trainer: Trainer, pl_module: LightningModule, optimizer: torch.optim.Optimizer
    ) -> None:
        losses, self._losses = self._losses, []
        is_whole = torch.stack([is_finite for is_finite, _ in losses]).all()
        # a loss scaler (16-mixed) meets infinite gradients on purpose, and skips the step
        if getattr(trainer.precision_plugin, "scaler", None) is None:
            gradients = [p.grad for p in pl_module.parameters() if p.grad is not None]
            is_whole = is_whole & get_total_norm(gradients).isfinite()
        if bool(trainer.strategy.reduce(is_whole.long(), reduce_op="min")):
            self._num_in_a_row = 0
            return
        for parameter in pl_module.parameters():  # the optimizer leaves out what has no gradient
            parameter.grad = None
        self._skip(trainer, losses)

    def _skip(self, trainer: Trainer, losses: Sequence[tuple[Tensor, Sequence[StepRows]]]) -> None:
        broken = [rows for is_finite, parts in losses if not bool(is_finite) for rows in parts]
        questions = gather(trainer, [question for rows in broken for question in rows.broken_ids()])
        if not questions:  # the loss was a number, and its gradient none
            asked = [rows for _, parts in losses for rows in parts]
            questions = gather(trainer, [question for rows in asked for question in rows.question_ids])
        # a part that did not fit into the memory was computed again
        questions, step = list(dict.fromkeys(questions)), trainer.global_step + 1
        self.skipped.append({"step": step, "questions": questions})
        self._num_in_a_row += 1
        if trainer.is_global_zero:
            log.warning(
                "step %d is skipped: its loss or gradient is NaN or infinite; %s", step, _named(questions)
            )
        if self._num_in_a_row > self.max_in_a_row:
            latest = [one for made in self.skipped[-self._num_in_a_row :] for one in made["questions"]]
            raise BrokenNumbersError(
                f"the loss or gradient was NaN or infinite in {self._num_in_a_row} steps in a row, up to "
                f"step {step}, and max_in_a_row={self.max_in_a_row}; {_named(list(dict.fromkeys(latest)))}"
            )

    # ---- weights ----

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if trainer.state.fn == TrainerFn.FITTING:
            self._check_weights(trainer, pl_module)

    def on_save_checkpoint(
        self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        self._check_weights(trainer, pl_module)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._check_weights(trainer, pl_module)

    def _check_weights(self, trainer: Trainer, module: LightningModule) -> None:
        weights = [weight.detach() for weight in module.parameters() if weight.requires_grad]
        if weights and not bool(get_total_norm(weights).isfinite()):
            raise BrokenNumbersError(
                f"weights are NaN or infinite after step {trainer.global_step}; asked last: "
                f"{_named(gather(trainer, list(self._asked)))}"
            )
        self._asked.clear()

    # ---- resuming ----

    def state_dict(self) -> dict[str, Any]:
        return {"skipped": list(self.skipped), "num_in_a_row": self._num_in_a_row}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.skipped = list(state_dict["skipped"])
        self._num_in_a_row = state_dict["num_in_a_row"]


def _named(questions: Sequence[str]) -> str:
    others = f" and {len(questions) - _NAMED} more" if len(questions) > _NAMED else ""
    return f"questions: {', '.join(questions[:_NAMED])}{others}"


def _checked(module: LightningModule) -> RetrieverReaderModule:
    assert isinstance(module, RetrieverReaderModule)
    return module
