"""Runs an experiment by name: `python -m experiments.run --exp NAME [key=value ...]`."""

import argparse
import contextlib
import logging
import os
import shutil
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from experiments.command_line import (
    FAILED,
    INTERRUPTED,
    REQUEUE,
    HelpWithKeys,
    disk_trouble,
    quieten,
    run_command,
)

if TYPE_CHECKING:
    from experiments.config import ExperimentConfig
    from experiments.runs import RunFolder

log = logging.getLogger(__name__)

MAY_CHANGE = "trainer.auto_batch"
"""The setting that a run may be resumed with."""
_RESUME = "python -m experiments.run --resume"


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line; returns the exit code.

    0; 1 where the numbers of the training broke; 2 for a mistake of the user's; 75 after a scheduler's
    signal, when it is to be resumed; 130 for Ctrl-C.
    """
    options = _parser().parse_intermixed_args(arguments)
    options.began_s = time.perf_counter()
    return run_command(lambda: _run(options))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m experiments.run", description=__doc__, add_help=False)
    parser.add_argument("-h", "--help", action=HelpWithKeys, help="show this, and every key that can be set")
    parser.add_argument("--exp", metavar="NAME", help="the experiment")
    parser.add_argument("--list", action="store_true", help="show all experiments, a line each")
    parser.add_argument("--print-config", action="store_true", help="show the resolved configuration")
    parser.add_argument(
        "--resume",
        nargs="?",
        const="",
        metavar="RUN",
        help="go on with a run's folder; without RUN, with the newest unfinished run (of --exp)",
    )
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="settings to change")
    return parser


def _run(options: argparse.Namespace) -> int:
    from experiments.config import ConfigError, experiment_names, load_config, read_config, to_yaml

    if options.list:
        for name in experiment_names():
            print(f"{name:22} {load_config(name).description}")
        return 0
    if options.print_config and options.exp is not None and options.resume is None:
        print(to_yaml(load_config(options.exp, options.overrides)), end="")
        return 0
    # what follows needs torch, which takes a second to import
    from experiments.processes import check_launcher, ending_with_main_process
    from experiments.run_lock import locked
    from experiments.runs import RunFolder, create_run, join_run, with_runs_named

    joined = join_run()
    if joined is not None:
        with ending_with_main_process(joined.path):
            return _execute(read_config(joined.config), joined, options.began_s)
    if options.resume is not None:
        return _resume(options)
    if options.exp is None:
        raise ConfigError("name an experiment: --exp NAME; --list shows all")
    config = load_config(options.exp, options.overrides)
    from experiments.checks import check_config
    from experiments.planning.plan import check_fits

    check_config(config)
    check_fits(config)
    check_launcher(config)
    made: list[RunFolder] = []

    try:
        with contextlib.ExitStack() as held:

            def make() -> RunFolder:
                run = create_run(with_runs_named(config))
                made.append(run)
                held.enter_context(locked(run.path))
                return run

            run = _meet(config, make)
            # as the run has it, which names the runs that it starts from
            return _execute(read_config(run.config), run, options.began_s)
    except ValueError:
        for run in made:
            if not run.start.is_file() and not run.has_embeddings:  # nothing of worth was written yet
                shutil.rmtree(run.path)
        raise


def _meet(config: "ExperimentConfig", find: Callable[[], "RunFolder"]) -> "RunFolder":
    """The run's folder in all processes, as `find` gives it in the main one."""
    from experiments.build import hardware
    from experiments.processes import meet
    from experiments.runs import RunFolder

    return RunFolder(meet(config, hardware(config), lambda: find().path))


