"""What was injected, and what became of it."""

import json
from collections import Counter
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from enum import StrEnum
from pathlib import Path


class Outcome(StrEnum):
    """What became of a run, or of a file, that was harmed."""

    RECOVERED = "recovered"
    """It came to the same numbers, to the bit."""
    TOLD = "told"
    """It came to other numbers, and said so: what it needed is gone."""
    REFUSED = "refused"
    """One message names what is wrong and the way out, and the run is as it was."""
    LOST = "lost"
    """It cannot be gone on with, crashed, hung, or left files behind."""
    WRONG = "silently wrong"
    """It came to other numbers without a word."""


@dataclass(frozen=True)
class Case:
    """One harm.

    Attributes:
        row: of the table.
        outcome: what became of it.
        details: where it was, and what was said, for who looks into it.
    """

    row: str
    outcome: Outcome
    details: str = ""


class Table:
    """Counts of cases.

    Args:
        cases: in any order.
        rows: in the order in which they are shown; others come behind.
        skipped: what could not be done here, and why.
    """

    def __init__(self, cases: Iterable[Case], rows: Iterable[str] = (), skipped: Iterable[str] = ()) -> None:
        self.cases = list(cases)
        self.rows = list(dict.fromkeys([*rows, *sorted(case.row for case in self.cases)]))
        self.skipped = list(skipped)

    @property
    def is_good(self) -> bool:
        """Whether nothing was lost and nothing silently wrong."""
        return not any(case.outcome in (Outcome.LOST, Outcome.WRONG) for case in self.cases)

    def text(self) -> str:
        """As Markdown, with what went wrong below."""
        lines = ["| | injected | " + " | ".join(Outcome) + " |", "|---|" + "---|" * (len(Outcome) + 1)]
        for row in self.rows:
            found = Counter(case.outcome for case in self.cases if case.row == row)
            if found:
                numbers = [found.total(), *(found[outcome] for outcome in Outcome)]
                lines.append(f"| {row} | " + " | ".join(map(str, numbers)) + " |")
        bad = [case for case in self.cases if case.outcome in (Outcome.LOST, Outcome.WRONG)]
        lines += [f"skipped: {what}" for what in self.skipped]
        return "\n".join([*lines, *(f"{case.row}: {case.outcome}: {case.details}" for case in bad)])


def append(path: Path, case: Case) -> None:
    """Adds a case to a file of them."""
    with path.open("a") as file:
        file.write(json.dumps(asdict(case)) + "\n")


def read(path: Path) -> list[Case]:
    """The cases of a file."""
    lines = path.read_text().splitlines() if path.is_file() else []
    records = [json.loads(line) for line in lines]
    return [Case(record["row"], Outcome(record["outcome"]), record["details"]) for record in records]
