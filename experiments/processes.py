"""The processes of a run on several devices: the main one, how they meet, and that they end together."""

import contextlib
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import lightning as L
import torch
from lightning.pytorch.plugins.environments import (
    ClusterEnvironment,
    SLURMEnvironment,
    TorchElasticEnvironment,
)
from lightning.pytorch.strategies import DDPStrategy
from lightning.pytorch.utilities import rank_zero_only
from torch import distributed

from experiments.command_line import INTERRUPTED, REQUEUE, USER_ERROR
from experiments.config import ConfigError, ExperimentConfig

DOCS = "docs/many_machines.md"
_LAUNCHERS: dict[type[ClusterEnvironment], str] = {
    # it can be used inside of SLURM too, so it comes first
    TorchElasticEnvironment: "torchrun",
    SLURMEnvironment: "srun",
}
_LONGEST_WAIT = timedelta(hours=3)
"""For another process. The main one alone reads passage files and trains an approximate index; one that has
died is not waited for."""
_EVERY_S = 1.0
_AGREED_S = 10.0
"""For processes that have agreed on an interrupt to end by themselves; schedulers kill after 30 or more."""
MAIN_VARIABLE = "ATTENTION_DISTILLATION_MAIN"
"""Tells the id of the main process to the further ones of a run on several devices."""
_LOST_CONNECTION = re.compile(r"by peer|gloo|NCCL", re.IGNORECASE)


def is_main_process() -> bool:
    """Whether this is the process that writes files and talks to the user."""
    return _rank() == 0


def _rank() -> int:
    """Of this process; known before processes are connected, from what started it."""
    rank: int = rank_zero_only.rank  # type: ignore[attr-defined]
    return rank


def num_processes(config: ExperimentConfig) -> int:
    """Of a run, on all its machines."""
    return config.trainer.devices * config.trainer.num_nodes


def launcher() -> ClusterEnvironment | None:
    """What has started several processes of this command; None = Lightning starts the others itself.

    Raises:
        ConfigError: a SLURM job that Lightning cannot work with.
    """
    for kind, name in _LAUNCHERS.items():
        if kind.detect():
            try:
                return kind()
            except RuntimeError as error:
                raise ConfigError(f"{name}: {error}") from error
    return None


def process_arguments(config: ExperimentConfig) -> dict[str, Any]:
    """Arguments of the trainer for the processes of a run."""
    if num_processes(config) == 1:
        return {"num_nodes": 1, "strategy": "auto"}
    # `fsdp` too: what it shards is frozen, and has no gradients to be averaged
    return {"num_nodes": config.trainer.num_nodes, "strategy": DDPStrategy(timeout=_LONGEST_WAIT)}


def check_launcher(config: ExperimentConfig) -> None:
    """Refuses other processes than the run has.

    Raises:
        ConfigError: says which settings fit them, or how to start them.
    """
    settings, found = config.trainer, launcher()
    if found is None:
        if settings.num_nodes > 1:
            raise ConfigError(
                f"trainer.num_nodes={settings.num_nodes}: start the processes of each machine with torchrun "
                f"or srun, as {DOCS} shows, or set trainer.num_nodes=1"
            )
    elif found.world_size() != num_processes(config):
        raise ConfigError(
            f"{_LAUNCHERS[type(found)]} started {found.world_size()} process(es), but "
            f"trainer.devices={settings.devices} on each of trainer.num_nodes={settings.num_nodes} make "
            f"{num_processes(config)}; set them to the processes of a machine and to the number of machines "
            f"({DOCS})"
        )


# ---- how they meet ----


def meet(config: ExperimentConfig, hardware: dict[str, Any], make_run: Callable[[], Path]) -> Path:
    """The folder of the run, which the main process makes or finds, and all others see.

    Args:
        config: of the run.
        hardware: trainer arguments for the accelerator.
        make_run: gives the folder; called in the main process.

    Raises:
        ConfigError: another machine does not see the folder.
    """
    if launcher() is None or num_processes(config) == 1:
        return make_run()
    made = make_run().absolute() if is_main_process() else None  # its error ends all of them
    connecting = L.Trainer(
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        **hardware,
        **process_arguments(config),
    )
    strategy = connecting.strategy
    strategy.setup_environment()
    path = strategy.broadcast(made)
    assert path is not None, "the main process has made it"
    blind: list[str | None] = [None] * num_processes(config)
    distributed.all_gather_object(blind, None if path.is_dir() else socket.gethostname())
    hosts = sorted({host for host in blind if host is not None})
    if hosts:
        raise ConfigError(
            f"the run folder {path} is not there on {', '.join(hosts)}: set runs to a folder that all "
            "machines share"
        )
    return path


@contextlib.contextmanager
def main_first() -> Iterator[None]:
    """Inside, the main process goes first and the others find the files that it has made.

    Processes that Lightning starts are started when the main one has been there already.
    """
    if not distributed.is_initialized():
        yield
        return
    devices = [torch.cuda.current_device()] if distributed.get_backend() == "nccl" else None
    if not is_main_process():
        try:
            distributed.barrier(device_ids=devices)
        except RuntimeError as error:
            if _is_lost_connection(error):  # the main process has said what is wrong
                _end(1)
            raise
    yield
    if is_main_process():
        distributed.barrier(device_ids=devices)


