"""What the retriever is trained towards. Pure maths."""

import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from datamodules.choices import Choice

ATLAS_PASSAGE_LENGTH = 256
"""Atlas divides every passage's score by this, whatever the passage's length (`src/fid.py`)."""


class Constants(Choice):
    """Which scale factors stand in Eq. 1, Eq. 2 and the loss."""

    PLAIN = "plain"
    """None: scores as in the equations, KL averaged over questions."""
    ATLAS = "atlas"
    """Passage scores / 256, retriever scores / sqrt(dim), KL averaged over all B * K elements."""


def distillation_loss(
    log_p_target: Float[Tensor, "batch passages"],
    log_p_retr: Float[Tensor, "batch passages"],
    constants: Constants | str = Constants.PLAIN,
) -> Float[Tensor, ""]:
    """KL(p_ATTN || p_RETR), no gradient into the target (SPEC: no gradient into the reader).

    Args:
        log_p_target: log of the reader's distribution over the retrieved passages.
        log_p_retr: log of the retriever's.
        constants: `plain` sums over passages and averages over questions; `atlas` averages over both
            (`src/atlas.py`, `kldivloss`), which is K times smaller.
    """
    total = F.kl_div(log_p_retr, log_p_target.detach(), reduction="sum", log_target=True)
    return total / (log_p_retr.numel() if Constants(constants) is Constants.ATLAS else len(log_p_retr))
