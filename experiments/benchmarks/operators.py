"""Where the time of reading and encoding goes, operator by operator, and what of it products must take.

`python -m experiments.benchmarks.operators` measures the rate of plain products of the models' shapes, then
has torch's profiler watch the embedded reader score 24 prompts in bfloat16 and the embedded retriever encode
512 passages in mixed precision, as `quickstart` does.
"""

import argparse
import os
import sys
import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from experiments.command_line import quieten, run_command

if TYPE_CHECKING:
    import torch

    from experiments.benchmarks.comparison import Setting

_SHOWN = 12
"""Operators."""
_SHAPES = {"the reader's": (3072, 576, 1536), "the retriever's": (4096, 384, 1536)}
"""Rows, inputs and outputs of a feed-forward layer."""


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line; returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m experiments.benchmarks.operators", description=__doc__)
    parser.add_argument("--size", default="small", help="tiny or small; default: %(default)s")
    return run_command(lambda: _measure(parser.parse_args(arguments)))


def _measure(options: argparse.Namespace) -> int:
    quieten()
    os.environ.setdefault("KINETO_LOG_LEVEL", "99")  # the profiler says when it starts and stops
    import torch

    from experiments.benchmarks.comparison import Setting, Size

    size = Size(options.size)
    setting = Setting(torch.device("cpu"), size, seconds=0.01 if size is Size.TINY else 2.0)
    print(f"{torch.get_num_threads()} threads, torch {torch.__version__}")
    for dtype in (torch.float32, torch.bfloat16):
        for whose, shape in _SHAPES.items():
            rate = _rate_of_products(shape, dtype, setting)
            print(f"products of {whose} shape {shape} in {dtype}: {rate / 1e9:,.0f} billion operations/s")
    for what, work in (("reading", _reading(setting)), ("encoding", _encoding(setting))):
        print()
        _show(what, work)
    return 0


def _rate_of_products(shape: tuple[int, int, int], dtype: "torch.dtype", setting: "Setting") -> float:
    """Operations a second of `torch.matmul`."""
    import torch

    rows, inputs, outputs = shape
    left, right = torch.randn(rows, inputs).to(dtype), torch.randn(inputs, outputs).to(dtype)
    left @ right
    count, started = 0, time.perf_counter()
    while (seconds := time.perf_counter() - started) < setting.seconds or not count:
        left @ right
        count += 1
    return 2.0 * count * rows * inputs * outputs / seconds


def _reading(setting: "Setting") -> Callable[[], object]:
    import torch

    from experiments.benchmarks.precision import batch_to_read, reader_in, target

    reader, batch = reader_in(torch.bfloat16, setting), batch_to_read(setting)
    return lambda: target(reader, batch)


def _encoding(setting: "Setting") -> Callable[[], object]:
    import torch

    from experiments.benchmarks.refresh import models_and_passages
    from lightning_modules.encoding import encode_passages

    retriever, passages = models_and_passages(setting)
    retriever.eval()

    def encode() -> None:
        with torch.autocast("cpu", torch.bfloat16):
            encode_passages(retriever, passages[:512])

    return encode


def _show(what: str, work: Callable[[], object]) -> None:
    """Prints the seconds of a work, its operations, and its operators by the time that is their own."""
    from torch.profiler import ProfilerActivity, profile
    from torch.utils.flop_counter import FlopCounterMode

    work()  # warms up
    started = time.perf_counter()
    work()
    seconds = time.perf_counter() - started
    with FlopCounterMode(display=False) as counted:
        work()
    operations = counted.get_total_flops()
    print(
        f"{what}: {seconds:.2f} s, {operations / 1e9:,.0f} billion operations of products and attention, "
        f"{operations / seconds / 1e9:,.0f} billion a second"
    )
    with profile(activities=[ProfilerActivity.CPU]) as watched:
        work()
    rows = sorted(watched.key_averages(), key=lambda row: row.self_cpu_time_total, reverse=True)
    total = sum(row.self_cpu_time_total for row in rows)
    for row in rows[:_SHOWN]:
        print(f"{row.self_cpu_time_total / total:7.1%}  {row.key}, {row.count:,} calls")


if __name__ == "__main__":
    sys.exit(main())
