"""PDist: the retriever learns from how likely each passage makes the answer."""

from dataclasses import dataclass
from typing import ClassVar

from jaxtyping import Float
from torch import Tensor

from lightning_modules.objectives.base import Cost, LikelihoodObjective, TemperedObjective
from lightning_modules.readers.outputs import AnswerLikelihoods


@dataclass(frozen=True)
class PDist(LikelihoodObjective, TemperedObjective[AnswerLikelihoods]):
    r"""Perplexity: passages that, alone, make the answer likely (Atlas, section 2.2).

    .. math:: p_{target}(n_i) = \mathrm{softmax}_i \Big(
        \mathrm{mean}_t \log p(a_t | a_{<t}, n_i, Q) / \tau \Big)
    """

    name: ClassVar[str] = "pdist"
    cost: ClassVar[Cost] = Cost.EACH_ALONE

    def passage_scores(
        self, output: AnswerLikelihoods, log_p_retr: Float[Tensor, "batch passages"]
    ) -> Float[Tensor, "batch passages"]:
        """Mean log-probability of an answer token (Atlas `src/atlas.py`, `perplexity_score`)."""
        return output.mean_log_probs()