# ---- that they end together ----


@contextlib.contextmanager
def ending_together(trainer: L.Trainer, path: Path) -> Iterator[None]:
    """Inside, a process that dies ends those beside it, and the user is told once.

    torchrun and srun end the processes that they have started themselves; here the death of one shows as a
    connection that is lost. Those that Lightning has started are also watched, and end where the main one is
    interrupted, even before they have met.

    Args:
        trainer: of the run.
        path: of the run's folder.
    """
    if trainer.world_size == 1:
        yield
        return
    is_starter = launcher() is None and is_main_process()
    watching: contextlib.AbstractContextManager[None] = contextlib.nullcontext()
    if is_starter:
        watching = _waiting_for_others(trainer, path)
    with watching, _telling_once(trainer, path, is_starter):
        yield


@contextlib.contextmanager
def _telling_once(trainer: L.Trainer, path: Path, is_starter: bool) -> Iterator[None]:
    """Inside, an error ends the other processes before they say the same."""
    try:
        yield
    except BaseException as error:
        if _is_lost_connection(error):
            if launcher() is None:
                time.sleep(3 * _EVERY_S)  # what watches ends this process, if another one has died
            if not is_main_process():
                _end(1)
            if launcher() is not None:
                _end(1, _told("another process of the run died", path))
        if is_starter:
            # the others would say the same of an error; on an interrupt they agree, if they have met
            is_agreed = not isinstance(error, Exception) and distributed.is_initialized()
            _end_others(trainer, _AGREED_S if is_agreed else 0.0)
        raise


@contextlib.contextmanager
def ending_with_main_process(path: Path) -> Iterator[None]:
    """Inside, a process that Lightning has started ends when the main one does, whatever it waits for.

    It must begin before anything slow: a process whose main one dies while it starts would wait for it.

    Args:
        path: of the run's folder.
    """
    parent = int(os.environ[MAIN_VARIABLE])

    def look() -> None:
        if os.getppid() != parent:
            # of several that are left, one says so
            _end(1, _told("the main process died", path) if _rank() == 1 else None)

    with _every_second(look):
        yield


@contextlib.contextmanager
def _every_second(look: Callable[[], None]) -> Iterator[None]:
    """Inside, a thread looks at something."""
    is_over = threading.Event()

    def watch() -> None:
        look()
        while not is_over.wait(_EVERY_S):
            look()

    threading.Thread(target=watch, daemon=True, name="watch-other-processes").start()
    try:
        yield
    finally:
        is_over.set()


@contextlib.contextmanager
def _waiting_for_others(trainer: L.Trainer, path: Path) -> Iterator[None]:
    """Inside, a thread waits for each of the processes that Lightning has started.

    Lightning looks for dead ones every few seconds and kills the main one without a word. While a thread
    waits for a process, Python tells no other of its end, so that the user is told first.
    """
    waited_for: set[int] = set()
    is_over = threading.Event()

    def wait_for(number: int, process: subprocess.Popen) -> None:
        code = process.wait()
        # a signal ends all of them
        if not code or code in (INTERRUPTED, REQUEUE) or is_over.is_set():
            return
        _end_others(trainer)
        if code == USER_ERROR:  # it has said why
            _end(code)
        how = signal.Signals(-code).name if code < 0 else f"exit code {code}"
        _end(1, _told(f"process {number} of {trainer.world_size} died ({how})", path))

    def look() -> None:
        for number, process in enumerate(_others(trainer), start=2):
            if number not in waited_for:
                waited_for.add(number)
                threading.Thread(target=wait_for, args=(number, process), daemon=True).start()

    try:
        with _every_second(look):
            yield
    finally:
        is_over.set()


def _end_others(trainer: L.Trainer, patience_s: float = 0.0) -> None:
    deadline = time.monotonic() + patience_s
    for process in _others(trainer):
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(max(0.0, deadline - time.monotonic()))
        if process.poll() is None:
            process.kill()


def _others(trainer: L.Trainer) -> list[subprocess.Popen]:
    """The processes that Lightning has started so far."""
    started_by: Any = trainer.strategy.launcher
    return list(started_by.procs)


def _is_lost_connection(error: BaseException) -> bool:
    return isinstance(error, RuntimeError) and _LOST_CONNECTION.search(str(error)) is not None


def _told(what: str, path: Path) -> str:
    return (
        f"error: {what}, which ends all of them; go on from the last checkpoint with: python -m "
        f"experiments.run --resume {path}"
    )


def _end(code: int, message: str | None = None) -> None:
    """Ends this process, whatever it waits for."""
    if message is not None:
        print(f"\n{message}", file=sys.stderr, flush=True)
    sys.stdout.flush()
    os._exit(code)
