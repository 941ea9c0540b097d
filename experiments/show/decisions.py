"""What a run decided while it trained, in words."""

from collections.abc import Mapping
from typing import Any

from callbacks.decisions import COMPARISON
from experiments.config import ExperimentConfig


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


def kept_start(config: ExperimentConfig, summary: Mapping[str, Any]) -> bool:
    """Whether a finished run was trained and has kept its starting weights, since no checkpoint beat them."""
    # summaries of earlier versions do not say what was chosen by
    was_chosen = config.evaluation.monitor is not None and summary.get("chosen_by", True) is not None
    return summary.get("trained", False) and was_chosen and summary.get("best_step") is None


def describe_kept(summary: Mapping[str, Any]) -> str:
    """Which weights a run that trained has kept, and how its last ones did.

    Example:
        >>> describe_kept({"best_step": None, "chosen_by": {"monitor": "validation/hr_at_5", "start": 0.5,
        ...     "kept": 0.5, "last": 0.125}})
        'no checkpoint beat the start; starting weights kept; last validation/hr_at_5 0.125 (-0.375)'
    """
    chosen, step = summary.get("chosen_by"), summary["best_step"]
    if chosen is None:
        return "no checkpoint was chosen by a validation" if step is None else f"best checkpoint: step {step}"
    start, kept, last = (chosen[when] for when in ("start", "kept", "last"))

    def value(found: float | None) -> str:
        change = "" if found is None or start is None else f" ({found - start:+.3f})"
        return f"{_number(found)}{change}"

    at_end = f"last {chosen['monitor']} {value(last)}"
    if step is None:
        return f"no checkpoint beat the start; starting weights kept; {at_end}"
    return f"best checkpoint: step {step}, {chosen['monitor']} {value(kept)}; {at_end}"


def _number(value: float | None, sign: str = "") -> str:
    return "undefined" if value is None else f"{value:{sign}.3f}"
