"""What a GPU makes of the suite, in six minutes: `python -m experiments.benchmarks.gpu --out gpu.json`.

The machine; numbers in bfloat16 beside those of the CPU; tokens per second and the share of the chip's own
rate of matrix products; memory beside eager attention; search; and sixty steps of everything together. All
models have random weights, so nothing is downloaded, and packages that the suite imports where it uses them
(FAISS, spaCy, OmegaConf, bm25s, gguf, peft, torchdata) need not be there; those that it cannot do without are
refused where they are older than it needs. A part that fails leaves its traceback in the JSON, and the others
go on.
"""

import argparse
import contextlib
import gc
import json
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any

from experiments.benchmarks.packages import refuse_older
from experiments.benchmarks.row import Row
from experiments.command_line import quieten, run_command

if TYPE_CHECKING:
    from experiments.benchmarks.gpu_parts import Rig

WIDTH = 100
WHOLE_S = 360.0
"""Seconds of all parts together, with what they import."""


@dataclass
class Outcome:
    """What came of a part.

    Attributes:
        rows: as far as it came.
        seconds: that it took.
        error: why it ended early, in a line; None = it did not.
        traceback: of that.
    """

    rows: list[Row] = field(default_factory=list)
    seconds: float = 0.0
    error: str | None = None
    traceback: str | None = None


PARTS = {
    "environment": 30.0,
    "correctness": 60.0,
    "speed": 110.0,
    "memory": 30.0,
    "search": 50.0,
    "run": 75.0,
}
"""Functions of `gpu_parts`, and the seconds after which each is ended, if `WHOLE_S` lets it have them."""


class OutOfTimeError(Exception):
    """The time of a part is up; no TimeoutError, which is an error of the system to who reads files."""


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line; returns the exit code: 1 where a part failed."""
    parser = argparse.ArgumentParser(prog="python -m experiments.benchmarks.gpu", description=__doc__)
    parser.add_argument(
        "--size", choices=("tiny", "full"), help="tiny: models of a few thousand weights, on any machine"
    )
    parser.add_argument("--out", metavar="FILE.json", help="all rows, and the traceback of what failed")
    options = parser.parse_args(arguments)
    return run_command(lambda: _measure(options))


def _measure(options: argparse.Namespace) -> int:
    ends = time.perf_counter() + WHOLE_S
    quieten()
    refuse_older()
    import torch

    has_gpu = torch.cuda.is_available()
    if not has_gpu and options.size != "tiny":
        raise ValueError(
            "torch sees no GPU here, and nothing is said of one without; run this on a machine that has one, "
            "or see that it works with --size tiny"
        )
    from experiments.benchmarks import gpu_parts

    device = torch.device("cuda" if has_gpu else "cpu")
    rig = gpu_parts.Rig(device, gpu_parts.TINY if options.size == "tiny" else gpu_parts.FULL)
    outcomes: dict[str, Outcome] = {}
    for name, budget_s in PARTS.items():
        left_s = ends - time.perf_counter()
        outcome = outcomes[name] = run_part(getattr(gpu_parts, name), rig, min(budget_s, left_s))
        _show(name, outcome)
        if options.out:  # after each, so that what was measured outlives a crash
            _write(Path(options.out), options.size or "full", outcomes)
        elif outcome.traceback:
            print(outcome.traceback, file=sys.stderr)
    return 1 if any(outcome.error for outcome in outcomes.values()) else 0


def run_part(part: "Callable[[Rig], Iterator[Row]]", rig: "Rig", budget_s: float) -> Outcome:
    """The rows of a part until it ends, fails, or its time is up."""
    outcome, started = Outcome(), time.perf_counter()
    try:
        with _ended_after(budget_s):
            for row in part(rig):
                outcome.rows.append(row)
    except Exception as error:
        outcome.error = f"{type(error).__name__}: {error}".splitlines()[0]
        outcome.traceback = traceback.format_exc()
    outcome.seconds = time.perf_counter() - started
    gc.collect()  # what is let go of here is what the device can get back
    rig.free()
    return outcome


@contextlib.contextmanager
def _ended_after(budget_s: float) -> Iterator[None]:
    """Raises OutOfTimeError inside once the time is up; signals reach the main thread alone."""
    if budget_s <= 0:
        raise OutOfTimeError(f"not begun: {WHOLE_S:g} s are over")
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def end(number: int, frame: FrameType | None) -> None:
        raise OutOfTimeError(f"not done after {budget_s:.3g} s")

    before = signal.signal(signal.SIGALRM, end)
    signal.setitimer(signal.ITIMER_REAL, budget_s)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


# ---- what is shown and kept ----


def _show(name: str, outcome: Outcome) -> None:
    for row in outcome.rows:
        print(_line(name, row.what, row.shown), flush=True)
    if outcome.error is not None:
        print(f"{name:<13}FAILED after {outcome.seconds:.0f} s: {outcome.error}"[:WIDTH], flush=True)


def _line(part: str, what: str, value: str) -> str:
    room = WIDTH - 13 - len(value) - 1
    return f"{part:<13}{what[:room]:<{room}} {value}"[:WIDTH]


def _write(path: Path, size: str, outcomes: dict[str, Outcome]) -> None:
    from datamodules.durable_files import write_durably

    parts: dict[str, Any] = {name: asdict(outcome) for name, outcome in outcomes.items()}
    write_durably(path, json.dumps({"size": size, "parts": parts}, indent=2) + "\n")


if __name__ == "__main__":
    sys.exit(main())
