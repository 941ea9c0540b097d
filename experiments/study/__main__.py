"""Runs or resumes the study, and writes its pages: `python -m experiments.study [PART ...]`."""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from experiments.command_line import FAILED, quieten, run_command


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line; returns the exit code (0, 2 for a mistake of the user's, 130 for Ctrl-C)."""
    options = _parser().parse_intermixed_args(arguments)
    return run_command(lambda: _study(options))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m experiments.study", description=__doc__)
    parser.add_argument(
        "what",
        nargs="*",
        metavar="PART | key=value",
        help="parts to run (default: all), and settings to change",
    )
    parser.add_argument("--exp", metavar="NAME", default="quickstart", help="models and data (quickstart)")
    parser.add_argument(
        "--out", type=Path, default=Path("docs/study"), metavar="DIR", help="of the pages (docs/study)"
    )
    parser.add_argument("--list", action="store_true", help="list the cells and which are finished")
    parser.add_argument(
        "--only",
        metavar="PATTERN",
        action="append",
        help="cells by name, with * for anything; may be repeated",
    )
    parser.add_argument("--questions", type=int, default=128, help="training questions that teach (128)")
    parser.add_argument(
        "--unseen",
        type=int,
        default=500,
        help="of the training questions the last, to measure on in place of the test questions (500)",
    )
    parser.add_argument("--seeds", type=int, default=3, help="of each cell (3)")
    parser.add_argument(
        "--second", metavar="READER", help="a reader of another family: hub name, folder or .gguf file"
    )
    parser.add_argument("--render", action="store_true", help="write the pages again, run nothing")
    return parser


def _study(options: argparse.Namespace) -> int:
    from experiments.study.runner import Study

    quieten()
    overrides = [word for word in options.what if "=" in word]
    parts = [word for word in options.what if "=" not in word]
    study = Study.of(
        options.exp,
        overrides,
        parts,
        options.only,
        options.questions,
        options.unseen,
        options.seeds,
        options.out,
        options.second,
    )
    if options.list:
        study.list_cells()
        return 0
    num_failed = 0 if options.render else study.run()
    study.write_pages()
    return FAILED if num_failed else 0


if __name__ == "__main__":
    sys.exit(main())
