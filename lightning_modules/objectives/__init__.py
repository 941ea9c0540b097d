"""What the retriever is trained towards: an objective a file, found by name."""

from dataclasses import fields
from typing import Any

from lightning_modules.objectives.adist import ADist
from lightning_modules.objectives.base import Constants, Objective
from lightning_modules.objectives.emdr2 import EMDR2
from lightning_modules.objectives.end_to_end import EndToEnd
from lightning_modules.objectives.given import Given
from lightning_modules.objectives.labels import Labels
from lightning_modules.objectives.length import Length
from lightning_modules.objectives.loop import LOOP
from lightning_modules.objectives.pdist import PDist
from lightning_modules.objectives.signals import Signals
from lightning_modules.objectives.uniform import Uniform

__all__ = [
    "EMDR2",
    "LOOP",
    "OBJECTIVES",
    "ADist",
    "Constants",
    "EndToEnd",
    "Given",
    "Labels",
    "Length",
    "Objective",
    "PDist",
    "Signals",
    "Uniform",
    "make_objective",
]

OBJECTIVES: dict[str, type[Objective]] = {
    objective.name: objective
    for objective in (
        ADist,
        PDist,
        EMDR2,
        LOOP,
        Signals,
        EndToEnd,
        Uniform,
        Length,
        Labels,
    )
}
"""All objectives by name: what configuration, pre-flight check and docs offer.

`Given` is none of them: it comes with scores (`objective.scores_from`), not with a reader.
"""


def make_objective(name: str, **settings: Any) -> Objective:
    """An objective by its name.

    Args:
        name: of `OBJECTIVES`.
        settings: those of all objectives; each takes those that are fields of its own.

    Raises:
        ValueError: an unknown name; a setting that is out of its choices.

    Example:
        >>> objective = make_objective("pdist", attention_temperature=0.1, passage_score="sum")
        >>> objective.name, objective.attention_temperature
        ('pdist', 0.1)
    """
    if name not in OBJECTIVES:
        raise ValueError(f"objective {name!r} is unknown; choose one of: {', '.join(OBJECTIVES)}")
    made = OBJECTIVES[name]
    own = {field.name for field in fields(made)}
    return made(**{key: value for key, value in settings.items() if key in own})
