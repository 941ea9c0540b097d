"""Part `stopping`: the stopping rule replayed on runs of other parts; it runs no cells of its own.

Those are runs whose results have the value of each validation question: `prediction` and `collapse`, not
`tables`, whose runs had the rule itself.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from experiments.study.cells import Result
from experiments.study.prediction import GAIN, VALIDATION
from lightning_modules.metrics.estimates import Estimate, estimate
from lightning_modules.metrics.paired_change import DeclineRule

NAME = "stopping"
PATIENCES = (1, 2)


@dataclass(frozen=True)
class Replayed:
    """What the rule would have done in a run.

    Attributes:
        cell: the run.
        stopped_at: the step after which it would have been stopped; None = never.
        num_steps: of the run.
        lowest_from: the step of its first validation below the start.
        end: mean of the last validation less that of the start.
        came_back: whether a validation after the stop was as high as the start.
        test: change of the Hit Rate@5 on the questions that are measured on.
    """

    cell: str
    stopped_at: int | None
    num_steps: int
    lowest_from: int | None
    end: float
    came_back: bool
    test: Estimate

    @property
    def saves_steps(self) -> bool:
        """Whether it stopped the run before its last step."""
        return self.stopped_at is not None and self.stopped_at < self.num_steps

    @property
    def ended_lower(self) -> bool:
        """Whether the run ended surely lower than it started."""
        return self.test.high < 0

    @property
    def is_false(self) -> bool:
        """Whether it stopped a run that ended no lower than it started."""
        return self.stopped_at is not None and self.test.mean >= 0

    @property
    def is_missed(self) -> bool:
        """Whether it let a run go on that ended surely lower."""
        return self.stopped_at is None and self.ended_lower

    @property
    def saved(self) -> float:
        """Share of the steps that were left when it stopped."""
        return 0.0 if self.stopped_at is None else 1 - self.stopped_at / self.num_steps

    @property
    def late(self) -> int | None:
        """Steps from the first validation below the start to the stop."""
        if self.stopped_at is None or self.lowest_from is None:
            return None
        return self.stopped_at - self.lowest_from


def replay(results: Sequence[Result], patience: int) -> list[Replayed]:
    """Of all runs that have the value of each validation question, whatever part they are of.

    Args:
        results: of all parts.
        patience: validations in a row that must be lower.
    """
    return [_replay(result, patience) for result in results if validations_of(result)]


def replayed_parts(results: Sequence[Result]) -> list[str]:
    """Parts that such runs are of."""
    return list(dict.fromkeys(result.cell.part for result in results if validations_of(result)))


def validations_of(result: Result) -> dict[int, np.ndarray]:
    """Hits of the validation questions by step, in order; empty where a cell trains nothing."""
    found = {
        int(name.removeprefix(VALIDATION)): np.array(values)
        for name, values in result.questions.items()
        if re.fullmatch(re.escape(VALIDATION) + r"\d+", name)
    }
    return dict(sorted(found.items()))


def _replay(result: Result, patience: int) -> Replayed:
    (_, start), *later = validations_of(result).items()
    steps, values = [step for step, _ in later], np.array([hits for _, hits in later])
    rule = DeclineRule(patience=patience, num_validations=len(later))
    declined = rule.first_decline(start, values)
    means = values.mean(axis=1)
    below = [step for step, mean in zip(steps, means, strict=True) if mean < start.mean()]
    return Replayed(
        result.cell.name,
        None if declined is None else steps[declined],
        steps[-1],
        below[0] if below else None,
        float(means[-1] - start.mean()),
        declined is not None and bool((means[declined + 1 :] >= start.mean()).any()),
        estimate(result.questions[GAIN]),
    )
