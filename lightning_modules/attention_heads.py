"""Which heads of which layers of a reader count, as a short text says: `12.3,14.*,20-22.0,layers:3-5`."""

import re
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Bool
from torch import Tensor
from transformers import PreTrainedModel

_PART = re.compile(r"(\d+)(?:-(\d+))?\.(?:(\*)|(\d+)(?:-(\d+))?)")
_LAYERS = re.compile(r"layers:(\d+(?:-\d+)?)")
_FORM = (
    "write layer.head, such as 12.3,14.*,0-3.* (* = all heads of a layer, a-b = from a to b; from 0 on), or "
    "layers:0-3"
)


@runtime_checkable
class HeadSource(Protocol):
    """What says which heads of a model count: the heads themselves, or where they are listed."""

    def heads_of(self, model: PreTrainedModel) -> "AttentionHeads":
        """The heads of this model.

        Raises:
            ValueError: there is nothing about this model.
        """


@dataclass(frozen=True)
class AttentionHeads:
    """Heads of an attention model, named by layer and head, both counted from 0.

    Attributes:
        parts: layers, and the heads that count in each of them; None = all heads.

    Example:
        >>> heads = AttentionHeads.parse("0.1, 2.*")
        >>> str(heads)
        '0.1,2.*'
        >>> heads.mask(num_layers=3, num_heads=2).int().tolist()
        [[0, 1], [0, 0], [1, 1]]
    """

    parts: tuple[tuple[range, range | None], ...]

    @classmethod
    def parse(cls, text: str) -> "AttentionHeads":
        """The heads that a text names, its parts separated by commas.

        Raises:
            ValueError: a part is not of the form `layer.head`, or a range runs backwards.
        """
        parts = []
        for part in text.split(","):
            found = _PART.fullmatch(_LAYERS.sub(r"\1.*", part.strip()))
            if found is None:
                raise ValueError(f"{part.strip()!r} names no attention head; {_FORM}")
            layer, last_layer, every, head, last_head = found.groups()
            layers, heads = _span(layer, last_layer), None if every else _span(head, last_head)
            if not layers or (heads is not None and not heads):
                raise ValueError(f"{part.strip()!r} runs backwards, so it names no attention head; {_FORM}")
            parts.append((layers, heads))
        return cls(tuple(parts))

    @classmethod
    def from_mask(cls, mask: Bool[Tensor, "layers heads"]) -> "AttentionHeads":
        """The heads where a mask is True, at least one, in order; a whole layer as `layer.*`."""
        assert bool(mask.any()), "no head at all is not a selection"
        parts: list[tuple[range, range | None]] = []
        for layer, of_layer in enumerate(mask):
            layers = range(layer, layer + 1)
            if bool(of_layer.all()):
                parts.append((layers, None))
            else:
                parts += [(layers, range(head, head + 1)) for head in of_layer.nonzero()[:, 0].tolist()]
        return cls(tuple(parts))

    def heads_of(self, model: PreTrainedModel) -> "AttentionHeads":
        """See `HeadSource`: themselves, whatever the model."""
        return self

    def mask(self, num_layers: int, num_heads: int) -> Bool[Tensor, "layers heads"]:
        """True = the head counts.

        Raises:
            ValueError: a layer or head that a model of this size does not have.
        """
        chosen = torch.zeros(num_layers, num_heads, dtype=torch.bool)
        for layers, heads in self.parts:
            if layers[-1] >= num_layers or (heads is not None and heads[-1] >= num_heads):
                raise ValueError(
                    f"attention_heads={self}: the reader has no {_show(layers, heads)}; its layers "
                    f"are 0 to {num_layers - 1}, the heads of each 0 to {num_heads - 1}"
                )
            chosen[layers.start : layers.stop, slice(None) if heads is None else list(heads)] = True
        return chosen

    def __str__(self) -> str:
        return ",".join(_show(layers, heads) for layers, heads in self.parts)


def _span(first: str, last: str | None) -> range:
    return range(int(first), int(last or first) + 1)


def _show(layers: range, heads: range | None) -> str:
    return ".".join(
        "*" if span is None else f"{span[0]}" if len(span) == 1 else f"{span[0]}-{span[-1]}"
        for span in (layers, heads)
    )
