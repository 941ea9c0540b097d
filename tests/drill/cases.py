"""The harms: kills, signals, changed bytes, full disks, two runs in one folder."""

import json
import os
import random
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

# what runs import, also late, is imported before the forks
import bm25s  # noqa: F401
import spacy  # noqa: F401
import torch.utils.tensorboard  # noqa: F401
from lightning.pytorch import Callback, Trainer
from lightning.pytorch.utilities import rank_zero_only

from callbacks.checkpoint_files import load_sealed
from experiments import out_of_memory, run_lock, train  # noqa: F401
from experiments import run as run_command
from experiments.command_line import INTERRUPTED, REQUEUE
from experiments.planning import plan  # noqa: F401
from experiments.runs import RunFolder
from experiments.show import console  # noqa: F401
from experiments.trainer import RunCallbacks
from tests.drill import table
from tests.drill.children import Child, Ended, count_file_operations, heed, hit_at_file_operation
from tests.drill.readers import KINDS, Kind, files_of, with_byte_changed
from tests.drill.results import digests, left_behind
from tests.drill.table import Case, Outcome, Table
from tests.toy_files import as_overrides, toy_settings

SETTINGS = {
    "data.batch_size": 4,
    "retriever.dropout": 0.1,
    "reader.context": "independent",  # whose outputs are kept
    "evaluation.generate_in_validation": "false",
    "index.validation_passages": 20,
    "index.refresh_before_validation": "false",
    "index.refresh": '"0-100:3"',  # so that most checkpoints were trained with an index of older weights
    "trainer.max_steps": 5,
    "trainer.validate_every_steps": 2,
    "runs": "runs",
}
"""Epochs of three steps, checkpoints at each, dropout, and every kind of file that a run reads back."""
_EXIT_CODES = {
    signal.SIGTERM: REQUEUE,
    signal.SIGUSR1: REQUEUE,
    signal.SIGHUP: REQUEUE,
    signal.SIGINT: INTERRUPTED,
}
"""What a signal has to end with: all but Ctrl-C with what a scheduler starts a run again on."""
_SAVED_BY_SIGNALS_ALONE = "trainer.checkpoint_every_steps=5"
_STEPS_IN_HAND = (0, 2)  # that no validation follows, so that they are saved
_TOLD = ("this is not the same run any more", "the last bits of what a run measures may differ")
_NOT_READ = ("tensorboard", "token_view", "about.json")


@dataclass(frozen=True)
class Counts:
    """How many of each; see `python -m tests.drill --help`."""

    kills: int
    kills_of_two: int
    signals: int
    changes: int
    resumed: int
    sizes: int
    twice: int


@dataclass(frozen=True)
class Reference:
    """A run that nothing happened to.

    Attributes:
        found: what it gave, as `digests`.
        num_operations: on files.
        seconds: that it took.
        num_bytes, num_files: that it left.
    """

    found: dict[str, str]
    num_operations: int
    seconds: float
    num_bytes: int
    num_files: int


