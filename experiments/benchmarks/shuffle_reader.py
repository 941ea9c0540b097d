"""Breaks a reader on purpose: `python -m experiments.benchmarks.shuffle_reader --out FOLDER [key=value ...]`.

Every weight matrix keeps its numbers, in random order: the model's shapes, sizes and speed stay, what it has
learnt is gone. A check that says go to such a teacher is no check.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

import torch

from experiments.build import build_reader
from experiments.command_line import run_command
from experiments.config import ConfigError, load_config


@torch.no_grad()
def shuffle_weights(model: torch.nn.Module, seed: int = 0, share: float = 1.0) -> None:
    """Permutes a share of the entries of every weight of two or more dimensions, in place.

    Args:
        model: whose weights are shuffled.
        seed: of the order, and of which entries are moved.
        share: of the entries that change places with each other, 0..1.
    """
    generator = torch.Generator().manual_seed(seed)
    for parameter in model.parameters():
        if parameter.dim() > 1:
            order = torch.randperm(parameter.numel(), generator=generator)
            moved = order[: round(share * len(order))]
            entries = parameter.flatten()
            entries[moved.sort().values] = entries[moved]
            parameter.copy_(entries.view_as(parameter))


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line; returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--exp", default="quickstart", help="whose reader is broken (quickstart)")
    parser.add_argument("--out", required=True, type=Path, help="folder to save it in")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--share", type=float, default=1.0, help="of the weights that are moved (1)")
    parser.add_argument("overrides", nargs="*", metavar="key=value")
    options = parser.parse_intermixed_args(arguments)
    return run_command(lambda: _shuffle(options))


def _shuffle(options: argparse.Namespace) -> int:
    if not 0 < options.share <= 1:
        raise ConfigError(f"--share {options.share} must be above 0 and at most 1")
    reader = build_reader(load_config(options.exp, options.overrides))
    shuffle_weights(reader.model, options.seed, options.share)
    reader.save(options.out)
    print(f"reader.name={options.out}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
