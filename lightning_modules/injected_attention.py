"""Biases on the attention logits of a forward pass, which gradients flow back into."""

from collections.abc import Callable
from types import TracebackType
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor
from torch.overrides import TorchFunctionMode

from lightning_modules.answer_attention import check_layers_seen

_ADDED_DIM = 8
"""Dimensions that carry the bias, all but the first of them 0: kernels want multiples of 8."""


class InjectedAttention(TorchFunctionMode):
    r"""Adds a bias to the attention logits of some rows while a reader's forward pass runs.

    .. math:: \alpha[row, t] \propto \exp(q_{row} \cdot k_t / \sqrt d + b_t)

    b_t is a number for each token as a key, the same in all layers; exp(b_t) is what the token's attention is
    multiplied by before it is normalised. While the context is active each call of
    `torch.nn.functional.scaled_dot_product_attention` whose queries and keys fit the prompts gets keys that
    carry their bias in a dimension of their own, and queries that are 1 there in the chosen rows and heads, 0
    elsewhere. So the bias needs no matrix of rows x tokens, masks stay as they are, and the kernels with
    linear memory still apply, which give no gradient of a mask.

    Args:
        key_bias: b_t; gradient flows back into it.
        rows_mask: True = a position whose attention takes the bias.
        num_layers: how many attention calls the pass must make, to notice a reader that bypasses SDPA.
        heads: the heads that take the bias, layers in the order of their calls; None = all.

    Raises:
        ValueError: at the end, a reader whose attention did not run through `scaled_dot_product_attention`
            once a layer.

    Example:
        >>> query = key = torch.zeros(1, 1, 2, 4)
        >>> value = torch.tensor([[[[1.0], [4.0]]]])
        >>> bias = torch.tensor([[1.0, 2.0]]).log()  # the second token counts twice
        >>> with InjectedAttention(bias, torch.tensor([[False, True]]), num_layers=1):
        ...     F.scaled_dot_product_attention(query, key, value)
        tensor([[[[2.5000],
                  [3.0000]]]])
    """

    def __init__(
        self,
        key_bias: Float[Tensor, "prompts tokens"],
        rows_mask: Bool[Tensor, "prompts rows"],
        num_layers: int,
        heads: Bool[Tensor, "layers heads"] | None = None,
    ) -> None:
        super().__init__()
        self._key_bias = key_bias
        self._rows_mask = rows_mask
        self._num_layers = num_layers
        self._heads = heads
        self._num_seen = 0

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        super().__exit__(kind, error, traceback)
        if error is None:
            check_layers_seen(self._num_seen, self._num_layers)

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple = (), kwargs: dict | None = None
    ) -> Any:
        if func is F.scaled_dot_product_attention:
            return self._attend(*args, **(kwargs or {}))
        return func(*args, **(kwargs or {}))

    def _attend(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        attn_mask: Tensor | None = None,
        dropout_p: float = 0.0,
        is_causal: bool = False,
        scale: float | None = None,
        enable_gqa: bool = False,
    ) -> Tensor:
        """What the call gives, with the bias where it fits."""
        dim = value.shape[-1]
        shapes = (query.shape[0], query.shape[2]), (key.shape[0], key.shape[2])
        if shapes == (self._rows_mask.shape, self._key_bias.shape):
            rows = self._rows_of_next_layer(query.shape[1])
            if rows is not None:
                scale = query.shape[-1] ** -0.5 if scale is None else scale
                biases = (self._key_bias / scale)[:, None].expand(-1, key.shape[1], -1)
                query, key, value = _extended(query, rows), _extended(key, biases), _extended(value)
        attended = F.scaled_dot_product_attention(
            query, key, value, attn_mask, dropout_p, is_causal, scale=scale, enable_gqa=enable_gqa
        )
        return attended[..., :dim]

    def _rows_of_next_layer(self, num_heads: int) -> Bool[Tensor, "prompts heads tokens"] | None:
        """The rows of each of its heads that take the bias; None = none of them does."""
        layer = self._num_seen
        self._num_seen += 1
        rows = self._rows_mask[:, None].expand(-1, num_heads, -1)
        if self._heads is None or layer >= self._num_layers:  # the end refuses such a reader
            return rows
        heads = self._heads[layer]
        return rows & heads.to(rows.device)[None, :, None] if bool(heads.any()) else None


def _extended(
    vectors: Float[Tensor, "prompts heads tokens dim"], numbers: Tensor | None = None
) -> Float[Tensor, "prompts heads tokens dim_and_added"]:
    """The vectors with `_ADDED_DIM` further dimensions: a number of [prompts, heads, tokens], and zeros."""
    if numbers is None:
        return F.pad(vectors, (0, _ADDED_DIM))
    added = F.pad(numbers[..., None].to(vectors.dtype), (0, _ADDED_DIM - 1))
    return torch.cat([vectors, added], dim=-1)
