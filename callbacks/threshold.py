"""A bound on a metric that validations log, written as text: `validation/hr_at_5 >= start - 0.02`."""

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace

from callbacks.decisions import Action
from callbacks.log_indicators import GOOD_INDICATOR2_SPEARMAN
from datamodules.choices import Choice

_NUMBER = r"(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+)?"
_FORM = re.compile(
    rf"(?P<until>until\s+)?(?P<metric>[^\s<>=]+)\s*(?P<relation>>=|<=)\s*"
    rf"(?:(?P<start>start)(?:\s*(?P<sign>[-+])\s*(?P<offset>{_NUMBER}))?|(?P<number>[-+]?{_NUMBER}))"
    r"(?:\s+for\s+(?P<patience>\d+))?(?:\s+then\s+(?P<action>\w+))?"
)
_HELP = (
    "write METRIC >= BOUND or METRIC <= BOUND, where BOUND is a number, start, start - NUMBER or start + "
    "NUMBER, with 'for N' (validations in a row) and 'then ACTION' behind it, or 'until' before it, as you "
    "like: 'validation/hr_at_5 >= start - 0.02 for 3 then stop', 'until validation/hr_at_5 >= 0.6'"
)


class Rule(Choice):
    """What a run goes by, beside thresholds of its own."""

    PAIRED = "paired"
    """The comparison with the start, question by question: `StopOnIndicators`."""
    PAPER = "paper"
    """The paper's own rules for its indicators: `paper_thresholds`."""


class Relation(Choice):
    """On which side of its bound a metric should be; both include the bound itself."""

    AT_LEAST = ">="
    AT_MOST = "<="


@dataclass(frozen=True)
class Threshold:
    """A bound that must hold, and what follows where it does not; or a goal, which ends the run.

    The text is `[until] METRIC >= BOUND [for PATIENCE] [then ACTION]`, or with `<=`. In the words of
    Lightning's `EarlyStopping`: a bound is a `divergence_threshold`, with a `patience` of its own; a goal
    (`until`) is a `stopping_threshold`; `start - 0.02` leaves a `min_delta` of 0.02 below the start; as with
    `check_finite`, a value that is not finite holds no bound.

    Attributes:
        metric: its name in the log of validations.
        relation: at least or at most the bound.
        number: the bound, or what is added to the start's value where `from_start`.
        from_start: whether the bound lies at a distance from the start's value.
        is_goal: whether the run ends once it holds, and not where it does not.
        patience: validations in a row, at least 1.
        action: what follows; a goal can only stop.

    Example:
        >>> bound = Threshold.parse("validation/hr_at_5 >= start - 0.02", patience=2)
        >>> str(bound)
        'validation/hr_at_5 >= start - 0.02 for 2 then stop'
        >>> bound.holds(0.53, start=0.55), bound.holds(0.52, start=0.55)
        (True, False)
    """

    metric: str
    relation: Relation
    number: float
    from_start: bool = False
    is_goal: bool = False
    patience: int = 2
    action: Action = Action.STOP

    def __post_init__(self) -> None:
        if self.patience < 1:
            raise ValueError(f"{self.requirement!r}: 'for {self.patience}' must be at least 'for 1'")
        if self.is_goal and self.action is not Action.STOP:
            raise ValueError(
                f"{self.requirement!r}: 'until' ends the run; leave it or 'then {self.action}' out"
            )

    @classmethod
    def parse(cls, text: str, patience: int = 2, action: Action | str = Action.STOP) -> "Threshold":
        """The threshold that a text describes.

        Args:
            text: see above.
            patience: of a bound that says none; a goal that says none is reached at once.
            action: of a bound that says none.

        Raises:
            ValueError: a text of another form, an unknown action, a patience of 0, or a goal with an action
                other than `stop`.
        """
        found = _FORM.fullmatch(text.strip())
        if found is None:
            raise ValueError(f"{text!r} is no threshold; {_HELP}")
        is_goal = found["until"] is not None
        offset = float((found["sign"] or "") + (found["offset"] or "0"))
        return cls(
            metric=found["metric"],
            relation=Relation(found["relation"]),
            number=offset if found["start"] else float(found["number"]),
            from_start=found["start"] is not None,
            is_goal=is_goal,
            patience=int(found["patience"] or (1 if is_goal else patience)),
            action=Action(found["action"] or (Action.STOP if is_goal else action)),
        )

    def bound(self, start: float) -> float:
        """What the metric is compared with, where the start's value is `start`; NaN where it has none."""
        return start + self.number if self.from_start else self.number

    def holds(self, value: float, start: float = math.nan) -> bool:
        """Whether a value keeps the bound, as far as float32 can tell; one that is not finite does not."""
        bound = self.bound(start)
        kept = {Relation.AT_LEAST: value >= bound, Relation.AT_MOST: value <= bound}[self.relation]
        # metrics are float32: a Hit Rate of 0.7 is 0.69999999 beside the 0.7 of the text
        is_equal = math.isclose(value, bound, rel_tol=1e-6, abs_tol=1e-7)
        return math.isfinite(value) and (kept or is_equal)

    @property
    def bound_text(self) -> str:
        """The bound as it was written: `0.3`, `start`, `start - 0.02`."""
        if not self.from_start:
            return _shortest(self.number)
        sign = "-" if self.number < 0 else "+"
        return f"start {sign} {_shortest(abs(self.number))}" if self.number else "start"

    @property
    def requirement(self) -> str:
        """What is asked for: `validation/hr_at_5 >= start - 0.02`."""
        return f"{self.metric} {self.relation} {self.bound_text}"

    def __str__(self) -> str:
        if self.is_goal:
            return f"until {self.requirement} for {self.patience}"
        return f"{self.requirement} for {self.patience} then {self.action}"


def _shortest(number: float) -> str:
    """As few digits as give the same number again."""
    return repr(number).removesuffix(".0")


def paper_thresholds(
    percentiles: Sequence[int] = (90, 95), patience: int = 2, action: Action | str = Action.STOP
) -> tuple[Threshold, ...]:
    """How the paper reads its indicators (arXiv 2402.11794), as bounds.

    Indicator 1: the higher the better, both parts, here not below the start. Indicator 2: attention should
    rise, here not fall below the start, and a Spearman above 0.3 is good.
    `experiments/benchmarks/paper_rules.py` lays them on the paper's own tables.

    Args:
        percentiles: of the indicators.
        patience, action: of all of them.
    """
    bounds: list[Threshold] = []
    for percentile in percentiles:
        from_start = Threshold("", Relation.AT_LEAST, 0.0, True, False, patience, Action(action))
        bounds += [
            replace(from_start, metric=f"indicator1/attention_p{percentile}"),
            replace(from_start, metric=f"indicator1/spearman_p{percentile}"),
            replace(from_start, metric=f"indicator2/attention_p{percentile}"),
            replace(
                from_start,
                metric=f"indicator2/spearman_p{percentile}",
                number=GOOD_INDICATOR2_SPEARMAN,
                from_start=False,
            ),
        ]
    return tuple(bounds)
