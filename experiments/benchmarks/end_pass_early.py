"""What a reading pass saves that ends with the last chosen attention head.

`python -m experiments.benchmarks.end_pass_early` reads made-up passages with the embedded reader, each alone
in a prompt of 128 tokens, in turns by the whole pass (`Reader.read`) and by the one that ends early
(`Reader.read_attention`). It checks that their token scores are the same to the bit, and prints the seconds
of a pass.
"""

import argparse
import random
import statistics
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from experiments.command_line import quieten, run_command

if TYPE_CHECKING:
    from datamodules.batches import Batch
    from lightning_modules.readers.base import Reader

_WORDS = 150
"""Of a passage: more than a prompt has room for."""


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line; returns the exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m experiments.benchmarks.end_pass_early", description=__doc__
    )
    parser.add_argument("--reader", metavar="PATH", help="folder or .gguf file; default: the embedded reader")
    parser.add_argument(
        "--heads",
        nargs="+",
        default=["0-29.*", "qrhead:16", "core:8", "layers:14-17", "layers:8-11"],
        help="as reader.attention_heads takes them",
    )
    parser.add_argument("--passages", type=int, default=5)
    parser.add_argument("--repeats", type=int, default=15)
    options = parser.parse_args(arguments)
    return run_command(lambda: _measure(options))


def _measure(options: argparse.Namespace) -> int:
    quieten()
    import torch

    from datamodules import embedded
    from lightning_modules.head_lists import parse_heads
    from lightning_modules.readers.families import load_reader

    reader = load_reader(Path(options.reader or embedded.reader_gguf()), context="independent").eval()
    batch = _made_up(options.passages)
    print(f"{torch.get_num_threads()} threads, {options.passages} passages, {options.repeats} passes each")
    print(_line("heads", "ends in", "whole, s", "quartiles", "early, s", "quartiles", "early/whole"))
    for text in options.heads:
        choosy = type(reader)(reader.model, reader.prompts, parse_heads(text))
        assert choosy.heads_mask is not None
        deepest = int(choosy.heads_mask.any(dim=1).nonzero().max())
        with torch.no_grad():
            whole, early = in_turns(choosy, batch, options.repeats)
        medians = [statistics.median(seconds) for seconds in (whole, early)]
        cells = [cell for s in (whole, early) for cell in (f"{statistics.median(s):.3f}", _quartiles(s))]
        print(_line(text, str(deepest), *cells, f"{medians[1] / medians[0]:.2f}"), flush=True)
    return 0


def in_turns(reader: "Reader", batch: "Batch", repeats: int) -> tuple[list[float], list[float]]:
    """Seconds of each pass, whole and ended early, after one of each that is not counted.

    Raises:
        ValueError: their token scores differ.
    """
    import torch

    from experiments.benchmarks.comparison import seconds_of

    if not torch.equal(reader.read(batch).token_scores, reader.read_attention(batch).token_scores):
        raise ValueError("the pass that ends early gives other token scores")
    whole: list[float] = []
    early: list[float] = []
    for _ in range(repeats):
        whole.append(seconds_of(lambda: reader.read(batch), reader.device))
        early.append(seconds_of(lambda: reader.read_attention(batch), reader.device))
    return whole, early


def _made_up(num_passages: int) -> "Batch":
    from datamodules.batches import Batch, Passage, Question

    generator = random.Random(0)
    words = ["".join(generator.choices("etaoinshrdlu", k=generator.randint(2, 9))) for _ in range(2000)]
    passages = [
        Passage(str(i), f"Title {i}", " ".join(generator.choices(words, k=_WORDS)))
        for i in range(num_passages)
    ]
    return Batch([Question("q", "what is the title of it all", ("nothing",))], [passages], ["nothing"])


def _quartiles(seconds: list[float]) -> str:
    low, _, high = statistics.quantiles(seconds, n=4)
    return f"{low:.3f}-{high:.3f}"


def _line(*cells: str) -> str:
    return "".join(f"{cell:>14}" for cell in cells)


if __name__ == "__main__":
    sys.exit(main())
