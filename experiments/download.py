"""Fetches and verifies data and models: `python -m experiments.download --exp NAME [key=value ...]`.

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
    from experiments.data_files import data_files, data_settings, gold_settings, provide_files
    from experiments.models import hub_models, model_name

    names = [name for name in options.names if "=" not in name]
    overrides = [name for name in options.names if "=" in name]
    if bool(names) == bool(options.exp) or not set(names) <= set(_DATASETS):
        raise ConfigError(
            f"name an experiment (--exp NAME), or one or more of: {', '.join(_DATASETS)}"
            + (f"; not {' '.join(names)}" if names else "")
        )
    models: list[str] = []
    parts: list[tuple[ExperimentConfig, tuple[str, ...]]] = []
    if options.exp:
        config = _config(options.exp, overrides)
        parts = [(config, (*data_settings(config), *gold_settings(config)))]
        models = hub_models(config)
    else:
        for experiment, settings in (_DATASETS[name] for name in names):
            config = _config(experiment, overrides)
            titles = gold_settings(config) if "validation" in settings else ()
            parts.append((config, (*settings, *titles)))
    provide_files(parts[0][0], [file for config, settings in parts for file in data_files(config, settings)])
    found = [(config, file) for config, settings in parts for file in data_files(config, settings)]
    for config, file in found:
        print(_verified(config, file), flush=True)
    sizes = {file.path: file.path.stat().st_size for _, file in found}
    for what in models:
        folder, num_bytes = _fetched_model(config, what)
        print(f"{what:11}  {model_name(config, what)}  {num_bytes / 1e6:,.1f} MB  {folder}", flush=True)
        sizes[folder] = num_bytes
    print(_closing_line(len({file.path for _, file in found}), len(models), sum(sizes.values())))
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
    from datamodules.gold_titles import read_gold_titles
    from experiments.data_files import GOLD_TITLES, SPLITS, bytes_bar, read_data_split

    published = file.published
    # the checksum of a packed file says nothing about an unpacked copy
    is_as_published = published is not None and file.path.name == Path(published.name).name
    checksum = published.checksum if published is not None and is_as_published else None
    with bytes_bar(f"Verifying {file.path.name}", config.trainer.progress_bar) as progress:
        sha256 = verify_file(file.path, checksum, progress)
    facts = []
    if file.setting in SPLITS:
        facts.append(f"{len(read_data_split(config, file.setting, None)):,} questions")
    elif file.setting == GOLD_TITLES:
        titles = read_gold_titles(file.path)
        asked = read_data_split(config, "validation", None)
        facts.append(f"titles for {sum(question.words in titles for question in asked):,} questions")
    elif checksum is None:
        facts.append("counted when a run first reads them")
    if checksum is not None:
        facts.append("checksum as published")
    size_mb = file.path.stat().st_size / 1e6
    return f"{file.setting:11}  {file.path}  {size_mb:,.1f} MB  {', '.join(facts)}  sha256 {sha256}"


def _fetched_model(config: "ExperimentConfig", what: str) -> tuple[Path, int]:
    """Sees to a model of the hub, and reads it; its folder and its size in bytes.

    Raises:
        DataError: the hub does not give it, or it is not what the hub gave.
    """
    from datamodules.hub_models import verify_model
    from experiments.data_files import bytes_bar
    from experiments.models import provide_model

    folder = provide_model(config, what)
    is_shown = config.trainer.progress_bar
    return folder, verify_model(folder, lambda name: bytes_bar(f"Verifying {name}", is_shown))


def _closing_line(num_files: int, num_models: int, num_bytes: int) -> str:
    if not num_files and not num_models:
        return "nothing to fetch: data and models of this experiment come with its packages, or are folders"
    counted = [f"{num_files} files"] * (num_files > 0) + [f"{num_models} models"] * (num_models > 0)
    return f"{' and '.join(counted)}, {num_bytes / 1e9:.2f} GB: all there"


if __name__ == "__main__":
    sys.exit(main())
