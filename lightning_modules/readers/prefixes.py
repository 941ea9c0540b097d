"""What a causal model reads before its prompts, such as solved examples: once, or with each of them."""

import inspect
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import functional as F
from transformers import Cache, DynamicCache, PreTrainedModel
from transformers.cache_utils import DynamicLayer

from datamodules.batches import PromptBatch


class Prefix(ABC):
    """Tokens before every prompt of a pass.

    Attributes:
        num_keys: its tokens: keys that the prompts' rows attend to before those of the prompts.
        num_rows: of them those whose rows the model's output holds, before the prompts' own; below 0 where
            the prompts' own first rows are not computed either.
    """

    num_keys: int
    num_rows: int

    @abstractmethod
    def inputs(
        self, prompts: PromptBatch, embeddings: Float[Tensor, "prompts tokens dim"] | None = None
    ) -> dict[str, Any]:
        """Arguments for `forward` of the model or its base model.

        Args:
            prompts: to be read.
            embeddings: in place of the prompts' input embeddings.
        """

    @abstractmethod
    def generation_inputs(self, prompts: PromptBatch) -> dict[str, Any]:
        """Arguments for `generate`."""


def prefix_of(prompts: PromptBatch, model: PreTrainedModel) -> Prefix:
    """The prefix of some prompts, in the way that this model can read it now.

    It is run once, without gradient, where no gradient is to reach the weights and the model lets a prompt
    begin behind it: it takes position ids and keeps all keys. Otherwise it is part of every sequence. Both
    come to the same but for rounding. It holds for the weights as they are: make one for each pass.

    Raises:
        ValueError: prefix and prompts are longer than the model can read.
    """
    if not prompts.prefix_ids:
        return NoPrefix(model)
    ids = torch.tensor(prompts.prefix_ids, device=prompts.input_ids.device)
    num_tokens = len(ids) + prompts.input_ids.shape[1]
    longest = getattr(model.config, "max_position_embeddings", None)
    if longest is not None and num_tokens > longest:
        raise ValueError(
            f"examples: {len(ids)} tokens of solved examples before {num_tokens - len(ids)} of a prompt are "
            f"more than the {longest} that the reader can read; show fewer examples, or fewer or shorter "
            "passages"
        )
    learns = torch.is_grad_enabled() and any(weight.requires_grad for weight in model.parameters())
    if learns or not (_takes_positions(model) and _keeps_all_keys(model)):
        return RepeatedPrefix(model, ids)
    return SharedPrefix(model, ids)


class NoPrefix(Prefix):
    """Prompts as they are."""

    num_keys = num_rows = 0

    def __init__(self, model: PreTrainedModel) -> None:
        self.model = model

    def inputs(
        self, prompts: PromptBatch, embeddings: Float[Tensor, "prompts tokens dim"] | None = None
    ) -> dict[str, Any]:
        """See `Prefix.inputs`."""
        return _inputs(self.model, prompts.attention_mask.long(), prompts.input_ids, embeddings)

    def generation_inputs(self, prompts: PromptBatch) -> dict[str, Any]:
        """See `Prefix.generation_inputs`."""
        return {"input_ids": prompts.input_ids, "attention_mask": prompts.attention_mask.long()}


