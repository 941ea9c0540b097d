"""What a run decided while it trained, in words."""

from collections.abc import Mapping
from typing import Any

from callbacks.decisions import COMPARISON


def describe_decision(decision: Mapping[str, Any]) -> str:
    """One of the `decisions` of `summary.json`: when, what, and with which numbers.

    Example:
        >>> describe_decision({"step": 40, "action": "stop", "metric": "m", "baseline": 0.55, "value": 0.52,
        ...     "bound": 0.53, "rule": "m >= start - 0.02 for 2 then stop"})
        'step 40: stop, m is 0.520 (threshold m >= start - 0.02 for 2 then stop, bound 0.530, start 0.550)'
    """
    said = f"step {decision['step']}: {decision['action']}, {decision['metric']}"
    start = _number(decision["baseline"])
    rule = decision.get("rule", COMPARISON)  # summaries of earlier versions name none
    if rule == COMPARISON:
        change, low, high = (_number(decision[name], "+") for name in ("change", "low", "high"))
        return f"{said} changed by {change} [{low}, {high}] (start {start})"
    value, bound = _number(decision["value"]), _number(decision["bound"])
    return f"{said} is {value} (threshold {rule}, bound {bound}, start {start})"


def _number(value: float | None, sign: str = "") -> str:
    return "undefined" if value is None else f"{value:{sign}.3f}"
