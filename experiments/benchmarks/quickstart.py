"""`quickstart` from its first line to its last, beside the version before its speed was worked on.

That version is checked out of the history beside this one, and is given the settings that decide what comes
out as they are now. Both start from an empty folder of runs, so that neither finds what another has read. A
run of each takes minutes: it is measured where it is asked for by name.
"""

import contextlib
import json
import subprocess
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

from experiments.benchmarks.commands import ROOT, run_python
from experiments.benchmarks.comparison import AtMost, Comparison, Setting, Size, Spread

_BEFORE = "9f91901279"
_SETTINGS_SINCE = (
    "reader.attention_heads=qrhead:16",
    "objective.signals.answer=0",
    "training.retriever_lr=6e-5",
    "index.validation_passages=1000",
)
"""What `quickstart` has been given since, and what is not speed alone."""
_TINY = (
    "data.max_passages=100",
    "data.max_train=16",
    "data.max_validation=4",
    "data.max_test=4",
    "evaluation.num_read=2",
    "evaluation.num_read_test=2",
    "evaluation.generate_in_validation=false",
    "trainer.max_steps=1",
)
_NUM_TURNS = {Size.TINY: 1, Size.SMALL: 1, Size.FULL: 3}
_WITHIN = 0.03
"""Of HR@5 over 500 questions, whose standard error is 0.02: sums in another order retrieve other passages."""


@dataclass(frozen=True)
class Run:
    """What a run took, and what came out of it."""

    seconds: float
    start: float
    end: float

    def __str__(self) -> str:
        return f"HR@5 {self.start:.3f} -> {self.end:.3f}"


def measure(setting: Setting) -> list[Comparison]:
    """The whole command, with all that it writes."""
    is_tiny = setting.size is Size.TINY
    before = "HEAD" if is_tiny else _BEFORE
    further = _TINY if is_tiny else ()
    suite, baseline = [], []
    with checked_out(before) as folder:
        for _ in range(_NUM_TURNS[setting.size]):
            suite.append(_run(ROOT, further))
            baseline.append(_run(folder, (*further, *_SETTINGS_SINCE)))
    took, before_took = (Spread([run.seconds for run in runs]) for runs in (suite, baseline))
    said = agreement(suite, baseline)
    return [Comparison("run --exp quickstart", f"the version {before}", took, before_took, AtMost(0.5), said)]


def agreement(suite: Sequence[Run], baseline: Sequence[Run]) -> str:
    """Says what both come to.

    Raises:
        ValueError: that is not the same within noise.
    """
    for run, other in zip(suite, baseline, strict=True):
        if abs(run.start - other.start) > _WITHIN or abs(run.end - other.end) > _WITHIN:
            raise ValueError(f"quickstart comes to {run}, and came to {other} before")
    return "; ".join(f"{run}, before {other}" for run, other in zip(suite, baseline, strict=True))


@contextlib.contextmanager
def checked_out(commit: str, repository: Path = ROOT) -> Iterator[Path]:
    """A work tree of a commit, for as long as it is needed.

    Raises:
        ValueError: this is no clone with that commit.
    """
    with TemporaryDirectory() as parent:
        folder = Path(parent) / "before"
        added = _git(repository, "worktree", "add", "--detach", str(folder), commit)
        if added.returncode != 0:
            raise ValueError(
                f"quickstart is compared with {commit}, which git does not find in {repository} "
                f"({added.stderr.strip()}); clone the repository with its history: git fetch --unshallow"
            )
        try:
            yield folder
        finally:
            _git(repository, "worktree", "remove", "--force", str(folder))


def _git(repository: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = ["git", "-C", str(repository), *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def _run(folder: Path, overrides: Sequence[str]) -> Run:
    with TemporaryDirectory() as runs:
        started = time.perf_counter()
        run_python(["-m", "experiments.run", "--exp", "quickstart", f"runs={runs}", *overrides], folder)
        seconds = time.perf_counter() - started
        [summary] = Path(runs).glob("quickstart/*/summary.json")
        hr_at_5 = json.loads(summary.read_text(encoding="utf-8"))["hr_at_5"]
    return Run(seconds, hr_at_5["before"], hr_at_5["after"])
