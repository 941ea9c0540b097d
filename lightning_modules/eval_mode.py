"""Running a model in eval mode for a while, and whether that makes a difference."""

import contextlib
from collections.abc import Iterator, Mapping
from typing import Any

from torch import nn
from torch.nn.modules.dropout import _DropoutNd
from transformers import PreTrainedConfig, PreTrainedModel

_RATES = ("drop", "jitter")
"""What the names of rates hold: `dropout`, `attn_pdrop`, `layerdrop`, `router_jitter_noise`."""
_OF_OTHER_HEADS = ("classifier", "summary", "pooler")
"""What those of heads for other tasks hold (`classifier_dropout` is 0.1 in every GPT-NeoX)."""


@contextlib.contextmanager
def eval_mode(model: nn.Module) -> Iterator[None]:
    """No dropout inside; every part of the model is back in the mode it was in afterwards."""
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        yield
    finally:
        for module, training in modes:
            module.training = training


def has_dropout(model: PreTrainedModel) -> bool:
    """Whether a pass in train mode may differ from one in eval mode.

    Rates are found wherever models keep them: in dropout modules, in attributes of other modules (OPT's
    `self.dropout`), and in the configuration, from which some read while they run (Falcon). A rate that the
    model turns out not to use costs a pass; one that is missed would make a teacher random.

    Args:
        model: a language model.
    """
    for module in model.modules():
        if isinstance(module, _DropoutNd) and module.p > 0:
            return True
        if any(_is_rate(name, value) for name, value in vars(module).items()):
            return True
    return _holds_rate(vars(model.config))


def _holds_rate(settings: Mapping[Any, Any]) -> bool:
    """Whether one of the settings, or of those nested in them, is a rate above 0."""
    for name, value in settings.items():
        nested = vars(value) if isinstance(value, PreTrainedConfig) else value
        if _is_rate(str(name), value) or (isinstance(nested, Mapping) and _holds_rate(nested)):
            return True
    return False


def _is_rate(name: str, value: Any) -> bool:
    """Whether an attribute is a rate above 0 that a language model may use."""
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    is_named = any(part in name for part in _RATES) and not any(part in name for part in _OF_OTHER_HEADS)
    return is_number and is_named and value > 0