class RepeatedPrefix(Prefix):
    """Part of every sequence, between the padding on the left, if any, and the prompt.

    Args:
        model: that reads.
        ids: of the prefix.
    """

    def __init__(self, model: PreTrainedModel, ids: Int[Tensor, " prefix"]) -> None:
        self.model = model
        self.ids = ids
        self.num_keys = self.num_rows = len(ids)

    def inputs(
        self, prompts: PromptBatch, embeddings: Float[Tensor, "prompts tokens dim"] | None = None
    ) -> dict[str, Any]:
        """See `Prefix.inputs`."""
        ids, mask = self._sequences(prompts)
        if embeddings is not None:
            own = self.model.get_input_embeddings()(self.ids).detach()
            own = own.expand(len(embeddings), -1, -1)
            embeddings = self._inserted(prompts, embeddings, own)
        return _inputs(self.model, mask, ids, embeddings)

    def generation_inputs(self, prompts: PromptBatch) -> dict[str, Any]:
        """See `Prefix.generation_inputs`."""
        ids, mask = self._sequences(prompts)
        return {"input_ids": ids, "attention_mask": mask}

    def _sequences(
        self, prompts: PromptBatch
    ) -> tuple[Int[Tensor, "prompts sequence"], Int[Tensor, "prompts sequence"]]:
        """Token ids, and 1 = real token."""
        own = self.ids.expand(len(prompts.input_ids), -1)
        mask = self._inserted(prompts, prompts.attention_mask, torch.ones_like(own, dtype=torch.bool))
        return self._inserted(prompts, prompts.input_ids, own), mask.long()

    def _inserted(self, prompts: PromptBatch, of_prompts: Tensor, of_prefix: Tensor) -> Tensor:
        """[prompts, prefix + tokens, ...]: what belongs to the prefix behind each prompt's left padding."""
        num_padding = prompts.attention_mask.int().argmax(dim=1, keepdim=True)
        place = torch.arange(self.num_keys + of_prompts.shape[1], device=of_prompts.device)[None]
        is_of_prefix = (place >= num_padding) & (place < num_padding + self.num_keys)
        of_prompt = torch.where(place < num_padding, place + self.num_keys, place)
        source = torch.where(is_of_prefix, place - num_padding, of_prompt)
        both = torch.cat([of_prefix, of_prompts], dim=1)
        return both[torch.arange(len(both), device=both.device)[:, None], source]


class SharedPrefix(Prefix):
    """Run once: its keys and values stand before those of every prompt.

    Args:
        model: that reads.
        ids: of the prefix.
    """

    num_rows = 0

    def __init__(self, model: PreTrainedModel, ids: Int[Tensor, " prefix"]) -> None:
        self.model = model
        self.num_keys = len(ids)
        cache = DynamicCache(config=model.config)
        inputs = _inputs(model, torch.ones_like(ids)[None], ids[None])
        with torch.no_grad():
            model.base_model(**{**inputs, "cache": cache, "use_cache": True})
        self._layers: list[tuple[Tensor, Tensor]] = []
        for keys, values, _ in cache:
            assert keys is not None, "the layers keep all keys"
            assert values is not None, "and their values"
            self._layers.append((keys, values))

    def inputs(
        self, prompts: PromptBatch, embeddings: Float[Tensor, "prompts tokens dim"] | None = None
    ) -> dict[str, Any]:
        """See `Prefix.inputs`."""
        inputs = _inputs(self.model, self._mask(prompts), prompts.input_ids, embeddings)
        inputs["position_ids"] = inputs["position_ids"][:, self.num_keys :]
        cache = Cache(layers=[_Before(*layer) for layer in self._layers])
        return {**inputs, "cache": cache, "use_cache": True}

    def generation_inputs(self, prompts: PromptBatch) -> dict[str, Any]:
        """See `Prefix.generation_inputs`."""
        shape = (len(prompts.input_ids), -1, -1, -1)
        copies = [(keys.expand(shape), values.expand(shape)) for keys, values in self._layers]
        cache = DynamicCache(copies, config=self.model.config)  # one that generation may grow
        return {"input_ids": prompts.input_ids, "attention_mask": self._mask(prompts), "cache": cache}

    def _mask(self, prompts: PromptBatch) -> Int[Tensor, "prompts sequence"]:
        return F.pad(prompts.attention_mask.long(), (self.num_keys, 0), value=1)


