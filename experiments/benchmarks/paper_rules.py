"""What the paper's rules for its indicators would have decided on the paper's own runs.

`python -m experiments.benchmarks.paper_rules` lays the bounds of `stopping.rule=paper` on the means in
`experiments/paper/tables.yaml`; nothing is run. A run is compared with what it started from: off the shelf
and Step 1 with the checkpoint, Step 2 with Step 1. Off the shelf ruined its retriever, the other two are good
(`experiments/benchmarks/paper_separation.py`).
"""

import argparse
import sys
from collections.abc import Sequence

from callbacks.threshold import Threshold, paper_thresholds
from experiments.benchmarks.paper_separation import DATASETS, paper_mean
from experiments.command_line import run_command

STARTS = {"offshelf": "checkpoint", "step1": "checkpoint", "step2": "step1"}
"""Each setting that trains, and what it starts from."""


def keeps(threshold: Threshold, setting: str, dataset: str) -> bool:
    """Whether a run ends within a bound."""
    start = paper_mean(threshold.metric, STARTS[setting], dataset)
    return threshold.holds(paper_mean(threshold.metric, setting, dataset), start)


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line; returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m experiments.benchmarks.paper_rules", description=__doc__)
    parser.parse_args(arguments)
    return run_command(_print_all)


def _print_all() -> int:
    print("start -> end of the paper's runs, tables 3 and 4; * = the bound is broken at the end")
    print("(a bound of 0.3 is broken at the start as well where the first number is below it)")
    runs = [(setting, dataset) for setting in STARTS for dataset in DATASETS]
    print(_line("", *(f"{setting} {dataset}" for setting, dataset in runs)))
    for threshold in paper_thresholds():
        print(_line(threshold.requirement, *(_cell(threshold, *run) for run in runs)))
    broken = [[keeps(threshold, *run) for threshold in paper_thresholds()].count(False) for run in runs]
    print(_line("bounds broken, of 8", *map(str, broken)))
    return 0


def _cell(threshold: Threshold, setting: str, dataset: str) -> str:
    start, end = (paper_mean(threshold.metric, name, dataset) for name in (STARTS[setting], setting))
    return f"{start:.3f} -> {end:.3f}{' ' if keeps(threshold, setting, dataset) else '*'}"


def _line(head: str, *cells: str) -> str:
    return f"{head:<34}" + "".join(f"{cell:>19}" for cell in cells)


if __name__ == "__main__":
    sys.exit(main())
