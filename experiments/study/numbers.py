"""Numbers that are computed from several cells, each under a name that its row of the table has."""

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from experiments.study.cells import Factors, name_of
from lightning_modules.metrics.estimates import Estimate

DERIVED = "derived"
"""The part that rows of such numbers are of."""
OF = "of"
"""Their first factor: the part of the cells that they are computed from."""


@dataclass(frozen=True)
class Derived:
    """Numbers about the same thing, such as one teacher over its seeds.

    Attributes:
        factors: what they are about, by name; the first is `of`.
        measures: by name.
    """

    factors: Factors
    measures: dict[str, Estimate] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """What a cell's name is for a cell; without a seed, since they are over all of them.

        Example:
            >>> Derived((("of", "prediction"), ("teacher", "initial answer"))).name
            'derived/of=prediction/teacher=initial-answer'
        """
        return name_of(DERIVED, self.factors)

    def __getitem__(self, factor: str) -> str:
        return dict(self.factors)[factor]


class Numbers:
    """All of them: computed from the results of cells, or read from the table."""

    def __init__(self) -> None:
        self._found: dict[Factors, Derived] = {}

    def add(self, part: str, measures: Mapping[str, Estimate], **factors: str) -> None:
        """Adds numbers computed from cells of a part; what is undefined (NaN) has no row."""
        key = ((OF, part), *factors.items())
        of = self._found.setdefault(key, Derived(key))
        of.measures.update({name: found for name, found in measures.items() if not math.isnan(found.mean)})

    def at(self, part: str, **factors: str) -> Mapping[str, Estimate]:
        """Those about one thing, by measure; empty where there are none."""
        found = self._found.get(((OF, part), *factors.items()))
        return {} if found is None else found.measures

    def having(self, part: str, *varied: str, **fixed: str) -> list[Derived]:
        """Those of a part whose factors are these names and no others, in the order in which they were added.

        Args:
            part: that they are computed from.
            varied: names of factors of any value.
            fixed: factors of one value.
        """
        return [
            found
            for found in self
            if found[OF] == part
            and {name for name, _ in found.factors} == {OF, *varied, *fixed}
            and all(found[name] == value for name, value in fixed.items())
        ]

    def __iter__(self) -> Iterator[Derived]:
        return iter(self._found.values())
