"""EMDR2: the retriever learns from the answer's marginal likelihood."""

from dataclasses import dataclass
from typing import ClassVar, assert_never

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from datamodules.batches import Batch
from lightning_modules.objectives.base import Constants, Cost, LikelihoodObjective, Passes
from lightning_modules.readers.outputs import AnswerLikelihoods


@dataclass(frozen=True)
class EMDR2(LikelihoodObjective):
    r"""The answer's marginal likelihood over passages read alone, with p_RETR as their weights.

    .. math:: L = - \mathrm{mean}_t \log \sum_i p_{RETR}(n_i \mid Q)\, p(a_t \mid a_{<t}, n_i, Q)

    Attributes:
        reader_temperature: what the reader's logits are divided by (Atlas uses tau_gold for it, too).
    """

    name: ClassVar[str] = "emdr2"
    loss_name: ClassVar[str] = "emdr2"
    cost: ClassVar[Cost] = Cost.EACH_ALONE

    reader_temperature: float = 1.0

    @classmethod
    def averages_over_questions(cls, constants: Constants | str) -> bool:
        """Atlas's constants average over the answer tokens of all questions together."""
        return Constants(constants) is Constants.PLAIN

    def read(self, reader: Passes, batch: Batch) -> AnswerLikelihoods:
        return reader.answer_likelihoods(batch, self.shown, self.reader_temperature)

    def passage_scores(
        self, output: AnswerLikelihoods, log_p_retr: Float[Tensor, "batch passages"]
    ) -> Float[Tensor, "batch passages"]:
        """The log of a distribution already: which passage the answer's tokens came from."""
        return log_p_posterior(output.log_probs, output.mask, log_p_retr.detach())

    def log_p_of_scores(self, scores: Float[Tensor, "batch passages"]) -> Float[Tensor, "batch passages"]:
        return scores

    def loss(
        self,
        log_p_target: Float[Tensor, "batch passages"],
        log_p_retr: Float[Tensor, "batch passages"],
        output: AnswerLikelihoods,
    ) -> Float[Tensor, ""]:
        """Its gradient is that of KL(p_target || p_RETR), its value the answer's."""
        return marginal_likelihood_loss(output.log_probs, output.mask, log_p_retr, self.constants)

    @property
    def details(self) -> tuple[str, ...]:
        return (f"logits/{self.reader_temperature:g}",) if self.reader_temperature != 1.0 else ()

    @property
    def settings(self) -> dict[str, str]:
        return {"objective.reader_temperature": f"{self.reader_temperature:g}"}


def log_p_posterior(
    log_probs: Float[Tensor, "batch passages labels"],
    mask: Bool[Tensor, "batch labels"],
    log_p_retr: Float[Tensor, "batch passages"],
) -> Float[Tensor, "batch passages"]:
    """Which passage an answer token came from, the mean over tokens: the target that EMDR2 implies.

    EMDR2's loss of a question has the gradient p_RETR - target with respect to the retriever's scores, as
    a KL would.
    """
    of_token = (log_probs + log_p_retr[..., None]).log_softmax(dim=1)
    of_token = of_token.masked_fill(~mask[:, None], -torch.inf)
    return of_token.logsumexp(dim=-1) - mask.sum(dim=-1)[:, None].log()


def marginal_likelihood_loss(
    log_probs: Float[Tensor, "batch passages labels"],
    mask: Bool[Tensor, "batch labels"],
    log_p_retr: Float[Tensor, "batch passages"],
    constants: Constants | str = Constants.PLAIN,
) -> Float[Tensor, ""]:
    """Negative log of the answer's marginal likelihood over the passages, token by token as Atlas.

    No gradient flows into the reader.

    Args:
        log_probs: of answer tokens, given each passage alone.
        mask: True = token counts.
        log_p_retr: log of the retriever's distribution.
        constants: `plain` averages over the tokens of each answer, then over questions; `atlas` over all
            tokens of the batch (`src/atlas.py`, `logprob`), where long answers count for more.
    """
    marginal = (log_probs.detach() + log_p_retr[..., None]).logsumexp(dim=1)
    marginal = marginal.masked_fill(~mask, 0.0)
    constants = Constants(constants)
    match constants:
        case Constants.PLAIN:
            return -(marginal.sum(dim=-1) / mask.sum(dim=-1)).mean()
        case Constants.ATLAS:
            return -marginal.sum() / mask.sum()
        case _:
            assert_never(constants)
