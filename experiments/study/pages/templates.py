"""Pages that are written by hand: their numbers are names of the table's rows, which rendering fills in.

A placeholder is a cell, a measure and, where it is not a change with its interval, a format:
`{{derived/of=collapse surely_lower count}}`. A cell of the table in a folder below is `nq:` and its name.
What is no result, such as a setting, is `{{= 0.5}}`. Words that claim something of a number ask for it by the
format: `surely_up`, `surely_down` and `unsure` refuse a row that says otherwise.
"""

import math
import re
import textwrap
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from experiments.config import ConfigError
from experiments.study.cells import Result
from experiments.study.numbers import Numbers
from experiments.study.pages.text import interval
from experiments.study.results_file import TABLE, read_derived, read_table
from lightning_modules.metrics.estimates import Estimate

_PLACEHOLDER = re.compile(r"\{\{(.*?)\}\}", re.DOTALL)
_FILLED = "\N{REPLACEMENT CHARACTER}"
"""Stands for a placeholder where typed numbers are looked for."""
_BLOCKS_AND_TARGETS = re.compile(r"```.*?```|\]\([^)]*\)", re.DOTALL)
_INLINE_CODE = re.compile(r"`([^`]*)`")
_SOME = rf"(?:\d[\d,]*|{_FILLED})"
_TYPED = re.compile(
    r"[-+]?(?:\d+|(?<![\w.]))\.\d+"
    r"|\b\d+(?:\s?%|\s+per\s?cent\b)"
    r"|\b\d+e[-+]?\d+\b"
    rf"|(?<![\w/])(?!{_FILLED}\s*/\s*{_FILLED}){_SOME}\s*/\s*{_SOME}(?![\w/])"
    rf"|(?<!\w)(?!{_FILLED}\s+(?:out\s+)?of\s+{_FILLED}){_SOME}\s+(?:out\s+)?of\s+{_SOME}(?!\w)"
)
"""Numbers that look like results, also where one of two is a placeholder."""
_PLAIN_NUMBER = re.compile(r"[-+]?\d+(?:\.\d+)?(?:e[-+]?\d+)?")
_CITED = re.compile(r"`([a-z]+/[^`]*seed=\d+|derived/[^`]*)`")
_ITEM = re.compile(r"- |\d+\. ")
_WIDTH = 120
_KEPT_TOGETHER = "\N{NO-BREAK SPACE}"
"""Between a number and its interval, until lines have been broken."""
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
    """The page with its numbers, in lines of at most 120 characters.

    Raises:
        ConfigError: a placeholder names no row or does not fit what its row says, a number is typed by hand,
            or a cell is cited that is not in the table; names the file and what is wrong in it.
    """
    text = path.read_text(encoding="utf-8")
    typed = _TYPED.search(_prose_of(text))
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
    text = _PLACEHOLDER.sub(lambda found: _filled(path, found[1], rows).replace(" ", _KEPT_TOGETHER), text)
    return _in_lines(text).replace(_KEPT_TOGETHER, " ")


def _prose_of(text: str) -> str:
    """Without code, and without what links lead to; what is a number alone is no code."""
    prose = _BLOCKS_AND_TARGETS.sub("", _PLACEHOLDER.sub(_FILLED, text))
    return _INLINE_CODE.sub(lambda code: code[1] if _is_number(code[1]) else "", prose)


def _is_number(code: str) -> bool:
    return _TYPED.search(code) is not None and not re.search(r"[^\W\d]", _TYPED.sub("", code))


