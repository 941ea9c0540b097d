"""Compares retrievers on test collections: `python -m experiments.evaluate RUN bm25 --on test FOLDER`.

A run stands for its start and its end. Differences are to the first retriever, with paired intervals.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from experiments.command_line import quieten, run_command

if TYPE_CHECKING:
    from experiments.config import ExperimentConfig


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line; returns the exit code (0, 2 for a mistake of the user's, 130 for Ctrl-C)."""
    options = _parser().parse_intermixed_args(arguments)  # settings may come after the options
    return run_command(lambda: _evaluate(options))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m experiments.evaluate", description=__doc__)
    parser.add_argument(
        "retrievers",
        nargs="+",
        metavar="RETRIEVER",
        help="a run's folder, a folder or hub name of a model of sentence-transformers, or bm25; key=value "
        "changes a setting",
    )
    parser.add_argument(
        "--on",
        nargs="+",
        default=["test"],
        metavar="SET",
        help="test = the test split of the run (or of --exp), a folder of BEIR's layout, or a set of "
        "NanoBEIR such as NanoNQ (default: test)",
    )
    parser.add_argument("--exp", metavar="NAME", help="whose test split and settings, where no run is named")
    parser.add_argument(
        "--out", metavar="FOLDER", type=Path, help="for results.json, and runs and qrels of TREC's tools"
    )
    return parser


def _evaluate(options: argparse.Namespace) -> int:
    overrides = [name for name in options.retrievers if "=" in name]
    names = [name for name in options.retrievers if "=" not in name]
    from experiments.config import ConfigError

    if not names:
        raise ConfigError("name a retriever: a run's folder, a model, or bm25")
    config = _config_of(names, options.exp, overrides, options.on)
    from experiments.ranking import compare, open_collection, short_names, systems_of
    from experiments.show.ranking_console import print_comparison, save_comparisons

    quieten()
    systems = list(systems_of(names, config, overrides))
    comparisons = []
    for name, called in zip(options.on, short_names(options.on), strict=True):
        with open_collection(name, config, called) as collection:
            comparisons.append(compare(systems, collection, config))
        print_comparison(comparisons[-1])
    if options.out is not None:
        save_comparisons(comparisons, options.out)
        print(f"saved: {options.out / 'results.json'}, and a run of each retriever for TREC's tools")
    return 0


def _config_of(
    names: Sequence[str], experiment: str | None, overrides: Sequence[str], sets: Sequence[str]
) -> "ExperimentConfig":
    """The configuration of the first run, or of an experiment."""
    from experiments.checks import check_config
    from experiments.config import ConfigError, load_config, read_config
    from experiments.runs import RunFolder

    runs = [RunFolder(Path(name)) for name in names if RunFolder(Path(name)).config.is_file()]
    if experiment is None and not runs and "test" in sets:
        raise ConfigError("--on test: name a run, or the experiment whose test split it is, with --exp NAME")
    if experiment is not None or not runs:
        config = load_config(experiment or "quickstart", overrides)
    else:
        config = read_config(runs[0].config, overrides)
    check_config(config)
    return config


if __name__ == "__main__":
    sys.exit(main())
