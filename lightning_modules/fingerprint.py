"""What tells one model from another, however it is stored."""

import hashlib

import torch
from jaxtyping import BFloat16
from torch import Tensor
from transformers import PreTrainedModel

_SAMPLE = 64
"""Numbers looked at in each weight."""


def model_fingerprint(model: PreTrainedModel) -> str:
    """SHA-256 over a model's architecture and a sample of each of its weights.

    Looks at names, shapes and 64 evenly spaced numbers of each weight, rounded to bfloat16: it takes
    milliseconds, is the same for a copy in another format or in bfloat16, and changes with training.
    """
    digest = hashlib.sha256(model.config.model_type.encode())
    for name, weight in sorted(model.named_parameters()):
        digest.update(f"{name} {tuple(weight.shape)}".encode())
        digest.update(_sample(weight).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def _sample(weight: Tensor) -> BFloat16[Tensor, " numbers"]:
    flat = weight.detach().flatten()
    count = min(flat.numel(), _SAMPLE)
    places = torch.arange(count, device=flat.device) * flat.numel() // max(count, 1)
    return flat[places].to(torch.bfloat16).cpu()
