"""Answer-row attention, collected while a reader's forward pass runs on `scaled_dot_product_attention`."""

import math
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.overrides import TorchFunctionMode


def answer_row_attention(
    query: Float[Tensor, "batch heads queries dim"],
    key: Float[Tensor, "batch kv_heads keys dim"],
    attn_mask: Tensor | None,
    is_causal: bool,
    scale: float | None,
    rows: Int[Tensor, "batch rows"],
) -> Float[Tensor, "batch heads rows keys"]:
    """Attention weights alpha of a few query rows, recomputed in float32.

    Args:
        query, key: as `scaled_dot_product_attention` got them; fewer key heads than query heads are shared
            by consecutive query heads (grouped-query and multi-query attention).
        attn_mask: bool (True = attend) or additive float, broadcastable to [batch, heads, queries, keys].
        is_causal: no key after the query's own position.
        scale: factor on the logits; None = 1 / sqrt(dim).
        rows: the query positions wanted.
    """
    batch, heads, _, dim = query.shape
    kv_heads, num_keys = key.shape[1], key.shape[2]
    picked = query.gather(2, rows[:, None, :, None].expand(batch, heads, -1, dim)).float()
    grouped = picked.reshape(batch, kv_heads, (heads // kv_heads) * rows.shape[1], dim)
    logits = grouped @ key.float().transpose(-1, -2) * (1 / math.sqrt(dim) if scale is None else scale)
    logits = logits.reshape(batch, heads, rows.shape[1], num_keys)
    if attn_mask is not None:
        picked_mask = _pick_mask_rows(attn_mask, rows, num_keys)
        if picked_mask.dtype == torch.bool:
            logits = logits.masked_fill(~picked_mask, -math.inf)
        else:
            logits = logits + picked_mask.float()
    if is_causal:
        future = torch.arange(num_keys, device=rows.device) > rows[:, None, :, None]
        logits = logits.masked_fill(future, -math.inf)
    return logits.softmax(dim=-1)


def _pick_mask_rows(attn_mask: Tensor, rows: Int[Tensor, "batch rows"], num_keys: int) -> Tensor:
    """The rows of a mask of any broadcastable shape: [batch, 1 or heads, rows, keys]."""
    while attn_mask.dim() < 4:
        attn_mask = attn_mask[None]
    if attn_mask.shape[2] == 1:
        return attn_mask
    mask_heads = attn_mask.shape[1]
    attn_mask = attn_mask.expand(rows.shape[0], -1, -1, num_keys)
    return attn_mask.gather(2, rows[:, None, :, None].expand(-1, mask_heads, -1, num_keys))


class AnswerAttention(TorchFunctionMode):
    r"""Token scores s_t of a forward pass, without its attention matrices.

    .. math:: s_t = \mathrm{mean}_{layers, heads, rows}\; \alpha[row, t] \, \lVert v_t \rVert_2

    (Eq. 1 and Atlas `src/fid.py`, `get_crossattention_scores` with `normssum`). While the context is active
    each call of `torch.nn.functional.scaled_dot_product_attention` whose queries and keys fit the prompts
    runs as it is; beside it the answer rows alone are recomputed from q and k (rows x tokens instead of
    tokens x tokens), weighted by the norms of the value vectors *before* the output projection, and added
    up. Nothing is kept per layer, and no gradient is recorded.

    Watching the function instead of registering an attention implementation serves models that call it
    themselves (Falcon) and those that go through transformers' attention registry alike.

    Args:
        rows_mask: True = position whose output predicts an answer token; at least one in each prompt.
        num_layers: how many attention calls the pass must make, to notice a reader that bypasses SDPA.
        num_keys: length of the attended sequence where it is not the prompt itself (cross-attention).

    Raises:
        ValueError: a prompt has no answer row; on `token_scores()`, a reader whose attention did not run
            through `scaled_dot_product_attention` once a layer.

    Example:
        >>> from transformers import LlamaConfig, LlamaForCausalLM
        >>> config = LlamaConfig(vocab_size=9, hidden_size=8, intermediate_size=8, num_hidden_layers=2,
        ...     num_attention_heads=2)
        >>> reader = LlamaForCausalLM(config).eval()
        >>> rows = torch.tensor([[False, False, True, False]])
        >>> with torch.no_grad(), AnswerAttention(rows, num_layers=2) as attention:
        ...     _ = reader(torch.tensor([[1, 2, 3, 4]]))
        >>> attention.token_scores().shape
        torch.Size([1, 4])
    """

    def __init__(
        self, rows_mask: Bool[Tensor, "prompts tokens"], num_layers: int, num_keys: int | None = None
    ) -> None:
        super().__init__()
        if not bool(rows_mask.any(dim=1).all()):
            raise ValueError("a prompt has no answer token, so there is no row of attention to look at")
        self._rows, is_row = padded_positions(rows_mask)
        self._row_weights = is_row / is_row.sum(dim=1, keepdim=True)
        self._shape = (rows_mask.shape[0], rows_mask.shape[1], num_keys or rows_mask.shape[1])
        self._device_type = rows_mask.device.type
        self._num_layers = num_layers
        self._num_seen = 0
        self._total: Tensor | None = None

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple = (), kwargs: dict | None = None
    ) -> Any:
        kwargs = kwargs or {}
        if func is F.scaled_dot_product_attention:
            # mixed precision must not reach the recomputed rows: they are float32 by definition
            with torch.no_grad(), torch.autocast(self._device_type, enabled=False):
                self._observe(*args, **kwargs)
        return func(*args, **kwargs)

    def _observe(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        attn_mask: Tensor | None = None,
        dropout_p: float = 0.0,
        is_causal: bool = False,
        scale: float | None = None,
        enable_gqa: bool = False,
    ) -> None:
        if (query.shape[0], query.shape[2], key.shape[2]) != self._shape:
            return
        alpha = answer_row_attention(query, key, attn_mask, is_causal, scale, self._rows)
        heads, kv_heads = alpha.shape[1], key.shape[1]
        mean_over_rows = (alpha * self._row_weights[:, None, :, None]).sum(dim=2)
        by_kv_head = mean_over_rows.unflatten(1, (kv_heads, heads // kv_heads)).sum(dim=2)
        scores = (by_kv_head * value.float().norm(dim=-1)).sum(dim=1) / heads
        self._total = scores if self._total is None else self._total + scores
        self._num_seen += 1

    def token_scores(self) -> Float[Tensor, "prompts tokens"]:
        """s_t of every token of every prompt, float32; 0 on padding."""
        if self._total is None or self._num_seen != self._num_layers:
            raise ValueError(
                f"saw {self._num_seen} attention calls where the reader has {self._num_layers} layers: its "
                "attention does not run through torch's scaled_dot_product_attention; load it with "
                "attn_implementation='sdpa'"
            )
        return self._total / self._num_layers


def padded_positions(
    mask: Bool[Tensor, "batch tokens"],
) -> tuple[Int[Tensor, "batch positions"], Bool[Tensor, "batch positions"]]:
    """The True positions of each row in order, filled up with the row's first one, and which are genuine."""
    counts = mask.sum(dim=1)
    # a stable sort of "not wanted" lists the wanted positions first, in order
    order = mask.logical_not().to(torch.int8).argsort(dim=1, stable=True)
    positions = order[:, : int(counts.max())]
    genuine = torch.arange(positions.shape[1], device=mask.device) < counts[:, None]
    return torch.where(genuine, positions, positions[:, :1]), genuine