class Drill:
    """Toy runs, each in a folder of its own, that something happens to.

    Args:
        folder: an empty one.
        seed: of places and moments.
    """

    def __init__(self, folder: Path, seed: int = 0) -> None:
        self.folder = folder
        self.seed = seed
        self._results: Path | None = None
        self._overrides: list[str] = []
        self._references: dict[int, Reference] = {}
        self._elsewhere = Path(tempfile.mkdtemp(prefix="drill-", dir=_another_file_system(folder)))

    def run(self, counts: Counts, jobs: int) -> Table:
        """Does all of it; `jobs` cases at the same time."""
        try:
            self._prepare(counts)
            tasks = list(self._tasks(counts))
            workers = [self._worker(tasks[number::jobs], number) for number in range(jobs)]
            for worker in workers:
                os.waitpid(worker, 0)
            results = [table.read(self.folder / f"results-{number}.jsonl") for number in range(jobs)]
            cases = [case for of_job in results for case in of_job]
            skipped = [] if _can_mount() or not counts.sizes else ["full disks, which need root for tmpfs"]
            done = len(cases) >= len(tasks)  # a task gives a case at least
            lost = [] if done else [Case("the drill itself", Outcome.LOST, "a worker died")]
            return Table([*cases, *lost], _ROWS, skipped)
        finally:
            shutil.rmtree(self._elsewhere, ignore_errors=True)

    def _worker(self, tasks: list[Callable[[], list[Case]]], number: int) -> int:
        process = os.fork()
        if process:
            return process
        code = 1
        try:
            for done, task in enumerate(tasks):
                for case in task():
                    table.append(self.folder / f"results-{number}.jsonl", case)
                if done % 20 == 19:
                    print(f"job {number}: {done + 1} of {len(tasks)}", file=sys.stderr, flush=True)
            code = 0
        except BaseException:
            import traceback

            traceback.print_exc()
        finally:
            os._exit(code)

    def _tasks(self, counts: Counts) -> Iterator[Callable[[], list[Case]]]:
        for number in range(counts.kills):
            yield partial(self.killed, number, counts.kills, 1)
        for number in range(counts.kills_of_two):
            yield partial(self.killed, number, counts.kills_of_two, 2)
        for number in range(counts.signals):
            yield partial(self.signalled, number)
        for number in range(counts.resumed):
            yield partial(self.resumed_with_a_byte_changed, number)
        if _can_mount():
            for number in range(counts.sizes):
                yield partial(self.disk_full, number, counts.sizes)
        for number in range(counts.twice):
            yield partial(self.resumed_twice, number)
        if counts.changes:
            for kind in KINDS:
                yield partial(self.changed, kind, counts.changes)

    # ---- runs ----

    def _prepare(self, counts: Counts) -> None:
        data = self.folder / "data"
        data.mkdir()
        written = self.folder / "overrides.json"

        def write() -> int:
            written.write_text(json.dumps(as_overrides({**toy_settings(data), **SETTINGS})))
            return 0

        ended = Child(write, data).wait()
        assert ended.code == 0, ended.said
        self._overrides = json.loads(written.read_text())
        for processes in (1, 2):
            if processes == 1 or counts.kills_of_two:
                self._references[processes] = self._refer(processes)
        if counts.resumed or counts.twice:
            self._take_snapshot()

    def _refer(self, processes: int) -> Reference:
        place = self._place(f"reference-{processes}")
        counter = self.folder / f"operations-{processes}"
        began = time.monotonic()
        ended = self._start(place, processes, before=lambda: count_file_operations(place, counter))
        seconds = time.monotonic() - began
        assert ended.code == 0, ended.said
        sizes = [file.stat().st_size for file in files_of(place)]
        found = self._found(place) or {}
        return Reference(found, int(counter.read_text()), seconds, sum(sizes), len(sizes))

    def _take_snapshot(self) -> None:
        """A run that was killed when most of it was done."""
        place, reference = self._place("snapshot"), self._references[1]
        number = round(0.75 * reference.num_operations)
        self._start(place, before=lambda: hit_at_file_operation(place, number))
        made = _run_in(place)
        assert made is not None, "it was killed late"
        assert made.previous_checkpoint.is_file(), "it was killed late"

    def _place(self, name: str) -> Path:
        place = self.folder / name
        place.mkdir()
        return place

    def _start(
        self,
        place: Path,
        processes: int = 1,
        before: Callable[[], None] = lambda: None,
        hit_after_s: float | None = None,
        by: int = signal.SIGKILL,
        environment: Mapping[str, str] | None = None,
        overrides: Sequence[str] = (),
    ) -> Ended:
        arguments = ["--exp", "quickstart", *self._overrides, *overrides]
        if processes > 1:
            arguments.append(f"trainer.devices={processes}")
        return self._run(place, arguments, processes, before, hit_after_s, by, environment)

    def _resume(self, place: Path, made: RunFolder, processes: int = 1) -> Ended:
        return self._run(place, ["--resume", str(made.path.relative_to(place))], processes)

    def _run(
        self,
        place: Path,
        arguments: list[str],
        processes: int = 1,
        before: Callable[[], None] = lambda: None,
        hit_after_s: float | None = None,
        by: int = signal.SIGKILL,
        environment: Mapping[str, str] | None = None,
    ) -> Ended:
        """Runs a command in one process or in several, which end with the first, as torchrun's do."""
        others = []
        port = _free_port() if processes > 1 else 0
        for rank in range(processes):
            launched = _as_torchrun(rank, processes, port) if processes > 1 else {}

            def work(rank: int = rank) -> int:
                rank_zero_only.rank = rank
                if rank == 0:
                    before()
                code = run_command.main(arguments)
                if rank == 0 and code == 0:
                    self._write_found(place)
                return code

            others.append(Child(work, place, {**(environment or {}), **launched}))
        main, *others = others
        ended = main.wait(hit_after_s, by)
        for other in others:
            if ended.code == 0:
                other.wait()
            else:
                other.kill()
        return ended

    def _write_found(self, place: Path) -> None:
        made = _run_in(place)
        assert made is not None, "it is finished"
        self._found_file(place).write_text(json.dumps(digests(made)))

    def _found(self, place: Path) -> dict[str, str] | None:
        file = self._found_file(place)
        return json.loads(file.read_text()) if file.is_file() else None

    def _found_file(self, place: Path) -> Path:
        return self.folder / f"{'-'.join(place.relative_to(self.folder).parts)}.found.json"

    def _judge(self, place: Path, ended: Ended, reference: Reference) -> tuple[Outcome, str]:
        """What became of a run that was brought to its end."""
        left = left_behind(place)
        if ended.code == 0:
            found = self._found(place) or {}
            differing = [part for part in reference.found if found.get(part) != reference.found[part]]
            if differing and any(told in ended.said for told in _TOLD):
                return Outcome.TOLD, ended.said[:300]
            if differing:
                return Outcome.WRONG, f"{', '.join(differing)} differ; {ended.said[-2000:]}"
            if left:
                return Outcome.LOST, f"left behind: {', '.join(left)}"
            return Outcome.RECOVERED, ""
        if _is_one_message(ended):
            return Outcome.REFUSED, ended.said[-300:]
        return Outcome.LOST, f"ended with {ended.code}: {ended.said[-2000:]}"

    # ---- the harms ----

    def killed(self, number: int, total: int, processes: int) -> list[Case]:
        """Half of them at a file operation, half at any moment; of four one in a folder that is then moved,
        one with `TMPDIR` on another file system, one with both."""
        place = self._place(f"killed-{processes}-{number}")
        reference, dice = self._references[processes], self._dice("killed", number)
        at_operation, is_moved, is_across = number % 2 == 0, number % 4 >= 2, number % 3 == 0
        elsewhere = self._elsewhere / place.name
        elsewhere.mkdir()
        environment = {"TMPDIR": str(elsewhere)} if is_across else {}
        if at_operation:
            operation = 1 + (2 * number + 1) * reference.num_operations // (2 * total)
            where = f"before file operation {operation}"
            ended = self._start(
                place, processes, lambda: hit_at_file_operation(place, operation), environment=environment
            )
        else:
            after_s = dice.uniform(0, reference.seconds)
            where = f"after {after_s:.2f} seconds"
            ended = self._start(place, processes, hit_after_s=after_s, environment=environment)
        row = "killed at a file operation" if at_operation else "killed at a random moment"
        row += ", two processes" if processes > 1 else ""
        if ended.code != 0:
            made = _run_in(place)
            if made is None:  # not begun
                ended = self._start(place, processes)
            else:
                if is_moved:
                    moved = place / "elsewhere" / made.path.name
                    moved.parent.mkdir()
                    made = RunFolder(made.path.rename(moved))
                ended = self._go_on(place, made, processes)
        outcome, said = self._judge(place, ended, reference)
        if outcome in (Outcome.REFUSED, Outcome.TOLD):  # a kill is nothing to be refused for
            outcome = Outcome.LOST
        left = [path.name for path in elsewhere.iterdir()]
        if left:
            outcome, said = Outcome.LOST, f"left in TMPDIR: {', '.join(left)}"
        how = f"{where}{', moved' if is_moved else ''}{', another TMPDIR' if is_across else ''}"
        return [self._case(place, row, outcome, f"case {number}, {how}: {said}")]

    def signalled(self, number: int) -> list[Case]:
        """A scheduler, or Ctrl-C, ends a run: in a step, which is saved, or at any moment."""
        place, reference = self._place(f"signalled-{number}"), self._references[1]
        dice, by = self._dice("signalled", number), list(_EXIT_CODES)[number % len(_EXIT_CODES)]
        step = after_s = None
        match number // len(_EXIT_CODES) % 3:
            case 0:
                step = dice.choice(_STEPS_IN_HAND)
                where, hit = f"in step {step}", partial(_hit_in_step, step, by)
            case 1:
                operation = dice.randint(1, reference.num_operations)
                where = f"before file operation {operation}"
                hit = partial(hit_at_file_operation, place, operation, by)
            case _:
                after_s = dice.uniform(0, reference.seconds)
                where, hit = f"after {after_s:.2f} seconds", lambda: None

        def before() -> None:
            heed(by)
            hit()

        ended = first = self._start(
            place, before=before, hit_after_s=after_s, by=by, overrides=[_SAVED_BY_SIGNALS_ALONE]
        )
        made = _run_in(place)
        wrong = _wrong_of_signalled(first, made, by, step)
        if first.code != 0:
            again = partial(self._start, place, overrides=[_SAVED_BY_SIGNALS_ALONE])
            ended = again() if made is None else self._go_on(place, made)
        outcome, said = self._judge(place, ended, reference)
        if outcome in (Outcome.REFUSED, Outcome.TOLD) or (wrong and outcome == Outcome.RECOVERED):
            outcome = Outcome.LOST
        details = f"case {number}, {where}, {first.code}: {wrong} {said}"
        return [self._case(place, by.name, outcome, details)]

    def resumed_with_a_byte_changed(self, number: int) -> list[Case]:
        """One byte of one file, of the run or of what runs share; the files in turn."""
        place = self.folder / f"changed-{number}"
        shutil.copytree(self.folder / "snapshot", place)
        dice = self._dice("changed", number)
        read = [file for file in files_of(place) if not any(part in _NOT_READ for part in file.parts)]
        file = read[number % len(read)]
        content = file.read_bytes()
        at = dice.randrange(len(content))
        file.write_bytes(with_byte_changed(content, at, dice.randrange(1, 256)))
        made = _run_in(place)
        assert made is not None, "the snapshot is of one"
        outcome, said = self._judge(place, self._resume(place, made), self._references[1])
        details = f"{file.relative_to(place)}, byte {at} of {len(content)}: {said}"
        return [self._case(place, "resumed with a byte changed", outcome, details)]

    def disk_full(self, number: int, total: int) -> list[Case]:
        """A disk of some size, or for some files; a run on it ends with one message, and then there is room.

        The first is full in the middle of a file, the second at the beginning of one.
        """
        case = self._place(f"full-{number}")
        place = case / "disk"
        place.mkdir()
        reference = self._references[1]
        share = 1.25 * (number + 1) / (total + 1)  # at its peak a run takes more than it leaves
        if number % 2:
            room, enough = f"nr_inodes={16 + round(share * reference.num_files)}", "nr_inodes=10000"
        else:
            room = f"size={round(share * reference.num_bytes) + (64 << 10)}"
            enough = f"size={10 * reference.num_bytes}"
        _mount("mount", "-t", "tmpfs", "-o", room, "tmpfs", place)
        try:
            full = ended = self._start(place)
            if full.code != 0:
                _mount("mount", "-o", f"remount,{enough}", place)
                made = _run_in(place)
                ended = self._start(place) if made is None else self._resume(place, made)
            outcome, said = self._judge(place, ended, reference)
        finally:
            _mount("umount", "-l", place)
        if full.code != 0 and not _says_disk_is_full(full):
            outcome = Outcome.LOST
        return [self._case(case, "disk full, then freed", outcome, f"{room}: {full.code} {full.said} {said}")]

    def resumed_twice(self, number: int) -> list[Case]:
        """Two processes go on with one folder at the same time."""
        place = self.folder / f"twice-{number}"
        shutil.copytree(self.folder / "snapshot", place)
        made, row = _run_in(place), "two resumes at once"
        assert made is not None, "the snapshot is of one"
        arguments = ["--resume", str(made.path.relative_to(place))]
        children = [Child(lambda: run_command.main(arguments), place) for _ in range(2)]
        ended = [child.wait() for child in children]
        worked = [one for one in ended if one.code == 0]
        refused = [one for one in ended if _is_one_message(one)]
        owners = [f"is being run by process {child.process} on" for child in children]
        if len(worked) != 1 or len(refused) != 1 or not any(o in refused[0].said for o in owners):
            return [Case(row, Outcome.LOST, str(ended)[-3000:])]
        self._write_found(place)
        outcome, said = self._judge(place, worked[0], self._references[1])
        return [self._case(place, row, outcome, said), Case(row, Outcome.REFUSED, refused[0].said)]

    def changed(self, kind: Kind, count: int) -> list[Case]:
        """Single bytes of all files of a kind, read alone; a process that crashes is replaced."""
        place = self._place(f"kind-{KINDS.index(kind)}")
        results = self.folder / f"kind-{KINDS.index(kind)}.jsonl"
        while (done := len(table.read(results))) < count:
            ended = Child(partial(self._change_bytes, kind, place, results, count), place).wait()
            if ended.code != 0 and len(table.read(results)) == done:
                row = f"byte changed: {kind.name}"
                table.append(
                    results, Case(row, Outcome.LOST, f"ended with {ended.code}: {ended.said[-500:]}")
                )
        return table.read(results)

    def _change_bytes(self, kind: Kind, place: Path, results: Path, count: int) -> int:
        row, folder = f"byte changed: {kind.name}", place / f"{len(table.read(results))}"
        folder.mkdir()
        kind.write(folder)
        expected, files = kind.read(folder), list(files_of(folder))
        for number in range(len(table.read(results)), count):
            dice = self._dice(kind.name, number)
            file = files[number % len(files)]
            content = file.read_bytes()
            at = dice.randrange(len(content))
            file.write_bytes(with_byte_changed(content, at, dice.randrange(1, 256)))
            found, noticed = kind.read_or_notice(folder)
            file.write_bytes(content)
            if noticed is not None:
                names_it = file.name in str(noticed) or str(file.parent) in str(noticed)
                outcome = Outcome.REFUSED if names_it else Outcome.LOST
            else:
                outcome = Outcome.RECOVERED if kind.is_same(found, expected) else Outcome.WRONG
            said = "" if noticed is None else str(noticed)
            table.append(results, Case(row, outcome, f"{file.name}, byte {at}: {said}"))
        return 0

    # ---- small things ----

    def _go_on(self, place: Path, made: RunFolder, processes: int = 1) -> Ended:
        """Resumes a run, if it has not come to its end."""
        ended = self._resume(place, made, processes)
        if "is finished; its results" not in ended.said:
            return ended
        self._write_found(place)
        return Ended(0, "")

    def _dice(self, what: str, number: int) -> random.Random:
        return random.Random(f"{self.seed} {what} {number}")

    def _case(self, place: Path, row: str, outcome: Outcome, details: str) -> Case:
        shutil.rmtree(place, ignore_errors=True)
        return Case(row, outcome, details)


