"""Answer-row attention, collected while a reader's forward pass runs on `scaled_dot_product_attention`."""

import math
from collections.abc import Callable, Sequence
from types import TracebackType
from typing import Any, TypeVar

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils.hooks import RemovableHandle

_T = TypeVar("_T")


class _SeenEnoughError(Exception):
    """Leaves a forward pass whose further layers nobody looks at."""


def answer_row_logits(
    query: Float[Tensor, "batch heads queries dim"],
    key: Float[Tensor, "batch kv_heads keys dim"],
    attn_mask: Tensor | None,
    is_causal: bool,
    scale: float | None,
    rows: Int[Tensor, "batch rows"],
) -> Float[Tensor, "batch heads rows keys"]:
    """Logits of the attention of a few query rows, recomputed in float32; their softmax is alpha.

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
    return logits


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
    up. Nothing is kept per layer unless asked for, and no gradient is recorded.

    Watching the function instead of registering an attention implementation serves models that call it
    themselves (Falcon) and those that go through transformers' attention registry alike.

    Args:
        rows_mask: True = position whose output predicts an answer token; at least one in each prompt.
        question_mask: further rows, whose scores are kept apart (`question_scores`); None = none.
        num_layers: how many attention calls the pass must make, to notice a reader that bypasses SDPA.
        num_keys: length of the attended sequence where it is not the prompt itself (cross-attention).
        within: modules whose calls alone count; None = all. A decoder's self-attention cannot be told from
            its cross-attention by shape where both sequences happen to be equally long.
        heads: the heads that the mean is taken over, layers in the order of their calls; None = all.
        by_head: also keep the scores of every head, chosen or not, for `head_scores()`.
        ends_pass: end the forward pass at the attention call of the last layer that a chosen head is in. The
            `with` block is left there without an error; what the pass would have returned does not exist.
        scored_mask: of the last keys, those of the prompts: True = it is given its score, the others get 0.
            Keys before them take part in the softmax and are given none. None = all keys are scored.

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
        self,
        rows_mask: Bool[Tensor, "prompts tokens"],
        num_layers: int,
        num_keys: int | None = None,
        within: Sequence[nn.Module] | None = None,
        heads: Bool[Tensor, "layers heads"] | None = None,
        by_head: bool = False,
        question_mask: Bool[Tensor, "prompts tokens"] | None = None,
        ends_pass: bool = False,
        scored_mask: Bool[Tensor, "prompts scored"] | None = None,
    ) -> None:
        super().__init__()
        if not bool(rows_mask.any(dim=1).all()):
            raise ValueError("a prompt has no answer token, so there is no row of attention to look at")
        self._rows, genuine = padded_positions(
            rows_mask if question_mask is None else rows_mask | question_mask
        )
        is_answer = rows_mask.gather(1, self._rows) & genuine
        # of the rows that are looked at, where those of the answer stand
        self._answer_rows, self.row_mask = padded_positions(is_answer)
        self._row_weights = is_answer / is_answer.sum(dim=1, keepdim=True)
        self._question_weights: Tensor | None = None
        if question_mask is not None:
            of_question = question_mask.gather(1, self._rows) & genuine
            self._question_weights = of_question / of_question.sum(dim=1, keepdim=True)
        self._shape = (rows_mask.shape[0], rows_mask.shape[1], num_keys or rows_mask.shape[1])
        self._device_type = rows_mask.device.type
        self._num_layers = num_layers
        self._num_seen = 0
        self._total: Tensor | None = None
        self._num_averaged = num_layers if heads is None else int(heads.sum())
        self._heads = None if heads is None else _head_numbers(heads, rows_mask.device)
        self._scored_mask = scored_mask
        self._by_head: list[Tensor] | None = [] if by_head else None
        self._question_by_head: list[Tensor] = []
        is_scored = [True] * num_layers if heads is None or by_head else heads.any(dim=1).tolist()
        self._is_scored: list[bool] = is_scored
        self._ends_pass = ends_pass
        self._num_awaited = num_layers
        if ends_pass:
            self._num_awaited = max(layer for layer in range(num_layers) if is_scored[layer]) + 1
        self._within = within
        self._hooks: list[RemovableHandle] = []
        self._is_within = within is None

    def __enter__(self) -> "AnswerAttention":
        for module in self._within or ():
            self._hooks.append(module.register_forward_pre_hook(self._enter_module))
            self._hooks.append(module.register_forward_hook(self._leave_module))
        return super().__enter__()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> bool:
        while self._hooks:
            self._hooks.pop().remove()
        super().__exit__(kind, error, traceback)
        return isinstance(error, _SeenEnoughError)

    def _enter_module(self, module: nn.Module, args: Any) -> None:
        self._is_within = True

    def _leave_module(self, module: nn.Module, args: Any, output: Any) -> None:
        self._is_within = False

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple = (), kwargs: dict | None = None
    ) -> Any:
        kwargs = kwargs or {}
        if func is F.scaled_dot_product_attention and self._is_within:
            # mixed precision must not reach the recomputed rows: they are float32 by definition
            with torch.no_grad(), torch.autocast(self._device_type, enabled=False):
                self._observe(*args, **kwargs)
            if self._ends_pass and self._num_seen == self._num_awaited:
                raise _SeenEnoughError
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
        layer = self._num_seen
        self._num_seen += 1
        if layer >= self._num_layers:  # `row_scores` refuses such a reader
            return
        if not self._is_scored[layer]:  # no chosen head is in it
            return
        logits = answer_row_logits(query, key, attn_mask, is_causal, scale, self._rows)
        by_head = self._score(logits, value)
        if self._by_head is not None:
            self._by_head.append(_mean_over_rows(by_head, self._row_weights))
            if self._question_weights is not None:
                self._question_by_head.append(_mean_over_rows(by_head, self._question_weights))
        scores = by_head.mean(dim=1) if self._heads is None else by_head[:, self._heads[layer]].sum(dim=1)
        self._total = scores if self._total is None else self._total + scores

    def _score(
        self,
        logits: Float[Tensor, "prompts heads rows keys"],
        value: Float[Tensor, "prompts kv_heads keys dim"],
    ) -> Float[Tensor, "prompts heads rows scored"]:
        """alpha * |v|."""
        norms = value.float().norm(dim=-1)
        norms = norms.repeat_interleave(logits.shape[1] // norms.shape[1], dim=1)
        scores = logits.softmax(dim=-1) * norms[:, :, None]
        if self._scored_mask is None:
            return scores
        return scores[..., -self._scored_mask.shape[1] :] * self._scored_mask[:, None, None]

    def row_scores(self) -> Float[Tensor, "prompts rows tokens"]:
        """s_t by answer row, where `row_mask` is True; padded with repeated rows elsewhere. float32."""
        scores = self._all_rows()
        if self._question_weights is None:
            return scores
        return scores.gather(1, self._answer_rows[..., None].expand(-1, -1, scores.shape[-1]))

    def token_scores(self) -> Float[Tensor, "prompts tokens"]:
        """s_t of every token of every prompt, float32; 0 on padding."""
        return (self._all_rows() * self._row_weights[..., None]).sum(dim=1)

    def question_scores(self) -> Float[Tensor, "prompts tokens"]:
        """Like `token_scores`, from the question's rows in place of the answer's. Needs `question_mask`."""
        assert self._question_weights is not None, "question_mask keeps them"
        return (self._all_rows() * self._question_weights[..., None]).sum(dim=1)

    def _all_rows(self) -> Float[Tensor, "prompts rows tokens"]:
        return self._complete(self._total) / self._num_averaged

    def head_scores(self) -> Float[Tensor, "prompts layers heads tokens"]:
        """s_t by layer and head, the mean over answer rows alone, float32; 0 on padding. Needs `by_head`."""
        assert self._by_head is not None, "by_head=True keeps them"
        return torch.stack(self._complete(self._by_head), dim=1)

    def question_head_scores(self) -> Float[Tensor, "prompts layers heads tokens"]:
        """Like `head_scores`, from the question's rows. Needs `by_head` and `question_mask`."""
        assert self._by_head is not None, "by_head=True keeps them"
        assert self._question_weights is not None, "question_mask keeps them"
        return torch.stack(self._complete(self._question_by_head), dim=1)

    def _complete(self, collected: _T | None) -> _T:
        """What was collected, if every layer was seen that should be."""
        check_layers_seen(self._num_seen, self._num_awaited)
        assert collected is not None, "each call that was seen is collected"
        return collected


def check_layers_seen(num_seen: int, num_layers: int) -> None:
    """Refuses a reader whose attention did not run through `scaled_dot_product_attention` once a layer.

    Raises:
        ValueError: so many calls were seen, not one a layer.
    """
    if num_seen != num_layers:
        raise ValueError(
            f"saw {num_seen} attention calls where the reader has {num_layers} layers: its attention does "
            "not run through torch's scaled_dot_product_attention; load it with attn_implementation='sdpa'"
        )


def _head_numbers(heads: Bool[Tensor, "layers heads"], device: torch.device) -> Sequence[Int[Tensor, " _"]]:
    """Of each layer those that are chosen; on the device in one copy, since a mask would be one a layer."""
    return heads.nonzero()[:, 1].to(device).split(heads.sum(dim=1).tolist())


def _mean_over_rows(
    scores: Float[Tensor, "prompts heads rows keys"], weights: Float[Tensor, "prompts rows"]
) -> Float[Tensor, "prompts heads keys"]:
    """Weighted; a row's weight is 0 where it is padding, or not one of those that count."""
    return torch.einsum("phrt,pr->pht", scores, weights)


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