class ReadPrompts:
    """Prompts that were read once, each of which can be read again from any token on.

    Args:
        prompts: all of them.
        prefix: of the prompts; none that is part of every sequence.
        model: that reads.
        embeddings: their input embeddings.
    """

    def __init__(
        self,
        prompts: PromptBatch,
        prefix: Prefix,
        model: PreTrainedModel,
        embeddings: Float[Tensor, "prompts tokens dim"],
    ) -> None:
        self.num_prefix_keys = prefix.num_keys
        self._inputs = prefix.inputs(prompts, embeddings)
        cache = prefix.generation_inputs(prompts).get("cache") or DynamicCache(config=model.config)
        with torch.no_grad():
            model.base_model(**{**self._inputs, "cache": cache, "use_cache": True})
        self._layers = [(keys, values) for keys, values, _ in cache]

    def again(self, rows: Int[Tensor, " rows"], first: int) -> "Rest":
        """What some of them, a prompt more than once if its row comes so, are read by from a token on."""
        num_keys = self.num_prefix_keys + first
        layers = [tuple(of[rows, :, :num_keys] for of in layer) for layer in self._layers]
        mask, positions = self._inputs["attention_mask"][rows], self._inputs["position_ids"][rows, first:]
        return Rest(layers, mask, positions, num_keys, first)


class Rest(Prefix):
    """The beginnings of some prompts, whose keys and values are there: what is read comes after them.

    Args:
        layers: keys and values.
        mask: 1 = real token, of beginnings and prompts.
        positions: of the tokens that are read.
        num_keys: of the beginnings.
        first: place in the prompts of the first token that is read.
    """

    def __init__(
        self,
        layers: Sequence[tuple[Tensor, ...]],
        mask: Int[Tensor, "rows sequence"],
        positions: Int[Tensor, "rows rest"],
        num_keys: int,
        first: int,
    ) -> None:
        self.num_keys, self.num_rows = num_keys, -first
        self._layers = layers
        self._given = {"attention_mask": mask, "position_ids": positions}

    def inputs(
        self, prompts: PromptBatch, embeddings: Float[Tensor, "prompts tokens dim"] | None = None
    ) -> dict[str, Any]:
        """See `Prefix.inputs`; the prompts are given whole."""
        assert embeddings is not None, "what is read again has changed"
        cache = Cache(layers=[_Before(*layer) for layer in self._layers])
        read = {"inputs_embeds": embeddings[:, -self.num_rows :], "cache": cache, "use_cache": True}
        return {**self._given, **read}

    def generation_inputs(self, prompts: PromptBatch) -> dict[str, Any]:
        """Nothing is generated from what has changed."""
        raise NotImplementedError


def can_read_again(prefix: Prefix, model: PreTrainedModel) -> bool:
    """Whether `ReadPrompts` can hold prompts behind a prefix for a model."""
    is_apart = not isinstance(prefix, RepeatedPrefix)
    return is_apart and _takes_positions(model) and _keeps_all_keys(model)


class _Before(DynamicLayer):
    """Keys and values in front of those of each prompt, which are not kept.

    Args:
        keys, values: [prompts, kv_heads, prefix, dim], or of one sequence for all prompts.
    """

    def __init__(self, keys: Tensor, values: Tensor) -> None:
        super().__init__()
        self.lazy_initialization(keys, values)
        # what the layer is asked for its length by
        self.keys, self.values = self._before = keys, values

    def update(
        self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any
    ) -> tuple[Tensor, Tensor]:
        """Both together: [prompts, kv_heads, prefix + tokens, dim]."""
        keys, values = (states.expand(len(key_states), -1, -1, -1) for states in self._before)
        return torch.cat([keys, key_states], dim=-2), torch.cat([values, value_states], dim=-2)


def _inputs(
    model: PreTrainedModel,
    mask: Int[Tensor, "prompts sequence"],
    ids: Int[Tensor, "prompts tokens"],
    embeddings: Float[Tensor, "prompts tokens dim"] | None = None,
) -> dict[str, Any]:
    inputs: dict[str, Any] = {"attention_mask": mask, "use_cache": False}
    if embeddings is None:
        inputs["input_ids"] = ids
    else:
        inputs["inputs_embeds"] = embeddings
    if _takes_positions(model):
        inputs["position_ids"] = (mask.cumsum(dim=1) - 1).clamp(min=0)
    return inputs


def _takes_positions(model: PreTrainedModel) -> bool:
    return "position_ids" in inspect.signature(model.forward).parameters


def _keeps_all_keys(model: PreTrainedModel) -> bool:
    """Whether no layer has a window that slides, or a state in place of keys."""
    return all(type(layer) is DynamicLayer for layer in DynamicCache(config=model.config).layers)
