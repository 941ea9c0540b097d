"""How often choosing attention heads seems to pay where it cannot.

`python -m experiments.benchmarks.head_search_noise` searches heads that know nothing: the held-out gain must
be 0 on average, and its 95% interval should exclude 0 in one trial out of twenty.
"""

import argparse
import sys
from collections.abc import Sequence

import torch

from experiments.command_line import run_command
from lightning_modules.metrics.head_search import search_heads


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line; returns the exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m experiments.benchmarks.head_search_noise", description=__doc__
    )
    parser.add_argument("--trials", type=int, default=200)
    parser.add_argument("--questions", type=int, default=200)
    parser.add_argument("--layers", type=int, default=30)
    parser.add_argument("--heads", type=int, default=9)
    parser.add_argument("--passages", type=int, default=5)
    options = parser.parse_args(arguments)
    return run_command(lambda: _measure(options))


def _measure(options: argparse.Namespace) -> int:
    gains, below, above = [], 0, 0
    for seed in range(options.trials):
        generator = torch.Generator().manual_seed(seed)
        shape = (options.questions, options.layers, options.heads, options.passages)
        # heads of very different sizes, as real ones are
        sizes = 3 * torch.rand(options.layers, options.heads, 1, generator=generator) + 0.1
        scores = torch.rand(shape, generator=generator) * sizes
        has_answer = torch.rand(options.questions, options.passages, generator=generator) < 0.3
        lengths = torch.rand(options.questions, options.passages, generator=generator) + 0.1
        found = search_heads(scores, has_answer, lengths, seed=seed)
        gains.append(found.difference)
        below += found.interval[1] < 0
        above += found.interval[0] > 0
    mean, std = torch.tensor(gains).mean(), torch.tensor(gains).std()
    print(f"held-out gain {mean:+.4f} +- {std / options.trials**0.5:.4f} over {options.trials} trials")
    print(f"95% interval wholly above 0 in {above} trials, wholly below in {below}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
