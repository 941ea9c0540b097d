"""How large models are, without loading one: from a table of the paper's, or from their files' headers."""

import json
import re
import struct
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from math import prod
from pathlib import Path
from typing import Any

from datamodules import embedded
from datamodules.hub_models import find_model, is_hub_name
from experiments.models import EMBEDDED
from lightning_modules.retriever import QUERY_ENCODER

_LAYER = re.compile(r"(?:^|\.)(\d+)\.")
"""The first number in a weight's name is its layer's."""
_DIMS = ("hidden_size", "d_model", "n_embd", "dim")
_LAYERS = ("num_hidden_layers", "num_layers", "n_layer", "n_layers")


@dataclass(frozen=True)
class ModelSize:
    """Numbers of parameters, and what passes and activations depend on.

    Attributes:
        in_layers: parameters that each token is multiplied with: of the layers, of an encoder-decoder model
            those of the encoder.
        in_decoder: likewise, of the decoder of an encoder-decoder model.
        outside: embeddings, output matrix, last norm.
        num_layers: of the encoder or the decoder that is alone.
        dim: hidden size.
        vocabulary: tokens.
        has_dropout: whether a training pass differs from the teacher's.
    """

    in_layers: int
    outside: int
    num_layers: int
    dim: int
    vocabulary: int
    in_decoder: int = 0
    has_dropout: bool = False

    @property
    def parameters(self) -> int:
        """All of them."""
        return self.in_layers + self.in_decoder + self.outside


PUBLISHED: dict[str, ModelSize] = {
    # BERT base
    "facebook/contriever": ModelSize(85_054_464, 23_837_184, 12, 768, 30_522),
    "tiiuae/falcon-rw-1b": ModelSize(1_208_598_528, 103_026_688, 24, 2048, 50_304),
    # T5 v1.1 large
    "google/t5-large-lm-adapt": ModelSize(
        308_331_008, 65_800_192, 24, 1024, 32_128, in_decoder=409_018_880, has_dropout=True
    ),
}
"""The paper's models, from their public configurations."""

_EMBEDDED_READER = ModelSize(106_202_880, 28_312_128, 30, 576, 49_152)
"""SmolLM2-135M: to read a GGUF file's header takes seconds."""


_BROKEN = (
    OSError,
    ValueError,
    KeyError,
    TypeError,
    AttributeError,
    OverflowError,
    MemoryError,
    RecursionError,
    struct.error,
)
"""What a file raises that is not what it should be."""


def reader_size(name: str) -> ModelSize | None:
    """Of `reader.name`; None = it is not on this machine, or does not say."""
    return _EMBEDDED_READER if name == EMBEDDED else _size_of(name)


def retriever_size(name: str, num_layers: int | None = None) -> ModelSize | None:
    """Of one encoder of `retriever.name`, with its first layers only where they are given; None likewise."""
    if name == EMBEDDED:
        try:
            name = str(embedded.retriever_folder())
        except ValueError:  # not installed, which the run says better
            return None
    size = _size_of(name, num_layers)
    if size is None or num_layers is None or num_layers >= size.num_layers:
        return size
    # of the table
    return replace(size, num_layers=num_layers, in_layers=size.in_layers * num_layers // size.num_layers)


def _size_of(name: str, num_layers: int | None = None) -> ModelSize | None:
    repository, _, _ = name.partition("@")
    if repository in PUBLISHED and is_hub_name(name):
        return PUBLISHED[repository]
    folder = find_model(name)
    if folder is None:
        return None
    if (folder / QUERY_ENCODER).is_dir():  # of a retriever with two encoders, which are equally large
        folder /= QUERY_ENCODER
    try:
        config = json.loads((folder / "config.json").read_text())
        return _counted(config, _shapes(folder), num_layers)
    except _BROKEN:  # loading the model says what is wrong
        return None


def _counted(
    config: Mapping[str, Any], shapes: Iterable[tuple[str, list[int]]], num_layers: int | None
) -> ModelSize:
    layers = int(_first_of(config, _LAYERS))
    kept = layers if num_layers is None else min(layers, num_layers)
    has_decoder = bool(config.get("is_encoder_decoder"))
    counts = {"in_layers": 0, "in_decoder": 0, "outside": 0}
    for name, shape in shapes:
        layer = _LAYER.search(name)
        if layer is None:
            counts["outside"] += prod(shape)
        elif has_decoder and "decoder." in name:
            counts["in_decoder"] += prod(shape)
        elif int(layer[1]) < kept:
            counts["in_layers"] += prod(shape)
    rates = (value for key, value in config.items() if "drop" in key and "classifier" not in key)
    return ModelSize(
        **counts,
        num_layers=kept,
        dim=int(_first_of(config, _DIMS)),
        vocabulary=int(config["vocab_size"]),
        has_dropout=any(isinstance(rate, float) and rate > 0 for rate in rates),
    )


def _first_of(config: Mapping[str, Any], names: Iterable[str]) -> Any:
    """The value of the name that this kind of model has; raises `KeyError` where it has none."""
    return config[next((name for name in names if name in config), "size of the model")]


def _shapes(folder: Path) -> Iterator[tuple[str, list[int]]]:
    """Names and shapes of all weights, from the headers of safetensors files.

    Raises:
        OSError: there is none.
    """
    for path in _weight_files(folder):
        with path.open("rb") as file:
            (length,) = struct.unpack("<Q", file.read(8))
            header = json.loads(file.read(length))
        for name, about in header.items():
            if name != "__metadata__" and about["dtype"] != "I64":  # of positions, no parameters
                yield name, about["shape"]


def _weight_files(folder: Path) -> list[Path]:
    """The files that transformers loads; a folder may hold the same weights in other files too."""
    whole, index = folder / "model.safetensors", folder / "model.safetensors.index.json"
    if not whole.is_file() and index.is_file():
        return [folder / name for name in sorted(set(json.loads(index.read_text())["weight_map"].values()))]
    return [whole]
