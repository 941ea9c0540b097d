"""LoRA: small matrices beside those of a model are trained, and the model's own stay as they are."""

import importlib.util

import torch
from torch import Tensor
from transformers import PreTrainedModel

from lightning_modules.loading import ModelError

INSTALL_COMMAND = "pip install 'attention-distillation[lora]'"
_NAME = "default"
"""peft's own name of a model's only adapter."""


def check_peft_is_there() -> None:
    """Refuses to go on without the package.

    Raises:
        ModelError: it is not installed.
    """
    if importlib.util.find_spec("peft") is None:
        raise ModelError(
            f"lora_rank: LoRA needs the package peft, which is not installed: {INSTALL_COMMAND}; or set "
            "lora_rank to null"
        )


def add_adapters(model: PreTrainedModel, rank: int, alpha: float | None = None) -> None:
    """Puts W + (alpha / rank) B A in the place of each weight W of a linear layer but the output's.

    A and B are float32 and all that learns from now on. B begins as zeros, so that the model computes what it
    did.

    Args:
        model: of transformers.
        rank: of A and B.
        alpha: None = 2 * rank.

    Raises:
        ModelError: peft is not installed.
    """
    check_peft_is_there()
    from peft import LoraConfig
    from peft.functional import cast_adapter_dtype, inject_adapter_in_model

    scale = 2 * rank if alpha is None else alpha
    settings = LoraConfig(r=rank, lora_alpha=scale, target_modules="all-linear", lora_dropout=0.0)  # type: ignore[arg-type]
    inject_adapter_in_model(settings, model, _NAME)
    # in the 8 bits of bfloat16's fraction small updates are lost
    cast_adapter_dtype(model, _NAME, autocast_adapter_dtype=True)


def merged_weights(model: PreTrainedModel) -> dict[str, Tensor] | None:
    """All weights by the names that they have without adapters, in main memory; None = it has no adapters.

    Sums are in float32, also where the model's own weights have fewer bits: what was learnt would be lost.
    """
    if not hasattr(model, "peft_config"):
        return None
    from peft.tuners.lora import Linear

    weights = {
        name.replace(".base_layer.", "."): weight.detach()
        for name, weight in model.state_dict().items()
        if ".lora_" not in name
    }
    for name, layer in model.named_modules():
        if isinstance(layer, Linear):
            with torch.no_grad():
                change = layer.get_delta_weight(_NAME)
                weights[f"{name}.weight"] = (weights[f"{name}.weight"].float() + change).cpu()
    return weights
