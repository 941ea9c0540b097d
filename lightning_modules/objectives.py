"""What the retriever is trained towards: ADist, PDist, EMDR2, LOOP. Pure maths.

Each objective makes of what the reader gives a target distribution over the retrieved passages, towards
which p_RETR is pulled. ADist starts from passage scores (`lightning_modules.scores`), the others from the
answer's token log-probabilities.
"""

from typing import NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor

from datamodules.choices import Choice

ATLAS_PASSAGE_LENGTH = 256
"""Atlas divides every passage's summed score by this, whatever the passage's length (`src/fid.py`)."""


class Objective(Choice):
    """What of the reader the retriever learns from (Atlas, section 2.2)."""

    ADIST = "adist"
    """Attention: passages that the reader attends to while it answers."""
    PDIST = "pdist"
    """Perplexity: passages that, alone, make the answer likely."""
    EMDR2 = "emdr2"
    """The answer's marginal likelihood over passages read alone, with p_RETR as their weights."""
    LOOP = "loop"
    """Leave one out: passages without which the answer becomes unlikely."""


class Constants(Choice):
    """Which scale factors stand in Eq. 1, Eq. 2 and the losses."""

    PLAIN = "plain"
    """None: scores as in the equations, losses averaged over questions."""
    ATLAS = "atlas"
    """Passage scores / 256, retriever scores / sqrt(dim), KL averaged over all B * K elements, EMDR2 over
    all answer tokens of the batch."""


class AnswerLikelihoods(NamedTuple):
    """log p(a_t | a_<t, Q, ...) of each answer token, one time for each retrieved passage.

    Attributes:
        log_probs: given n_i alone, or given all retrieved passages but n_i; anything where `mask` is False.
        mask: True = token of the answer, its end included; the same for all passages.
        leaves_out: whether n_i is the passage left out; False = n_i is the only one.
    """

    log_probs: Float[Tensor, "batch passages labels"]
    mask: Bool[Tensor, "batch labels"]
    leaves_out: bool = False


def answer_log_likelihood(
    log_probs: Float[Tensor, "batch passages labels"], mask: Bool[Tensor, "batch labels"]
) -> Float[Tensor, "batch passages"]:
    """Mean log-probability of an answer token; with n_i alone the score of PDist.

    Both kinds of constants agree on it (Atlas `src/atlas.py`, `perplexity_score`).

    Example:
        >>> answer_log_likelihood(torch.tensor([[[-1.0, -3.0, -9.0]]]), torch.tensor([[True, True, False]]))
        tensor([[-2.]])
    """
    return log_probs.masked_fill(~mask[:, None], 0.0).sum(dim=-1) / mask.sum(dim=-1)[:, None]


def leave_one_out_scores(
    log_probs: Float[Tensor, "batch passages labels"], mask: Bool[Tensor, "batch labels"]
) -> Float[Tensor, "batch passages"]:
    """Mean negative log-probability of an answer token without n_i, the score of LOOP.

    High where the answer needs n_i. Both kinds of constants agree on it (Atlas `src/atlas.py`, `loop_score`).
    """
    return -answer_log_likelihood(log_probs, mask)


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


def log_p_of_scores(
    scores: Float[Tensor, "batch passages"], temperature: float = 1.0
) -> Float[Tensor, "batch passages"]:
    """log softmax(score / tau_gold), the target of PDist and LOOP (Atlas `src/atlas.py`, `kldivloss`)."""
    return (scores / temperature).log_softmax(dim=-1)


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


def distillation_loss(
    log_p_target: Float[Tensor, "batch passages"],
    log_p_retr: Float[Tensor, "batch passages"],
    constants: Constants | str = Constants.PLAIN,
) -> Float[Tensor, ""]:
    """KL(target || p_RETR), no gradient into the target (SPEC: no gradient into the reader).

    Args:
        log_p_target: log of the reader's distribution over the retrieved passages.
        log_p_retr: log of the retriever's.
        constants: `plain` sums over passages and averages over questions; `atlas` averages over both
            (`src/atlas.py`, `kldivloss`), which is K times smaller.
    """
    total = F.kl_div(log_p_retr, log_p_target.detach(), reduction="sum", log_target=True)
    return total / (log_p_retr.numel() if Constants(constants) is Constants.ATLAS else len(log_p_retr))


def marginal_likelihood_loss(
    log_probs: Float[Tensor, "batch passages labels"],
    mask: Bool[Tensor, "batch labels"],
    log_p_retr: Float[Tensor, "batch passages"],
    constants: Constants | str = Constants.PLAIN,
) -> Float[Tensor, ""]:
    r"""EMDR2: negative log of the answer's marginal likelihood over the passages, token by token as Atlas.

    .. math:: - \mathrm{mean}_t \log \sum_i p_{RETR}(n_i \mid Q)\, p(a_t \mid a_{<t}, n_i, Q)

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
    if Constants(constants) is Constants.ATLAS:
        return -marginal.sum() / mask.sum()
    return -(marginal.sum(dim=-1) / mask.sum(dim=-1)).mean()
