"""What tells one model from another, however it is stored: its weights, and what it makes of them."""

import hashlib
import json
from typing import Any

import torch
from jaxtyping import BFloat16
from torch import Tensor
from transformers import PreTrainedConfig, PreTrainedModel, PreTrainedTokenizerBase

_SAMPLE = 64
"""Numbers looked at in each weight."""
_OF_NO_OUTPUT = (
    "_name_or_path",
    "architectures",
    "dtype",
    "torch_dtype",
    "transformers_version",
    "use_cache",
)
"""Of a configuration: where it is from, and how it is stored; a weight says itself of which type it is."""


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


def tokenizer_fingerprint(tokenizer: PreTrainedTokenizerBase) -> str:
    """SHA-256 over what a tokenizer makes tokens by, whatever it was last told to cut or to pad to.

    Of one in Python (a "slow" one) the class, the vocabulary and the special tokens; a part that stands in
    its code alone is not seen.
    """
    fast = getattr(tokenizer, "backend_tokenizer", None)
    about: object
    if fast is None:
        about = [type(tokenizer).__name__, tokenizer.get_vocab(), tokenizer.special_tokens_map]
    else:
        # calls leave these two behind
        about = {**json.loads(fast.to_str()), "truncation": None, "padding": None}
    text = json.dumps(about, sort_keys=True, default=str)
    return hashlib.sha256(text.encode(errors="surrogatepass")).hexdigest()


def config_of_outputs(config: PreTrainedConfig) -> dict[str, Any]:
    """What a configuration says of a model's outputs in eval mode, such as rotary angles, windows and caps.

    The same for a copy in another folder or of another precision, and whatever the dropout is; nothing but
    what JSON has.
    """
    return _of_outputs(json.loads(config.to_json_string(use_diff=False)))


def _of_outputs(config: dict[str, Any]) -> dict[str, Any]:
    """Without what makes no difference, in the configurations inside it too."""
    return {
        key: _of_outputs(value) if isinstance(value, dict) else value
        for key, value in config.items()
        if key not in _OF_NO_OUTPUT and not _is_dropout(key)
    }


def _is_dropout(key: str) -> bool:
    return "dropout" in key or key.endswith("_pdrop")


def _sample(weight: Tensor) -> BFloat16[Tensor, " numbers"]:
    flat = weight.detach().flatten()
    count = min(flat.numel(), _SAMPLE)
    places = torch.arange(count, device=flat.device) * flat.numel() // max(count, 1)
    return flat[places].to(torch.bfloat16).cpu()
