"""From the hidden states of a text's tokens to its embedding."""

from typing import assert_never

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from datamodules.choices import Choice


class Pooling(Choice):
    """What of the last layer's hidden states an embedding is."""

    MEAN = "mean"
    """Their mean over the real tokens (Contriever, E5)."""
    CLS = "cls"
    """That of the first token (DPR, BGE)."""
    LAST_TOKEN = "last_token"
    """That of the last real token (embedding models made of causal language models)."""


def pool(
    hidden: Float[Tensor, "batch tokens dim"], mask: Bool[Tensor, "batch tokens"], how: Pooling
) -> Float[Tensor, "batch dim"]:
    """Embeddings from hidden states, wherever the padding is.

    Args:
        hidden: of the last layer.
        mask: True = real token.
        how: see `Pooling`.

    Example:
        >>> hidden = torch.tensor([[[1.0], [3.0], [9.0]]])
        >>> mask = torch.tensor([[True, True, False]])
        >>> [pool(hidden, mask, how).item() for how in Pooling]
        [2.0, 1.0, 3.0]
    """
    match how:
        case Pooling.MEAN:
            weights = mask[..., None].to(hidden.dtype)
            return (hidden * weights).sum(dim=1) / weights.sum(dim=1).clamp(min=1)
        case Pooling.CLS:
            return _at(hidden, mask.int().argmax(dim=1))
        case Pooling.LAST_TOKEN:
            return _at(hidden, mask.shape[1] - 1 - mask.int().flip(1).argmax(dim=1))
        case _:
            assert_never(how)


def _at(hidden: Float[Tensor, "batch tokens dim"], places: Tensor) -> Float[Tensor, "batch dim"]:
    return hidden[torch.arange(len(hidden), device=hidden.device), places]
