"""Numbers and Markdown tables as text."""

from collections.abc import Iterable, Sequence


def three_digits(value: float) -> str:
    """Three digits that count.

    Example:
        >>> three_digits(1234.5), three_digits(12.345), three_digits(0.5)
        ('1,234', '12.3', '0.500')
    """
    return f"{value:,.0f}" if value >= 100 else f"{value:#.3g}".rstrip(".")


def table(heads: Sequence[str], rows: Iterable[Sequence[str]]) -> list[str]:
    """Lines of Markdown."""
    lines = [heads, ["---"] * len(heads), *rows]
    return [f"| {' | '.join(line)} |" for line in lines]
