"""Named choices, and one clear message when a name is not among them."""

from enum import StrEnum

from datamodules.errors import DataError


class Choice(StrEnum):
    """A string enum that answers an unknown value with the list of known ones.

    Raises:
        DataError: on construction from a value that no member has.
    """

    @classmethod
    def _missing_(cls, value: object) -> None:
        known = ", ".join(member.value for member in cls)
        raise DataError(f"{cls.__name__} {value!r} is unknown; choose one of: {known}")
