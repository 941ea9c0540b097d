"""Token scores from a forward pass that materialises no attention matrix: what the capture costs.

The suite's pass watches `scaled_dot_product_attention` and recomputes the answer's rows. Beside it run the
same pass unwatched, and a pass on eager attention that returns all matrices (`output_attentions`), from which
the same scores are summed.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel

from experiments.benchmarks import made_up
from experiments.benchmarks.comparison import (
    AtMost,
    Comparison,
    Setting,
    Size,
    Spread,
    agreement_of,
    in_turns,
)
from experiments.benchmarks.memory import can_measure, free_bytes, peak_bytes
from lightning_modules.answer_attention import AnswerAttention

_ANSWER_ROWS = 8
_MEMORY_TURNS = 3


@dataclass(frozen=True)
class _Captured:
    """Last hidden states and token scores."""

    hidden: Tensor
    scores: Tensor


@dataclass(frozen=True)
class _Work:
    """Prompts of random tokens, whose last rows are the answer's."""

    model: PreTrainedModel
    name: str
    num_prompts: int
    num_tokens: int

    @property
    def what(self) -> str:
        shape = f"{self.num_prompts}x" if self.num_prompts > 1 else ""
        return f"{self.name}, {shape}{self.num_tokens:,} tokens"

    @property
    def ids(self) -> Tensor:
        generator = torch.Generator().manual_seed(0)
        ids = torch.randint(3, made_up.VOCABULARY, (self.num_prompts, self.num_tokens), generator=generator)
        return ids.to(self.model.device)

    @property
    def attention_bytes(self) -> int:
        """Of all matrices of one pass."""
        config = self.model.config
        one = self.num_prompts * self.num_tokens**2 * self.model.dtype.itemsize
        return one * config.num_hidden_layers * config.num_attention_heads

    def plain(self) -> Tensor:
        """The last hidden states."""
        ids = self.ids
        return self.model.base_model(input_ids=ids, attention_mask=torch.ones_like(ids), use_cache=False)[0]

    def captured(self) -> _Captured:
        """The token scores, of a pass that gives what it always does."""
        rows = torch.zeros(self.num_prompts, self.num_tokens, dtype=torch.bool, device=self.model.device)
        rows[:, -_ANSWER_ROWS - 1 : -1] = True
        with AnswerAttention(rows, self.model.config.num_hidden_layers) as attention:
            hidden = self.plain()
        return _Captured(hidden, attention.token_scores())

    def eager(self) -> Tensor:
        """The same from matrices that are all kept; of the family of Llama alone."""
        base: Any = self.model.base_model
        values: list[Tensor] = []
        hooks = [
            layer.self_attn.v_proj.register_forward_hook(lambda module, args, output: values.append(output))
            for layer in base.layers
        ]
        self.model.set_attn_implementation("eager")
        try:
            ids = self.ids
            mask = torch.ones_like(ids)
            output = self.model.base_model(
                input_ids=ids, attention_mask=mask, use_cache=False, output_attentions=True
            )
        finally:
            self.model.set_attn_implementation("sdpa")
            for hook in hooks:
                hook.remove()
        of_layers = map(self._scores_of_layer, output.attentions, values)
        return torch.stack(list(of_layers)).mean(dim=0)

    def _scores_of_layer(self, attention: Tensor, values: Tensor) -> Tensor:
        """The mean of alpha * |v| over heads and the answer's rows."""
        of_heads = values.unflatten(-1, (self.model.config.num_key_value_heads, -1)).transpose(1, 2)
        norms = of_heads.float().norm(dim=-1)
        norms = norms.repeat_interleave(attention.shape[1] // norms.shape[1], dim=1)
        alpha = attention[:, :, -_ANSWER_ROWS - 1 : -1].float()
        return (alpha * norms[:, :, None]).mean(dim=(1, 2))


@torch.no_grad()
def measure(setting: Setting) -> list[Comparison]:
    """The shapes one after the other, and the memory of one of them."""
    found: list[Comparison] = []
    smollm2, falcon = _models(setting)
    for work, beside_eager in _works(setting, smollm2):
        found += _time(work, setting, beside_eager)
        if beside_eager and can_measure(setting.device):
            found.append(_extra_memory(work, setting))
    longest = _longest(setting, smollm2)
    found += _time(longest, setting, beside_eager=False)
    found.append(_beyond_eager(longest, setting))
    del smollm2, longest
    for num_prompts, num_tokens in _falcon_shapes(setting):
        found += _time(_Work(falcon(), "falcon-rw-1b's layers", num_prompts, num_tokens), setting, False)
    return found


# ---- what is read ----


def _models(setting: Setting) -> tuple[PreTrainedModel, Callable[[], PreTrainedModel]]:
    """The embedded reader, and what makes layers of falcon-rw-1b."""
    device, dtype = setting.device, torch.float32
    if setting.size is Size.TINY:
        small = made_up.smollm2(device, dtype, 2, dim=32, num_heads=4, num_kv_heads=2, feed_forward=48)
        return small, partial(made_up.falcon_rw, device, dtype, 2, dim=32, num_heads=4)
    from datamodules import embedded
    from lightning_modules.loading import load_causal_lm

    model: Any
    model, _ = load_causal_lm(embedded.reader_gguf(), dtype)
    num_layers = 24 if setting.size is Size.FULL else 4
    return model.to(device).eval(), partial(made_up.falcon_rw, device, dtype, num_layers)


def _works(setting: Setting, model: PreTrainedModel) -> list[tuple[_Work, bool]]:
    """With whether eager attention does it too."""
    if setting.size is Size.TINY:
        return [(_Work(model, "tiny", 5, 24), False), (_Work(model, "tiny", 1, 64), True)]
    return [
        (_Work(model, "SmolLM2", 5, 128), False),
        (_Work(model, "SmolLM2", 1, 640), False),
        (_Work(model, "SmolLM2", 1, 1280), True),
        (_Work(model, "SmolLM2", 1, 2048), False),
    ]


def _longest(setting: Setting, model: Any) -> _Work:
    """In bfloat16, from here on: in half the time on most machines."""
    model.to(torch.bfloat16)
    if setting.size is Size.TINY:
        return _Work(model, "tiny in bf16", 1, 256)
    return _Work(model, "SmolLM2 in bf16", 1, 8192)


def _falcon_shapes(setting: Setting) -> list[tuple[int, int]]:
    return [(2, 24)] if setting.size is Size.TINY else [(5, 128), (1, 640), (1, 2048)]


# ---- what is measured ----


def _time(work: _Work, setting: Setting, beside_eager: bool) -> list[Comparison]:
    captured = work.captured()
    untouched = agreement_of("hidden states", captured.hidden, work.plain(), within=0.0)
    took = in_turns({"captured": work.captured, "plain": work.plain}, setting, is_warm=True)
    found = [
        Comparison(work.what, "the pass alone", took["captured"], took["plain"], AtMost(1.05), untouched)
    ]
    if beside_eager:  # in turns of their own: what eager attention leaves of the memory is others' time
        agreement = agreement_of("token scores", captured.scores, work.eager(), within=1e-3)
        took = in_turns({"captured": work.captured, "eager": work.eager}, setting, is_warm=True)
        eager = Comparison(
            work.what, "eager attention", took["captured"], took["eager"], AtMost(0.5), agreement
        )
        found.append(eager)
    return found


def _extra_memory(work: _Work, setting: Setting) -> Comparison:
    """Beyond the peak of the pass alone."""
    captured, eager = [], []
    for _ in range(_MEMORY_TURNS):
        peaks = [peak_bytes(one, setting.device) for one in (work.plain, work.captured, work.eager)]
        captured.append(max(0, peaks[1] - peaks[0]) / 1e6)
        eager.append((peaks[2] - peaks[0]) / 1e6)
    what = f"{work.what}: peak memory beyond that of the pass alone"
    return Comparison(what, "eager attention", Spread(captured), Spread(eager), AtMost(0.02), unit="MB")


def _beyond_eager(work: _Work, setting: Setting) -> Comparison:
    """A length at which the matrices alone may be more than there is."""
    needed, free = work.attention_bytes / 1e9, free_bytes(setting.device) / 1e9
    fits = "which would fit" if needed < free else "which do not fit"
    peak = peak_bytes(work.captured, setting.device) / 1e6
    note = f"eager attention would keep {needed:,.3g} GB of matrices, {fits} into the {free:,.3g} GB free"
    what = f"{work.what}: peak memory"
    return Comparison(what, "eager attention", Spread([peak]), None, agreement=note, unit="MB")
