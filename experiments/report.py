"""Compares runs with each other and with the paper: `python -m experiments.report RUN... [--out FOLDER]`."""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from experiments.command_line import run_command


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line; returns the exit code (0, 2 for a mistake of the user's, 130 for Ctrl-C)."""
    options = _parser().parse_args(arguments)
    return run_command(lambda: _report(options.runs, options.out))


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


def _report(places: Sequence[Path], out: Path) -> int:
    from experiments.show.document import check_folder, write_report
    from experiments.show.report_rows import sort_runs
    from experiments.show.report_runs import collect_runs
    from experiments.show.report_text import compose_report, count_runs

    check_folder(out)
    runs = sort_runs(collect_runs(places))
    write_report(compose_report(runs), out)
    for run, status in runs.statuses:
        if run.is_unbelievable:
            print(f"left out: {run.path}: {status}", file=sys.stderr)
    print(f"{count_runs(len(runs.statuses))}: {out / 'report.html'}, {out / 'report.md'}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
