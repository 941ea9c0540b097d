"""Has a run learnt more than which lengths to prefer? `python -m experiments.control_length RUN`.

See `experiments.length_control` for what is compared.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from experiments.command_line import quieten, run_command

if TYPE_CHECKING:
    from experiments.length_control import LengthControl


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line; returns the exit code (0, 2 for a mistake of the user's, 130 for Ctrl-C)."""
    parser = argparse.ArgumentParser(prog="python -m experiments.control_length", description=__doc__)
    parser.add_argument("run", metavar="RUN", help="folder of a finished run that trained the retriever")
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="settings to change")
    options = parser.parse_args(arguments)
    return run_command(lambda: _control(Path(options.run), options.overrides))


def _control(path: Path, overrides: Sequence[str]) -> int:
    quieten()
    from experiments.config import ConfigError
    from experiments.length_control import compare
    from experiments.measure_tokens import measured_run

    start, end = (measured_run(path, overrides, at_start) for at_start in (True, False))
    if end.is_start or end.weights["retriever"] == start.weights["retriever"]:
        raise ConfigError(f"{path} has no trained retriever; name a finished run that trains it")
    print_control(compare(start, end), end.config.training.num_passages)
    return 0


def print_control(control: "LengthControl", k: int) -> None:
    """A table, and what it says."""
    from rich import box
    from rich.console import Console
    from rich.table import Table

    table = Table(title="test questions", box=box.SIMPLE_HEAD)
    for name in ("retriever", "bonus for length", f"Hit Rate@{k}", "words a passage", "gold passages found"):
        table.add_column(name, justify="left" if name == "retriever" else "right")
    for name, found in (("start", control.start), ("trained", control.trained)):
        for bonus in (found.plain, found.chosen):
            gold = "-" if bonus.gold_found is None else f"{bonus.gold_found:.3f}"
            table.add_row(name, f"{bonus.size:.3f}", f"{bonus.hit_rate:.3f}", f"{bonus.words:.0f}", gold)
    table.add_section()
    table.add_row("all passages", "", "", f"{control.corpus_words:.0f}", "")
    console = Console(width=100)
    console.print(table)
    for text, value in (
        ("the run gained", control.gain),
        ("a bonus for length alone would have gained", control.by_length),
        ("gained beyond length", control.beyond_length),
    ):
        console.print(f"{text}: {value.mean:+.3f} [{value.low:+.3f}, {value.high:+.3f}]", highlight=False)
    of_start = (
        f"the start's passages have {control.start.plain.words:.0f} words, all {control.corpus_words:.0f}"
    )
    if control.starts_short:
        explained = "explained by removing a preference for short passages"
    else:
        explained = "explained by a preference for long passages"
    console.print(f"{of_start}; what a bonus for length gains is {explained}", highlight=False)
    if not control.beyond_length.low > 0:
        console.print(f"the whole gain may be {explained}", highlight=False)


if __name__ == "__main__":
    sys.exit(main())