def _in_lines(text: str) -> str:
    """Paragraphs and items of lists broken anew: names of rows are longer than their numbers."""
    lines: list[str] = []
    paragraph: list[str] = []

    def end_paragraph() -> None:
        if paragraph:
            item = _ITEM.match(paragraph[0])
            lines.extend(
                textwrap.wrap(
                    " ".join(line.strip() for line in paragraph),
                    _WIDTH,
                    subsequent_indent=" " * len(item[0] if item else ""),
                    break_long_words=False,
                    break_on_hyphens=False,
                )
            )
            paragraph.clear()

    is_code = False
    for line in text.split("\n"):
        is_fence = line.startswith("```")
        is_code ^= is_fence
        if is_code or is_fence or not line or line.startswith(("#", "|")):
            end_paragraph()
            lines.append(line)
            continue
        if _ITEM.match(line):
            end_paragraph()
        paragraph.append(line)
    end_paragraph()
    return "\n".join(lines)


def _filled(path: Path, placeholder: str, rows: Rows) -> str:
    words = placeholder.split()
    try:
        if words[:1] == ["="]:
            return _setting(words[1:])
        return _shown(words, rows)
    except (LookupError, ValueError) as error:
        raise ConfigError(f"{path}: {{{{{' '.join(words)}}}}}: {error.args[0]}") from None


def _setting(words: Sequence[str]) -> str:
    if len(words) != 1 or not _PLAIN_NUMBER.fullmatch(words[0]):
        raise ValueError("what is no result is one plain number")
    return words[0]


def _shown(words: Sequence[str], rows: Rows) -> str:
    if len(words) not in (2, 3):
        raise ValueError("a placeholder is CELL MEASURE or CELL MEASURE FORMAT")
    cell, measure, shape = (*words, "change")[:3]
    if shape not in FORMATS:
        raise ValueError(f"format {shape!r} is unknown; choose of: {', '.join(FORMATS)}")
    return FORMATS[shape](rows.find(cell, measure))


def _surely_up(of: Estimate) -> str:
    """Words say that it is so: the whole interval must be."""
    if not of.low > 0:
        raise ValueError(f"is {interval(of)}, not surely above 0 as the sentence says; correct the sentence")
    return interval(of)


def _surely_down(of: Estimate) -> str:
    if not of.high < 0:
        raise ValueError(f"is {interval(of)}, not surely below 0 as the sentence says; correct the sentence")
    return interval(of)


def _unsure(of: Estimate) -> str:
    if math.isnan(of.low):
        raise ValueError("has no interval")
    if not of.low <= 0 <= of.high:
        raise ValueError(f"is {interval(of)}, which is sure; correct the sentence")
    return interval(of)


def _rise(of: Estimate) -> str:
    """Words say which way it goes: it must surely go that way."""
    _surely_up(of)
    return f"{of.mean:.3f} [{of.low:.3f}, {of.high:.3f}]"


def _fall(of: Estimate) -> str:
    _surely_down(of)
    return _rise(Estimate(-of.mean, -of.high, -of.low, of.n))


def _whole(of: Estimate) -> int:
    if of.mean < 0 or of.mean != round(of.mean):
        raise ValueError(f"is {of.mean:g}, no count")
    return round(of.mean)


def _in_words(number: int) -> str:
    return _WORDS[number] if number < len(_WORDS) else str(number)


FORMATS: dict[str, Callable[[Estimate], str]] = {
    "change": interval,
    "surely_up": _surely_up,
    "surely_down": _surely_down,
    "unsure": _unsure,
    "rise": _rise,
    "fall": _fall,
    "correlation": lambda of: interval(of, 2),
    "interval": lambda of: f"[{of.low:.2f}, {of.high:.2f}]",
    "level": lambda of: f"{of.mean:.3f}",
    "value": lambda of: f"{of.mean:.2f}",
    "count": lambda of: str(_whole(of)),
    "word": lambda of: _in_words(_whole(of)),
    "about": lambda of: _in_words(round(of.mean)),
    "percent": lambda of: f"{of.mean:.0%}",
    "over": lambda of: _in_words(of.n),
}
"""How a number may be shown: with a sign and its interval (`change`), where words say that it is surely above
0, surely below, or neither; the same without the sign, where words say that it rises or falls; with two
decimals; without the number; without the interval, with three decimals or two; a count, in figures or in
words; rounded, in words; in percent; of how many it is."""
