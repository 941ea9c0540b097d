"""How fast a passage file becomes a knowledge base, and in how much memory.

`python -m experiments.benchmarks.read_passages` writes files like psgs_w100.tsv (100 words a passage), reads
each in a process of its own, prints passages per second and the peak of its memory, and deletes the files.
"""

import argparse
import json
import random
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

_WORDS_PER_PASSAGE = 100
_NUM_WORDS = 50_000
_MEASURE = "--measure"


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line; returns the exit code."""
    arguments = sys.argv[1:] if arguments is None else arguments
    if arguments[:1] == [_MEASURE]:
        print(json.dumps(_measure(Path(arguments[1]))))
        return 0
    parser = argparse.ArgumentParser(
        prog="python -m experiments.benchmarks.read_passages", description=__doc__
    )
    parser.add_argument(
        "sizes", nargs="*", type=int, default=[100_000, 1_000_000], help="passages of each file"
    )
    parser.add_argument("--folder", help="where the files go for the while; default: the system's")
    options = parser.parse_args(arguments)
    print(_line("passages", "file, MB", "seconds", "passages/s", "before, MB", "peak, MB"))
    for size in options.sizes:
        with tempfile.TemporaryDirectory(dir=options.folder) as folder:
            path = Path(folder) / "psgs_w100.tsv"
            write_passages(path, size)
            # a process of its own, whose peak is that of this file alone
            command = [sys.executable, "-m", "experiments.benchmarks.read_passages", _MEASURE, str(path)]
            found = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
            file_mb, rate = path.stat().st_size / 1e6, found["passages"] / found["seconds"]
        numbers = (found["passages"], file_mb, found["seconds"], rate, found["before_mb"], found["peak_mb"])
        print(_line(*(f"{number:,.0f}" for number in numbers)), flush=True)
    return 0


def _line(*cells: str) -> str:
    return "".join(f"{cell:>12}" for cell in cells)


def write_passages(path: Path, num_passages: int, seed: int = 0) -> None:
    """Writes a file laid out as psgs_w100.tsv: made-up words, quoted as CSV, ids from 1."""
    generator = random.Random(seed)
    letters = "etaoinshrdlucmfwypvbgkjqxz"
    words = ["".join(generator.choices(letters, k=generator.randint(2, 9))) for _ in range(_NUM_WORDS)]
    with path.open("w", encoding="utf-8") as file:
        file.write("id\ttext\ttitle\n")
        for number in range(1, num_passages + 1):
            text = " ".join(generator.choices(words, k=_WORDS_PER_PASSAGE))
            file.write(f'{number}\t"{text}"\tTitle {number}\n')


def _measure(path: Path) -> dict[str, float]:
    """Reads a file as a run does, ids and number verified."""
    from datamodules.passages import knowledge_base_from_file
    from datamodules.sources import PassageSet, PublishedFile

    with path.open("rb") as file:
        num_passages = sum(1 for _ in file) - 1
    published = PassageSet(PublishedFile(path.name, "made up"), num_passages)
    before_mb = _peak_mb()
    started = time.perf_counter()
    knowledge_base = knowledge_base_from_file(path, path.parent / "cache", published=published)
    seconds = time.perf_counter() - started
    return {
        "passages": len(knowledge_base),
        "seconds": seconds,
        "before_mb": before_mb,
        "peak_mb": _peak_mb(),
    }


def _peak_mb() -> float:
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / 1e6 if sys.platform == "darwin" else peak / 1e3  # bytes there, kilobytes on Linux


if __name__ == "__main__":
    sys.exit(main())