def _resume(options: argparse.Namespace) -> int:
    from experiments.checks import check_auto_batch
    from experiments.config import ConfigError, load_config, read_config, save_config
    from experiments.each_setting import check_each_setting
    from experiments.planning.plan import check_fits
    from experiments.processes import check_launcher
    from experiments.run_lock import locked
    from experiments.runs import RunFolder, find_run
    from experiments.summary import refuse_broken

    if any(not override.startswith(f"{MAY_CHANGE}=") for override in options.overrides):
        raise ConfigError(
            "a resumed run keeps its settings; leave the overrides out, or start a new run (only "
            f"{MAY_CHANGE}, with which the result is the same, may be set)"
        )
    runs = Path(load_config(options.exp).runs if options.exp else "runs")
    run = find_run(options.exp, runs, options.resume or None)
    if run.is_finished:
        raise ConfigError(f"{run.path} is finished; its results are in {run.summary}")
    config = read_config(run.config, options.overrides)
    refuse_broken(config, run)
    check_each_setting(config)
    check_auto_batch(config)
    check_fits(config, is_begun=True)
    check_launcher(config)
    with contextlib.ExitStack() as held:

        def find() -> RunFolder:
            held.enter_context(locked(run.path))
            run.repair()
            if options.overrides:
                save_config(config, run.config)  # where the other processes read them
            return run

        return _execute(config, _meet(config, find), options.began_s)


def _execute(config: "ExperimentConfig", run: "RunFolder", began_s: float) -> int:
    quieten()
    from callbacks.stop_on_interrupt import RunInterrupted, interrupted_by_scheduler
    from experiments.checks import doubts_about
    from experiments.processes import MAIN_VARIABLE, is_main_process
    from experiments.runs import FAILED as HAS_FAILED
    from experiments.runs import RUN_VARIABLE
    from experiments.show.console import print_summary
    from experiments.train import run_experiment

    if is_main_process():
        os.environ |= {RUN_VARIABLE: str(run.path.absolute()), MAIN_VARIABLE: str(os.getpid())}
        print(f"{config.name}: {config.description}\nrun folder: {run.path}", flush=True)
        for doubt in doubts_about(config):
            log.warning("warning: %s", doubt)
    try:
        with interrupted_by_scheduler(), _saying_how_to_go_on(config, run):
            summary = run_experiment(config, run, began_s)
    except (RunInterrupted, KeyboardInterrupt, SystemExit) as error:
        return _say_interrupted(run, by_scheduler=isinstance(error, RunInterrupted) and error.by_scheduler)
    if not is_main_process():
        return 0
    print_summary(summary, run)
    if summary["status"] != HAS_FAILED:
        return 0
    print(f"error: {summary['stopped']}; what was good until then is exported", file=sys.stderr)
    return FAILED


def _say_interrupted(run: "RunFolder", by_scheduler: bool) -> int:
    from experiments.processes import is_main_process, launcher

    if by_scheduler and launcher() is not None:
        # the launcher ends all processes once one has ended, and its signal would hide the exit code
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
    is_finished = run.is_finished  # a run that is cannot be started again
    what = f"when all was done: {run.summary}" if is_finished else f"go on with: {_RESUME} {run.path}"
    if is_main_process():
        with contextlib.suppress(OSError):  # the terminal may be gone
            print(f"\ninterrupted; {what}", file=sys.stderr)
    if is_finished:
        return 0
    return REQUEUE if by_scheduler else INTERRUPTED


@contextlib.contextmanager
def _saying_how_to_go_on(config: "ExperimentConfig", run: "RunFolder") -> Iterator[None]:
    """Inside, what a run can be gone on from is said so: a disk that is full, a GPU whose memory is.

    Raises:
        ConfigError: what failed, and the way out.
    """
    from torch import OutOfMemoryError

    from datamodules.errors import DataError
    from experiments.config import ConfigError
    from experiments.out_of_memory import way_out

    def again() -> str:
        said = f"go on with: {_RESUME} {run.path}"
        return said if run.start.is_file() else "start again"

    excepthook = threading.excepthook
    # TensorBoard writes in a thread, and its errors come back here
    threading.excepthook = lambda failed: None if _is_of_disk(failed) else excepthook(failed)
    try:
        yield
    except ValueError as error:  # says so itself
        if isinstance(error, DataError) and disk_trouble(error) is not None:
            raise ConfigError(f"{error}; then {again()}") from error
        raise
    except OutOfMemoryError as error:
        raise ConfigError(way_out(config, run, str(error))) from error
    except Exception as error:
        trouble = disk_trouble(error)
        if trouble is None:
            raise
        raise ConfigError(f"{trouble}; then {again()}") from error
    finally:
        threading.excepthook = excepthook


def _is_of_disk(failed: threading.ExceptHookArgs) -> bool:
    return failed.exc_value is not None and disk_trouble(failed.exc_value) is not None


if __name__ == "__main__":
    sys.exit(main())
