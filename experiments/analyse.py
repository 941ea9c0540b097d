"""Token-level metrics: `python -m experiments.analyse --run RUN`, `--exp NAME` or `--from FILE`.

The first two read a sample of questions and write every token's score and similarities to a file; the last
computes the indicators from such a file again, in seconds, with other settings.
"""

import argparse
import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

from experiments.command_line import quieten, run_command

if TYPE_CHECKING:
    from lightning_modules.token_analysis import AnalysisSettings

SPLITS = ("test", "validation")
NUM_QUESTIONS = 1000
"""As many instances as the paper samples."""


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line; returns the exit code (0, 2 for a mistake of the user's, 130 for Ctrl-C)."""
    options = _parser().parse_intermixed_args(arguments)
    return run_command(lambda: _analyse(options))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m experiments.analyse",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    source = parser.add_mutually_exclusive_group()
    source.add_argument("--run", metavar="RUN", help="folder of a run: its weights at the end")
    source.add_argument("--exp", metavar="NAME", help="an experiment: its weights at the start; needs no run")
    source.add_argument("--from", dest="file", metavar="FILE", help="a token file that was written before")
    measuring = parser.add_argument_group("with --run and --exp")
    measuring.add_argument("--start", action="store_true", help="the run's weights at its start")
    measuring.add_argument("--split", choices=SPLITS, help="whose questions (default: test)")
    measuring.add_argument(
        "--instances", type=int, metavar="N", help=f"questions to sample (default: {NUM_QUESTIONS})"
    )
    measuring.add_argument(
        "--out",
        metavar="FILE",
        help="token file to write, the metrics beside it (default: in RUN/analysis/; none where settings "
        "change what is measured of a run)",
    )
    measuring.add_argument("overrides", nargs="*", metavar="key=value", help="settings (see run --help)")
    shown = parser.add_argument_group("what is computed and shown (default: the run's settings)")
    shown.add_argument("--percentiles", nargs="+", metavar="P", help="of the most similar tokens")
    shown.add_argument("--normalization", metavar="HOW", help="of the attention: passage, prompt or none")
    shown.add_argument("--embeddings", metavar="WHICH", help="of the similarities: input or contextual")
    shown.add_argument("--match", metavar="RULE", help="when a passage holds an answer: tokens or substring")
    shown.add_argument(
        "--show", type=int, default=3, metavar="N", help="questions whose most attended tokens are shown"
    )
    return parser


def _analyse(options: argparse.Namespace) -> int:
    from experiments.config import ConfigError

    if options.show < 0:
        raise ConfigError(f"--show {options.show}: give 0 or more questions")
    if options.file is not None:
        _refuse_measuring(options)
        return _show(Path(options.file), options)
    if options.run is None and options.exp is None:
        raise ConfigError("name what to analyse: --run RUN, --exp NAME or --from FILE")
    with TemporaryDirectory() as scratch:
        path, not_kept = _measure(options, Path(scratch))
        return _show(path, options, not_kept)


def _refuse_measuring(options: argparse.Namespace) -> None:
    from experiments.config import ConfigError

    given = [name for name in ("start", "split", "instances", "out") if getattr(options, name)]
    unused = [f"--{name}" for name in given] + options.overrides
    if unused:
        raise ConfigError(
            f"{', '.join(unused)}: of no use with --from, which computes from what was read; give --run RUN "
            "or --exp NAME instead, or leave it out"
        )


def _measure(options: argparse.Namespace, scratch: Path) -> tuple[Path, str | None]:
    """Writes the token file.

    Args:
        options: of the command line.
        scratch: folder for a file that is not kept.

    Returns:
        The file's path, and why it is not kept; None = it is.
    """
    from experiments.config import ConfigError

    num_questions = NUM_QUESTIONS if options.instances is None else options.instances
    if num_questions < 1:
        raise ConfigError(f"--instances {num_questions}: give 1 or more questions")
    quieten()
    from experiments.checks import check_token_scores
    from experiments.runs import snapshot_of_experiment, snapshot_of_run
    from experiments.write_tokens import evaluation_settings, write_tokens

    if options.run is None:
        snapshot = snapshot_of_experiment(options.exp, options.overrides)
    else:
        snapshot = snapshot_of_run(Path(options.run), options.overrides, options.start)
        if snapshot.is_start and not options.start:
            print(f"{options.run} has not finished: its weights at the start are analysed")
    # before minutes are spent on reading
    asked = _settings(evaluation_settings(snapshot.config), options)
    evaluation = replace(snapshot.config.evaluation, attention_normalization=str(asked.normalization))
    check_token_scores(replace(snapshot.config, evaluation=evaluation))
    split = options.split or SPLITS[0]
    place = snapshot.place_of(None if options.out is None else Path(options.out), snapshot.token_file(split))
    path = scratch / snapshot.token_file(split).name if place is None else place
    num_read = write_tokens(snapshot, split, num_questions, path)
    if num_read < num_questions:
        print(f"the {split} split has {num_read} questions, fewer than {num_questions}: all were read")
    return path, snapshot.why_not_kept if place is None else None


def _settings(own: Mapping[str, Any], options: argparse.Namespace) -> "AnalysisSettings":
    """A run's own settings, or what the user asked for instead."""
    from experiments.config import ConfigError
    from lightning_modules.token_analysis import AnalysisSettings

    percentiles = None
    if options.percentiles is not None:
        try:
            percentiles = tuple(int(word) for word in options.percentiles)
        except ValueError as error:
            words = " ".join(options.percentiles)
            raise ConfigError(f"--percentiles: {words}: give whole numbers, such as 90 95") from error
    try:
        return AnalysisSettings.of(
            own,
            percentiles=percentiles,
            normalization=options.normalization,
            embeddings=options.embeddings,
            match=options.match,
        )
    except ValueError as error:
        raise ConfigError(f"--{error}" if str(error).startswith("percentiles") else str(error)) from error


def _show(path: Path, options: argparse.Namespace, not_kept: str | None = None) -> int:
    """Computes and prints the metrics of a token file; saves them where the settings are the file's own.

    Args:
        path: of the token file.
        options: of the command line.
        not_kept: why nothing is saved, and the file will be gone.
    """
    from datamodules.token_file import TokenFile
    from experiments.show.tokens import print_analysis
    from lightning_modules.token_analysis import AnalysisSettings, analyse, save_analysis

    file = TokenFile(path)
    settings = _settings(file.info, options)
    analysis = analyse(file, settings)
    is_saved = not_kept is None and settings == AnalysisSettings.of(file.info)
    saved = save_analysis(analysis, file) if is_saved else None
    print_analysis(analysis, file, options.show, saved, not_kept)
    return 0


if __name__ == "__main__":
    sys.exit(main())
