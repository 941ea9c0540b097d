"""Which indicators separate good runs from ruined ones in the paper's own tables.

`python -m experiments.benchmarks.paper_separation` reads `experiments/paper/tables.yaml`; nothing is run. Of
the decoder-only settings Step 1 and Step 2 are good: Step 1 makes the reader from which Step 2 gets its Hit
Rate@5 (0.391 -> 0.645 on NQ, 0.516 -> 0.643 on TriviaQA). Off the shelf is bad: it ends at 0.030 and 0.022.
So is the checkpoint, the reader that off the shelf begins to distil from.
"""

import argparse
import sys
from collections.abc import Sequence
from dataclasses import dataclass

from experiments.command_line import run_command
from experiments.show.report_runs import paper_value

GOOD = ("step1", "step2")
BAD = ("checkpoint", "offshelf")
DATASETS = ("nq", "triviaqa")
_TABLES = {"indicator1": "table3", "indicator2": "table4"}
METRICS = tuple(
    f"{indicator}/{part}_p{percentile}"
    for indicator in _TABLES
    for part in ("attention", "spearman")
    for percentile in (90, 95)
)


@dataclass(frozen=True)
class Separation:
    """How well one metric separates the good decoder-only settings from the bad ones.

    Attributes:
        metric: such as `indicator1/spearman_p90`.
        good_above_bad: by data set: each good setting is higher than each bad one (four comparisons).
        in_order: by data set: off the shelf < checkpoint < Step 1 and Step 2, so that a ruined run is also
            lower than its start.
        highest_bad, lowest_good: over both data sets.
    """

    metric: str
    good_above_bad: dict[str, bool]
    in_order: dict[str, bool]
    highest_bad: float
    lowest_good: float

    @property
    def has_threshold(self) -> bool:
        """Whether one number lies between the bad and the good settings of both data sets."""
        return self.highest_bad < self.lowest_good


def separation(metric: str) -> Separation:
    """Of one of `METRICS`."""
    good, bad = (
        {d: [paper_mean(metric, s, d) for s in settings] for d in DATASETS} for settings in (GOOD, BAD)
    )
    return Separation(
        metric,
        good_above_bad={d: max(bad[d]) < min(good[d]) for d in DATASETS},
        in_order={
            d: paper_mean(metric, "offshelf", d) < paper_mean(metric, "checkpoint", d) < min(good[d])
            for d in DATASETS
        },
        highest_bad=max(value for values in bad.values() for value in values),
        lowest_good=min(value for values in good.values() for value in values),
    )


def paper_mean(metric: str, setting: str, dataset: str) -> float:
    """The mean of one of `METRICS` in the paper's tables."""
    indicator, _, name = metric.partition("/")
    value = paper_value(_TABLES[indicator], setting, dataset, name)
    assert value is not None, f"the paper has {metric} of all decoder-only settings"
    return value[0]


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line; returns the exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m experiments.benchmarks.paper_separation", description=__doc__
    )
    parser.parse_args(arguments)
    return run_command(_print_all)


def _print_all() -> int:
    good, bad = ", ".join(GOOD), ", ".join(BAD)
    print("means in the paper's tables 3 and 4, its eight decoder-only settings (four on each data set);")
    print(f"answers for {', '.join(DATASETS)}")
    print(f"good > bad: each of {good} above each of {bad} of the same data set")
    print(f"in order: offshelf < checkpoint < each of {good}, so that a ruined run is below its start")
    print("one threshold: between every bad and every good setting, both data sets together")
    print()
    print(_line("metric", "good > bad", "in order", "one threshold"))
    for metric in METRICS:
        found = separation(metric)
        between = f"{found.highest_bad:.3f} to {found.lowest_good:.3f}" if found.has_threshold else "none"
        print(_line(metric, _answers(found.good_above_bad), _answers(found.in_order), between))
    return 0


def _answers(by_dataset: dict[str, bool]) -> str:
    return ", ".join("yes" if by_dataset[dataset] else "no" for dataset in DATASETS)


def _line(metric: str, *cells: str) -> str:
    return f"{metric:<24}" + "".join(f"{cell:>18}" for cell in cells)


if __name__ == "__main__":
    sys.exit(main())
