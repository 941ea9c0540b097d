"""A line of what a GPU makes of the suite."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Row:
    """Something that was measured.

    Attributes:
        what: it is, with its sizes.
        value: a number, or words.
        unit: of a number.
    """

    what: str
    value: float | str
    unit: str = ""

    @property
    def shown(self) -> str:
        """The value as people read it."""
        if isinstance(self.value, str):
            return self.value
        number = f"{self.value:,.0f}" if abs(self.value) >= 100 else f"{self.value:.3g}"
        return f"{number} {self.unit}".strip()
