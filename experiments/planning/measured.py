"""What a plan says of a run's hours, beside what the run took."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from callbacks.time_stages import STEPS, TESTING, VALIDATION
from experiments.config import ConfigError
from experiments.planning.plan import Plan

_STAGES: Sequence[tuple[tuple[str, ...], tuple[str, ...]]] = (
    (("loading",), ("load",)),
    # a run does not time its first index apart from later ones
    (("encoding", "refreshing"), ("refresh_index", "staleness")),
    (("training",), ("find_candidates", STEPS)),
    (("validation",), (VALIDATION,)),
    (("testing",), (TESTING,)),
)
"""Groups of a plan's times, and parts of a run's that are the same."""


@dataclass(frozen=True)
class Stage:
    """A part of a run.

    Attributes:
        name: for people.
        planned: seconds.
        measured: seconds.
    """

    name: str
    planned: float
    measured: float

    @property
    def ratio(self) -> float | None:
        """Planned to measured; None = nothing was measured."""
        return self.planned / self.measured if self.measured else None


def compare(plan: Plan, times_s: Mapping[str, float]) -> list[Stage]:
    """Stage by stage, then what no plan counts (saving, exporting), then all together.

    Args:
        plan: of the run, on the machine that it ran on.
        times_s: of its summary.

    Raises:
        ConfigError: the run did not time its stages.
    """
    if TESTING not in times_s:
        raise ConfigError("the run is of a version that did not time its stages; run it again to compare it")
    stages = []
    for groups, parts in _STAGES:
        planned = sum(part.seconds for part in plan.times if part.group in groups)
        stages.append(Stage(" and ".join(groups), planned, sum(times_s.get(part, 0.0) for part in parts)))
    total = times_s["total"]
    rest = max(0.0, total - sum(stage.measured for stage in stages))
    return [*stages, Stage("everything else", 0.0, rest), Stage("all", plan.seconds, total)]
