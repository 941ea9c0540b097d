"""LOOP: the retriever learns from what the answer loses when a passage is left out."""

from dataclasses import dataclass
from typing import ClassVar

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from datamodules.prompts import Shown
from lightning_modules.objectives.base import Cost, LikelihoodObjective, TemperedObjective
from lightning_modules.readers.outputs import AnswerLikelihoods, mean_log_prob


@dataclass(frozen=True)
class LOOP(LikelihoodObjective, TemperedObjective[AnswerLikelihoods]):
    r"""Leave one out: passages without which the answer becomes unlikely (Atlas, section 2.2).

    .. math:: p_{target}(n_i) = \mathrm{softmax}_i \Big(
        - \mathrm{mean}_t \log p(a_t | a_{<t}, D_n \setminus n_i, Q) / \tau \Big)

    A reader that never sees two passages at a time answers from the weighted average of the others
    (`leave_one_out_marginals`).
    """

    name: ClassVar[str] = "loop"
    cost: ClassVar[Cost] = Cost.EACH_LEFT_OUT
    shown: ClassVar[Shown] = Shown.EACH_LEFT_OUT
    fewest_passages: ClassVar[int] = 2

    def passage_scores(
        self, output: AnswerLikelihoods, log_p_retr: Float[Tensor, "batch passages"]
    ) -> Float[Tensor, "batch passages"]:
        """Mean negative log-probability of an answer token without n_i."""
        log_probs = output.log_probs
        if not output.left_out:
            log_probs = leave_one_out_marginals(log_probs, log_p_retr)
        return leave_one_out_scores(log_probs, output.mask)


def leave_one_out_scores(
    log_probs: Float[Tensor, "batch passages labels"], mask: Bool[Tensor, "batch labels"]
) -> Float[Tensor, "batch passages"]:
    """Mean negative log-probability of an answer token without n_i: high where the answer needs n_i.

    Both kinds of constants agree on it (Atlas `src/atlas.py`, `loop_score`).
    """
    return -mean_log_prob(log_probs, mask)


def leave_one_out_marginals(
    log_probs: Float[Tensor, "batch passages labels"], log_p_retr: Float[Tensor, "batch passages"]
) -> Float[Tensor, "batch passages labels"]:
    r"""What passages read alone say of the answer without n_i.

    .. math:: \log \sum_{j \ne i} \frac{p_{RETR}(n_j)}{1 - p_{RETR}(n_i)}\, p(a_t \mid a_{<t}, n_j, Q)

    This is LOOP for a reader that never sees two passages at a time: its answer without n_i is the weighted
    average of the others (REPLUG's ensemble). No gradient into p_RETR.

    Args:
        log_probs: of answer tokens, given each passage alone.
        log_p_retr: log p_RETR of at least two passages.
    """
    passages = log_p_retr.shape[1]
    left_out = torch.eye(passages, dtype=torch.bool, device=log_p_retr.device)
    # [batch, left out, others]: the weights of the others add up to 1
    weights = log_p_retr.detach()[:, None].masked_fill(left_out, -torch.inf).log_softmax(dim=-1)
    return (weights[..., None] + log_probs[:, None]).logsumexp(dim=2)
