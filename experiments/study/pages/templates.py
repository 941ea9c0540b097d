"""Pages that are written by hand: their numbers are names of the table's rows, which rendering fills in.

A placeholder is a cell, a measure and, where it is not a change with its interval, a format:
`{{derived/of=collapse surely_lower count}}`. A cell of the table in a folder below is `nq:` and its name.
What is no result, such as a setting, is `{{= 0.5}}`.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from experiments.config import ConfigError
from experiments.study.cells import Result
from experiments.study.numbers import Numbers
from experiments.study.pages.text import count, interval
from experiments.study.results_file import TABLE, read_derived, read_table
from lightning_modules.metrics.estimates import Estimate

_PLACEHOLDER = re.compile(r"\{\{(.*?)\}\}", re.DOTALL)
_NO_PROSE = re.compile(r"```.*?```|`[^`]*`|\]\([^)]*\)", re.DOTALL)
"""Code, and where links lead."""
_TYPED = re.compile(r"[-+]?\d+\.\d+|\d+%|\b\d+ of \d+\b")
"""Numbers that look like results."""
_CITED = re.compile(r"`([a-z]+/[^`]*seed=\d+|derived/[^`]*)`")
_WORDS = (
    "none",
    "one",
    "two",
    "three",
    "four",
    "five",
    "six",
    "seven",
    "eight",
    "nine",
    "ten",
    "eleven",
    "twelve",
)


class Rows:
    """The table's rows by cell and measure, and those of the tables in folders below.

    Args:
        results: of cells.
        numbers: that are computed from several.
        folder: of the table; the others are looked up where they are asked for.
    """

    def __init__(self, results: Sequence[Result], numbers: Numbers, folder: Path) -> None:
        self._folder = folder
        self._below: dict[str, Rows] = {}
        self._measures: dict[str, Mapping[str, Estimate]] = {
            **{result.cell.name: result.measures for result in results},
            **{derived.name: derived.measures for derived in numbers},
        }

    def __contains__(self, cell: str) -> bool:
        return cell in self._measures

    def find(self, cell: str, measure: str) -> Estimate:
        """A row's number.

        Raises:
            LookupError: there is no such row.
        """
        folder, colon, name = cell.partition(":")
        if colon and "/" not in folder:
            return self._in(folder).find(name, measure)
        found = self._measures.get(cell, {}).get(measure)
        if found is None:
            raise LookupError(f"{self._folder / TABLE} has no row of cell {cell!r} and measure {measure!r}")
        return found

    def _in(self, folder: str) -> "Rows":
        if folder not in self._below:
            table = self._folder / folder / TABLE
            if not table.is_file():
                raise LookupError(f"there is no {table}")
            self._below[folder] = Rows(read_table(table), read_derived(table), table.parent)
        return self._below[folder]


def fill(path: Path, rows: Rows) -> str:
    """The page with its numbers.

    Raises:
        ConfigError: a placeholder names no row or does not fit what its row says, a number is typed by hand,
            or a cell is cited that is not in the table; names the file and what is wrong in it.
    """
    text = path.read_text(encoding="utf-8")
    typed = _TYPED.search(_NO_PROSE.sub("", _PLACEHOLDER.sub("", text)))
    if typed is not None:
        raise ConfigError(
            f"{path}: {typed[0]!r} is typed by hand; name its row, {{{{CELL MEASURE FORMAT}}}}, or write "
            f"{{{{= {typed[0]}}}}} where it is no result"
        )
    for cited in _CITED.findall(text):
        if cited not in rows:
            raise ConfigError(
                f"{path} cites {cited}, which is no cell of the table; run it, or correct the page"
            )
    return _PLACEHOLDER.sub(lambda found: _filled(path, found[1], rows), text)


def _filled(path: Path, placeholder: str, rows: Rows) -> str:
    words = placeholder.split()
    if words[:1] == ["="]:
        return " ".join(words[1:])
    try:
        return _shown(words, rows)
    except (LookupError, ValueError) as error:
        raise ConfigError(f"{path}: {{{{{' '.join(words)}}}}}: {error.args[0]}") from None


def _shown(words: Sequence[str], rows: Rows) -> str:
    if len(words) not in (2, 3):
        raise ValueError("a placeholder is CELL MEASURE or CELL MEASURE FORMAT")
    cell, measure, shape = (*words, "change")[:3]
    if shape not in FORMATS:
        raise ValueError(f"format {shape!r} is unknown; choose of: {', '.join(FORMATS)}")
    return FORMATS[shape](rows.find(cell, measure))


def _rise(of: Estimate) -> str:
    """Words say which way it goes: it must go that way."""
    if not of.mean > 0:
        raise ValueError(f"is {of.mean:+.3f}, no such change as the sentence says; correct the sentence")
    return f"{of.mean:.3f} [{of.low:.3f}, {of.high:.3f}]"


def _fall(of: Estimate) -> str:
    return _rise(Estimate(-of.mean, -of.high, -of.low, of.n))


def _word(of: Estimate) -> str:
    number = round(of.mean)
    return _WORDS[number] if number < len(_WORDS) else str(number)


FORMATS: dict[str, Callable[[Estimate], str]] = {
    "change": interval,
    "rise": _rise,
    "fall": _fall,
    "correlation": lambda of: interval(of, 2),
    "interval": lambda of: f"[{of.low:.2f}, {of.high:.2f}]",
    "level": lambda of: f"{of.mean:.3f}",
    "value": lambda of: f"{of.mean:.2f}",
    "count": count,
    "word": _word,
    "percent": lambda of: f"{of.mean:.0%}",
}
"""How a number may be shown: with a sign and its interval (`change`); the same without the sign, where words
say that it rises or falls; with two decimals; without the number; without the interval, with three decimals
or two; as a whole number, in figures or in words; in percent."""
