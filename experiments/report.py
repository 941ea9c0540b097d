"""Compares runs with each other and with the paper: `python -m experiments.report RUN... [--out FOLDER]`."""

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path

USER_ERROR = 2


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line; returns the exit code (0, or 2 for a mistake of the user's)."""
    options = _parser().parse_args(arguments)
    try:
        _report(options.runs, options.out)
    except ValueError as error:
        # every mistake of the user's is a ValueError whose message names the thing and the mend
        if os.environ.get("ATTENTION_DISTILLATION_TRACEBACK"):
            raise
        print(f"error: {error}", file=sys.stderr)
        return USER_ERROR
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m experiments.report", description=__doc__)
    parser.add_argument(
        "runs",
        nargs="+",
        type=Path,
        metavar="RUN",
        help="run folders, or folders that hold runs, such as runs",
    )
    parser.add_argument(
        "--out",
        type=Path,
        default=Path("report"),
        metavar="FOLDER",
        help="for report.md, report.html and figures/ (default: report); an earlier report is replaced",
    )
    return parser


def _report(places: Sequence[Path], out: Path) -> None:
    from experiments.reporting.collect import collect_runs
    from experiments.reporting.compose import compose_report, count_runs
    from experiments.reporting.entries import sort_runs
    from experiments.reporting.write import check_folder, write_report

    check_folder(out)
    runs = sort_runs(collect_runs(places))
    write_report(compose_report(runs), out)
    print(f"{count_runs(len(runs.fates))}: {out / 'report.html'}, {out / 'report.md'}")


if __name__ == "__main__":
    sys.exit(main())
