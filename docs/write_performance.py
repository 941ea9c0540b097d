"""Writes the table of docs/performance.md from docs/benchmarks/*.json: `python docs/write_performance.py`.

The files are what `python -m experiments.benchmarks --out FILE.json` wrote.
"""

import json
from pathlib import Path
from typing import Any

from experiments.show.text import table, three_digits

_FOLDER = Path(__file__).parent
_PAGE = _FOLDER / "performance.md"
_FILES = ("all.json", "search-1m.json", "quickstart.json")
_BEGIN, _END = "<!-- written from docs/benchmarks -->", "<!-- until here -->"
_HEADS = ("name", "work", "against", "suite", "baseline", "turns", "ratio", "reach")


def write() -> str:
    """The whole page, with its table as the files have it."""
    before, rest = _PAGE.read_text(encoding="utf-8").split(_BEGIN)
    _, after = rest.split(_END)
    rows = [row for name in _FILES for row in _rows(json.loads((_FOLDER / "benchmarks" / name).read_text()))]
    lines = "\n".join(table(_HEADS, rows))
    return f"{before}{_BEGIN}\n\n{lines}\n\n{_END}{after}"


def _rows(found: dict[str, Any]) -> list[list[str]]:
    return [
        [
            f"`{name}`",
            row["what"],
            row["baseline_is"],
            _spread(row["suite"], row["unit"]),
            "-" if row["baseline"] is None else _spread(row["baseline"], row["unit"]),
            str(len(row["suite"]["values"])),
            _ratio(row),
            "-" if row["is_met"] is None else f"{row['reach']}: {'' if row['is_met'] else 'not '}met",
        ]
        for name, rows in found["benchmarks"].items()
        for row in rows
    ]


def _ratio(row: dict[str, Any]) -> str:
    if row["ratio"] is None:
        return "-"
    is_speed = row["reach"] is not None and row["reach"].startswith("at least")
    return f"{three_digits(row['ratio'])} times as fast" if is_speed else three_digits(row["ratio"])


def _spread(of: dict[str, Any], unit: str) -> str:
    low, high = of["quartiles"]
    width = "" if low == high else f" ({three_digits(low)} to {three_digits(high)})"
    return f"{three_digits(of['median'])} {unit}{width}"


if __name__ == "__main__":
    _PAGE.write_text(write(), encoding="utf-8")
