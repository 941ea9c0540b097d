"""Fetches and verifies data beforehand: `python -m experiments.download --exp NAME [key=value ...]`.

In place of an experiment, name data sets: `python -m experiments.download nq triviaqa wikipedia`.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from experiments.command_line import run_command

if TYPE_CHECKING:
    from experiments.config import ExperimentConfig
    from experiments.data_files import DataFile

# Whose settings name a data set's files, and which settings.
_DATASETS = {
    "nq": ("offshelf_nq", ("train", "validation", "test")),
    "triviaqa": ("offshelf_triviaqa", ("train", "validation", "test")),
    "wikipedia": ("offshelf_nq", ("passages",)),
}


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line; returns the exit code (0, 2 for a mistake of the user's or no network)."""
    options = _parser().parse_intermixed_args(arguments)
    return run_command(lambda: _run(options))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m experiments.download",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--exp", metavar="NAME", help="the experiment whose files to fetch")
    parser.add_argument(
        "names",
        nargs="*",
        metavar="DATASET | key=value",
        help=f"without an experiment, one or more of: {', '.join(_DATASETS)}; and settings to change",
    )
    return parser


def _run(options: argparse.Namespace) -> int:
    from experiments.config import ConfigError
    from experiments.data_files import data_files, data_settings, provide_files

    names = [name for name in options.names if "=" not in name]
    overrides = [name for name in options.names if "=" in name]
    if bool(names) == bool(options.exp) or not set(names) <= set(_DATASETS):
        raise ConfigError(
            f"name an experiment (--exp NAME), or one or more of: {', '.join(_DATASETS)}"
            + (f"; not {' '.join(names)}" if names else "")
        )
    if options.exp:
        config = _config(options.exp, overrides)
        parts = [(config, data_settings(config))]
    else:
        parts = [(_config(_DATASETS[name][0], overrides), _DATASETS[name][1]) for name in names]
    provide_files(parts[0][0], [file for config, settings in parts for file in data_files(config, settings)])
    found = [(config, file) for config, settings in parts for file in data_files(config, settings)]
    for config, file in found:
        print(_verified(config, file), flush=True)
    print(_closing_line([file.path for _, file in found]))
    return 0


def _config(name: str, overrides: Sequence[str]) -> "ExperimentConfig":
    from experiments.config import load_config

    config = load_config(name, overrides)
    config.data.download = True  # which is what this command is for
    return config


def _verified(config: "ExperimentConfig", file: "DataFile") -> str:
    """Reads a file and compares it with what is known of it; a line on what it is.

    Raises:
        DataError: it is not what was published or downloaded, or cannot be read as questions.
    """
    from datamodules.checksums import verify_file
    from experiments.data_files import PASSAGES, bytes_bar, read_data_split

    published = file.published
    # the checksum of a packed file says nothing about an unpacked copy
    is_as_published = published is not None and file.path.name == Path(published.name).name
    checksum = published.checksum if published is not None and is_as_published else None
    with bytes_bar(f"Verifying {file.path.name}", config.trainer.progress_bar) as progress:
        sha256 = verify_file(file.path, checksum, progress)
    facts = []
    if file.setting != PASSAGES:
        facts.append(f"{len(read_data_split(config, file.setting, None)):,} questions")
    elif checksum is None:
        facts.append("counted when a run first reads them")
    if checksum is not None:
        facts.append("checksum as published")
    size_mb = file.path.stat().st_size / 1e6
    return f"{file.setting:10}  {file.path}  {size_mb:,.1f} MB  {', '.join(facts)}  sha256 {sha256}"


def _closing_line(paths: Sequence[Path]) -> str:
    if not paths:
        return "nothing to fetch: the data of this experiment come with its packages"
    num_files = len(set(paths))
    total_gb = sum(path.stat().st_size for path in set(paths)) / 1e9
    return f"{num_files} files, {total_gb:.2f} GB: all there"


if __name__ == "__main__":
    sys.exit(main())
