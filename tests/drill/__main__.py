"""Harms runs in every way that a machine does, and counts what became of them: `python -m tests.drill`."""

import argparse
import os
import sys
import tempfile
import time
from pathlib import Path

os.environ["OMP_NUM_THREADS"] = "1"  # threads would not survive a fork
os.environ["TOKENIZERS_PARALLELISM"] = "false"

from tests.drill.cases import Counts, Drill


def main() -> int:
    """The command line; 0 where nothing was lost and nothing silently wrong."""
    parser = argparse.ArgumentParser(prog="python -m tests.drill", description=__doc__)
    parser.add_argument("--kills", type=int, default=100, help="runs killed, of one process")
    parser.add_argument("--kills-of-two", type=int, default=30, help="runs killed, of two processes")
    parser.add_argument("--signals", type=int, default=48, help="runs that a scheduler or a terminal ends")
    parser.add_argument("--changes", type=int, default=300, help="bytes changed in each kind of file")
    parser.add_argument("--resumed", type=int, default=100, help="runs that go on with a byte changed")
    parser.add_argument("--sizes", type=int, default=20, help="sizes of a disk that becomes full")
    parser.add_argument("--twice", type=int, default=10, help="runs that go on twice at once")
    parser.add_argument("--jobs", type=int, default=2, help="cases at the same time")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    counts = Counts(
        kills=options.kills,
        kills_of_two=options.kills_of_two,
        signals=options.signals,
        changes=options.changes,
        resumed=options.resumed,
        sizes=options.sizes,
        twice=options.twice,
    )
    started = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="drill-") as folder:
        drill = Drill(Path(folder).resolve(), seed=options.seed)
        table = drill.run(counts, options.jobs)
    print(table.text())
    print(f"{time.monotonic() - started:.0f} seconds, seed {options.seed}")
    return 0 if table.is_good else 1


if __name__ == "__main__":
    sys.exit(main())
