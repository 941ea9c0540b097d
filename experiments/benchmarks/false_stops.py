"""How often a run in which nothing changes is stopped: by a bound at the start's mean, by the comparison.

`python -m experiments.benchmarks.false_stops` simulates validations whose questions have the mean and
standard deviation of Indicator 1's p90 Spearman at the paper's NQ checkpoint (table 3), correlated with the
start by 0.3 question by question. Both rules have the default patience of 2.
"""

import argparse
import math
import sys
from collections.abc import Iterator, Sequence

import numpy as np
from jaxtyping import Bool, Float

from callbacks.threshold import Threshold
from experiments.command_line import run_command
from lightning_modules.metrics.paired_change import DeclineRule, paired_change

MEAN, STD = 0.227, 0.259
CORRELATION = 0.3
BOUNDS = tuple(Threshold.parse(f"m >= {bound}") for bound in ("start", "start - 0.02", "start - 0.05"))


def unchanged_runs(
    num_runs: int, num_validations: int, num_questions: int, seed: int = 0
) -> Iterator[tuple[Float[np.ndarray, " questions"], Float[np.ndarray, "validations questions"]]]:
    """The start and the validations of each run."""
    rng = np.random.default_rng(seed)
    for _ in range(num_runs):
        of_question = math.sqrt(CORRELATION) * rng.standard_normal(num_questions)
        noise = math.sqrt(1 - CORRELATION) * rng.standard_normal((1 + num_validations, num_questions))
        values = MEAN + STD * (of_question + noise)
        yield values[0], values[1:]


def stops(is_broken: Bool[np.ndarray, " validations"], patience: int) -> bool:
    """Whether a bound is broken in so many validations in a row.

    Example:
        >>> stops(np.array([True, False, True, True]), 2), stops(np.array([True, False, True]), 2)
        (True, False)
    """
    windows = np.lib.stride_tricks.sliding_window_view(is_broken, patience)
    return bool(windows.all(axis=1).any())


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line; returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m experiments.benchmarks.false_stops", description=__doc__)
    parser.add_argument("--runs", type=int, default=2000)
    parser.add_argument("--validations", type=int, default=20)
    parser.add_argument("--questions", type=int, nargs="+", default=[32, 200, 1000])
    options = parser.parse_args(arguments)
    return run_command(lambda: _measure(options))


def _measure(options: argparse.Namespace) -> int:
    rule = DeclineRule(num_validations=options.validations)
    print(
        f"share of {options.runs} runs of {options.validations} validations, without any change, stopped by"
    )
    print(
        f"{'questions':>9}" + "".join(f"{bound.requirement:>19}" for bound in BOUNDS) + f"{'comparison':>19}"
    )
    for num_questions in options.questions:
        stopped = np.zeros(len(BOUNDS) + 1)
        for start, values in unchanged_runs(options.runs, options.validations, num_questions):
            change = paired_change(np.broadcast_to(start, values.shape), values, rule.level)
            broken = [
                np.array([not bound.holds(float(mean), float(start.mean())) for mean in values.mean(axis=1)])
                for bound in BOUNDS
            ]
            stopped += [
                *(stops(of_bound, bound.patience) for of_bound, bound in zip(broken, BOUNDS, strict=True)),
                stops(rule.is_below(change), rule.patience),
            ]
        print(f"{num_questions:>9}" + "".join(f"{share:>19.1%}" for share in stopped / options.runs))
    return 0


if __name__ == "__main__":
    sys.exit(main())