_ROWS = (
    "killed at a file operation",
    "killed at a random moment",
    "killed at a file operation, two processes",
    "killed at a random moment, two processes",
    *(number.name for number in _EXIT_CODES),
    "resumed with a byte changed",
    "disk full, then freed",
    "two resumes at once",
    *(f"byte changed: {kind.name}" for kind in KINDS),
)


def _run_in(place: Path) -> RunFolder | None:
    found = [file.parent for file in place.rglob("config.yaml") if ".partial" not in str(file)]
    assert len(found) <= 1, found
    return RunFolder(found[0]) if found else None


class _HitInStep(Callback):
    def __init__(self, step: int, by: int) -> None:
        self.step, self.by = step, by

    def on_train_batch_start(self, trainer: Trainer, *_: object) -> None:
        if trainer.global_step == self.step:
            os.kill(os.getpid(), self.by)


def _hit_in_step(step: int, by: int) -> None:
    """From now on this process gets a signal in the middle of a step, from 0."""
    all_callbacks = RunCallbacks.all
    RunCallbacks.all = lambda self: [*all_callbacks(self), _HitInStep(step, by)]


def _wrong_of_signalled(ended: Ended, made: RunFolder | None, by: signal.Signals, step: int | None) -> str:
    """What is not as it has to be after a signal, in a step or anywhere."""
    if "Traceback" in ended.said:
        return f"a traceback: {ended.said[-2000:]}"
    has_begun = made is not None and "run folder: " in ended.said
    if step is None and (not has_begun or made.is_finished):  # it came too early, or too late
        return "" if ended.code in (0, _EXIT_CODES[by], -by) else f"ended with {ended.code}"
    if made is None or ended.code != _EXIT_CODES[by] or "go on with: " not in ended.said:
        return f"ended with {ended.code}: {ended.said[-2000:]}"
    if step is None:
        return ""
    if not made.last_checkpoint.is_file():
        return "no checkpoint"
    saved = load_sealed(made.last_checkpoint)["global_step"]
    return "" if saved == step + 1 else f"step {saved} was saved"


