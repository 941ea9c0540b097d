"""What a report is made of: the one structure that Markdown and HTML are both written from."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Heading:
    level: int
    text: str


@dataclass(frozen=True)
class Paragraph:
    text: str


@dataclass(frozen=True)
class Bullets:
    items: tuple[str, ...]


@dataclass(frozen=True)
class Table:
    """Attributes:
    title: above the table.
    columns: their heads.
    rows: cells, whose lines are separated by newlines; the first line is what matters most.
    num_labels: columns of words, at the left; the others hold numbers.
    notes: below the table.
    """

    title: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    num_labels: int
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Picture:
    """Attributes:
    name: of its files, without ending.
    title: in words.
    caption: what it shows, and what it leaves out.
    svg: the drawing.
    png: the same as pixels.
    """

    name: str
    title: str
    caption: str
    svg: str
    png: bytes


Block = Heading | Paragraph | Bullets | Table | Picture
