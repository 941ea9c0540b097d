"""What each setting may be by itself: its choices, bounds and form, as its field declares them."""

import math
import unicodedata
from dataclasses import Field
from typing import Any, get_args

from experiments.config import SETTING, ConfigError, ExperimentConfig, Setting, all_fields

LARGEST_WHOLE = 2**31 - 1
"""Of a whole number without an upper bound of its own: what torch and FAISS count with."""

_UNPRINTABLE = {"Cc", "Cs", "Zl", "Zp"}
"""Unicode's categories of control characters, halves of characters, and separators of lines."""


def check_each_setting(config: ExperimentConfig) -> None:
    """Refuses a value that a setting cannot have, whatever the others are.

    Raises:
        ConfigError: names the key and what it may be.
    """
    for key, item in all_fields():
        if SETTING in item.metadata:
            _check_setting(key, item, value_of(config, key))


def value_of(config: ExperimentConfig, key: str) -> Any:
    """The value of a key such as `trainer.max_steps`."""
    value: Any = config
    for part in key.split("."):
        value = getattr(value, part)
    return value


def _check_setting(key: str, item: Field[Any], value: Any) -> None:
    if value is None:  # where the type does not say so, loading has refused it
        return
    setting: Setting = item.metadata[SETTING]
    if setting.choices is not None:
        known = setting.choices()
        unknown = [item for item in (value if isinstance(value, list) else [value]) if item not in known]
        if unknown:
            raise ConfigError(f"{key}={unknown[0]!r} is unknown; choose one of: {', '.join(known)}")
    if not _is_within(setting, value):
        or_null = ", or null" if type(None) in get_args(item.type) else ""
        raise ConfigError(f"{key}={value} must be {_bounds(setting, value)}{or_null}")
    for text in value if isinstance(value, list) else [value]:
        _check_text(key, setting, text)


def _check_text(key: str, setting: Setting, text: Any) -> None:
    """One line of text, or several where that is said, in the form that it must have."""
    allowed = "\n" if setting.takes_lines else ""
    if isinstance(text, str) and any(
        unicodedata.category(one) in _UNPRINTABLE and one not in allowed for one in text
    ):
        raise ConfigError(f"{key}={text!r} holds a line break or another control character; leave it out")
    if setting.parse is None:
        return
    if not isinstance(text, str):  # OmegaConf lets mappings into lists of text
        raise ConfigError(f"{key}: {text} must be text")
    try:
        setting.parse(text)
    except ValueError as error:
        raise ConfigError(f"{key}: {error}") from error


def _is_within(setting: Setting, value: Any) -> bool:
    """Whether a number, or each of a list of at least one number, is finite and within bounds."""
    if isinstance(value, list):
        return not setting.is_bounded or (len(value) > 0 and all(_is_within(setting, item) for item in value))
    if isinstance(value, float) and not math.isfinite(value):
        return False
    return (
        (setting.at_least is None or value >= setting.at_least)
        and (setting.above is None or value > setting.above)
        and (setting.at_most is None or value <= setting.at_most)
        and (setting.below is None or value < setting.below)
        and not _is_too_large(setting, value)
    )


def _is_too_large(setting: Setting, value: Any) -> bool:
    """Whether a whole number is beyond what can be counted."""
    return isinstance(value, int) and setting.at_most is None and value > LARGEST_WHOLE


def _bounds(setting: Setting, value: Any) -> str:
    """What a value may be, in words."""
    values = value if isinstance(value, list) else [value]
    at_most = setting.at_most
    if any(_is_too_large(setting, item) for item in values):
        at_most = LARGEST_WHOLE
    if setting.at_least is not None and at_most is not None:
        text = f"between {setting.at_least} and {at_most}"
    elif setting.above is not None and setting.below is not None:
        text = f"between {setting.above} and {setting.below}, both excluded"
    else:
        bounds = {
            "at least": setting.at_least,
            "above": setting.above,
            "at most": at_most,
            "below": setting.below,
        }
        text = " and ".join(f"{words} {bound}" for words, bound in bounds.items() if bound is not None)
    if isinstance(value, list):
        return f"one or more numbers, each {text}"
    if isinstance(value, float) and not math.isfinite(value):
        return f"{text}, and finite" if text else "finite"
    return text