def _is_one_message(ended: Ended) -> bool:
    errors = [line for line in ended.said.splitlines() if line.startswith("error: ")]
    return ended.code == 2 and len(errors) == 1 and "Traceback" not in ended.said


def _says_disk_is_full(ended: Ended) -> bool:
    words = ("No space left on device", "for want of space", "this run does not fit")
    return _is_one_message(ended) and any(said in ended.said for said in words)


def _as_torchrun(rank: int, processes: int, port: int) -> dict[str, str]:
    """What torchrun tells its processes."""
    return {
        "RANK": str(rank),
        "LOCAL_RANK": str(rank),
        "GROUP_RANK": "0",
        "WORLD_SIZE": str(processes),
        "LOCAL_WORLD_SIZE": str(processes),
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
        "TORCHELASTIC_RUN_ID": "drill",
    }


def _free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])


def _another_file_system(folder: Path) -> Path | None:
    """A folder on another disk, for `TMPDIR`; None = this machine has none."""
    others = [place for place in (Path("/dev/shm"), Path("/var/tmp")) if os.access(place, os.W_OK)]
    return next((place for place in others if place.stat().st_dev != folder.stat().st_dev), None)


def _can_mount() -> bool:
    with tempfile.TemporaryDirectory() as folder:
        try:
            _mount("mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", Path(folder))
            _mount("umount", "-l", Path(folder))
        except (OSError, subprocess.CalledProcessError):
            return False
    return True


def _mount(*command: str | Path) -> None:
    subprocess.run([*map(str, command)], check=True, capture_output=True)
