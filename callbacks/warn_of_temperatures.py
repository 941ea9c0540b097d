"""Says before training whether a temperature leaves anything to learn."""

import logging

import torch
from jaxtyping import Float
from lightning import LightningModule, Trainer
from torch import Tensor

from callbacks.evaluation_callback import EvaluationCallback
from lightning_modules.evaluation import Evaluation
from lightning_modules.metrics.teacher_checks import relative_entropy_of
from lightning_modules.processes import gather
from lightning_modules.retriever_reader import RetrieverReaderModule
from lightning_modules.temperatures import USEFUL_SPREAD

log = logging.getLogger(__name__)

ONE_HOT = 0.05
"""Entropy, relative to that of equal passages, below which a distribution is all but one-hot."""
FLAT = 0.99
"""Above which it is all but flat."""
_MOST = 0.5
_FEWEST_QUESTIONS = 4


class WarnOfTemperatures(EvaluationCallback):
    """Warns where target or p_RETR is one-hot or flat for most questions of the first validation.

    A one-hot target says no more than which passage is best, and one-hot p_RETR has no gradient where it is
    wrong; from flat ones little is learnt. Both come from a temperature that does not fit the scores, whose
    size differs between readers, objectives and retrievers: the warning says which one would.

    Args:
        target_setting, retrieval_setting: what the two temperatures are called where they are set.
    """

    def __init__(
        self,
        target_setting: str = "attention_temperature",
        retrieval_setting: str = "retrieval_temperature",
    ) -> None:
        self.settings = {"target": target_setting, "p_RETR": retrieval_setting}
        self._found: list[tuple[str, float, float]] = []

    def on_validation_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._found = []

    def on_validated(self, trainer: Trainer, pl_module: LightningModule, evaluation: Evaluation) -> None:
        read = evaluation.read
        if trainer.global_step or trainer.sanity_checking or read is None or read.batch.num_passages < 2:
            return
        for name, log_p in (("target", read.log_p_target), ("p_RETR", read.log_p_retr)):
            entropies, spreads = relative_entropy_of(log_p), log_p.std(dim=-1, correction=0)
            self._found += [(name, *pair) for pair in zip(entropies.tolist(), spreads.tolist(), strict=True)]

    def on_validation_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        found = gather(trainer, self._found)
        self._found = []
        if not found or not trainer.is_global_zero:
            return
        assert isinstance(pl_module, RetrieverReaderModule)
        temperatures = {
            "target": pl_module.objective.temperature,
            "p_RETR": pl_module.retrieval_temperature,
        }
        for name, temperature in temperatures.items():
            entropies, spreads = torch.tensor([pair for of, *pair in found if of == name]).T
            warning = describe(name, entropies, spreads, temperature, self.settings[name])
            if warning is not None:
                log.warning("%s", warning)


def describe(
    name: str,
    entropies: Float[Tensor, " questions"],
    spreads: Float[Tensor, " questions"],
    temperature: float | None,
    setting: str,
) -> str | None:
    """The warning about a distribution; None where there is nothing to warn of.

    Args:
        name: of the distribution.
        entropies: relative to those of equal passages.
        spreads: standard deviations of its logits over the passages of each question.
        temperature: that the scores were divided by; None = there is none to choose.
        setting: what it is called.
    """
    if len(entropies) < _FEWEST_QUESTIONS:
        return None
    for kind, share in (("one-hot", entropies < ONE_HOT), ("flat", entropies > FLAT)):
        if float(share.float().mean()) <= _MOST:
            continue
        said = f"{name} is {kind} for {share.float().mean():.0%} of {len(entropies)} questions at the start"
        spread = float(spreads.median())
        if temperature is None or spread == 0:
            return f"{said}; the scores of its passages {'differ too much' if spread else 'are all equal'}"
        fitting = temperature * spread / USEFUL_SPREAD
        return (
            f"{said}: {setting}={temperature:g} does not fit scores whose standard deviation over a "
            f"question's passages is {temperature * spread:.2g}; try {setting}={fitting:.2g}"
        )
    return None
