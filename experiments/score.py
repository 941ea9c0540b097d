"""Writes a teacher's scores for others to train on: `python -m experiments.score --exp NAME --out FILE`.

The questions are those of data.train (or another split), the candidates those that the experiment would train
on, or those of a TREC run. Interrupted, the same command goes on where it was.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from experiments.command_line import quieten, run_command


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line; returns the exit code (0, 2 for a mistake of the user's, 130 for Ctrl-C)."""
    options = _parser().parse_intermixed_args(arguments)
    return run_command(lambda: _score(options))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m experiments.score", description=__doc__)
    parser.add_argument("--exp", metavar="NAME", required=True, help="the experiment whose teacher scores")
    parser.add_argument("--out", metavar="FILE", required=True, type=Path, help="must not be there yet")
    parser.add_argument(
        "--format",
        default="sentence-transformers",
        help="of the file: sentence-transformers (the default), tevatron, pylate or trec",
    )
    parser.add_argument("--split", choices=("train", "validation", "test"), default="train")
    parser.add_argument(
        "--candidates",
        metavar="RUN",
        type=Path,
        help="TREC run whose first training.num_passages passages of each question are scored (default: "
        "retrieval.candidates)",
    )
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="settings to change")
    return parser


def _score(options: argparse.Namespace) -> int:
    from experiments.checks import check_config
    from experiments.config import ConfigError, load_config

    config = load_config(options.exp, options.overrides)
    check_config(config)
    if options.out.exists():
        raise ConfigError(f"--out {options.out} is there already; name another file, or delete it")
    from datamodules.score_files import ScoreFormat, text_files_of, write_scores

    format = ScoreFormat(options.format)
    from experiments.scoring import score_questions

    quieten()
    work = score_questions(config, options.split, options.candidates, options.out)
    num_short = write_scores(options.out, format, work.scored)
    work.forget()
    files = [options.out, *(text_files_of(options.out) if format is ScoreFormat.PYLATE else ())]
    print(
        f"{len(work.scored) - num_short} questions, {work.num_passages} candidates each at most, scored by "
        f"{work.teacher}: {', '.join(map(str, files))}"
    )
    for number, reason in ((work.num_without, "no candidates"), (num_short, "fewer candidates than others")):
        if number:
            print(f"left out: {number} with {reason}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
