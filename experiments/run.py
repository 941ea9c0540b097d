"""Runs an experiment by name: `python -m experiments.run --exp NAME [key=value ...]`."""

import argparse
import contextlib
import logging
import os
import shutil
import signal
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from experiments.command_line import FAILED, INTERRUPTED, REQUEUE, disk_trouble, quieten, run_command

if TYPE_CHECKING:
    from experiments.config import ExperimentConfig
    from experiments.runs import RunFolder

log = logging.getLogger(__name__)

MAY_CHANGE = "trainer.auto_batch"
"""The setting that a run may be resumed with."""


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line; returns the exit code.

    0; 1 where the numbers of the training broke; 2 for a mistake of the user's; 75 after a scheduler's
    signal, when it is to be resumed; 130 for Ctrl-C.
    """
    options = _parser().parse_args(arguments)
    return run_command(lambda: _run(options))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m experiments.run", description=__doc__)
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
    from experiments.processes import check_launcher
    from experiments.runs import RunFolder, create_run, join_run

    if options.list:
        for name in experiment_names():
            print(f"{name:22} {load_config(name).description}")
        return 0
    joined = join_run()
    if joined is not None:
        return _execute(read_config(joined.config), joined)
    if options.resume is not None:
        return _resume(options)
    if options.exp is None:
        raise ConfigError("name an experiment: --exp NAME; --list shows all")
    config = load_config(options.exp, options.overrides)
    if options.print_config:
        print(to_yaml(config), end="")
        return 0
    from experiments.checks import check_config
    from experiments.planning.plan import check_fits

    check_config(config)
    check_fits(config)
    check_launcher(config)
    made: list[RunFolder] = []

    def make() -> RunFolder:
        made.append(create_run(config))
        return made[0]

    try:
        run = _meet(config, make)
        return _execute(read_config(run.config), run)
    except ValueError:
        for run in made:
            if not run.start.is_file():  # nothing of worth was written yet
                shutil.rmtree(run.path)
        raise


def _meet(config: "ExperimentConfig", find: Callable[[], "RunFolder"]) -> "RunFolder":
    """The run's folder in all processes, as `find` gives it in the main one."""
    from experiments.build import hardware
    from experiments.processes import meet
    from experiments.runs import RunFolder

    return RunFolder(meet(config, hardware(config), lambda: find().path))


def _resume(options: argparse.Namespace) -> int:
    from datamodules.text_files import write_whole
    from experiments.checks import check_auto_batch
    from experiments.config import ConfigError, load_config, read_config, to_yaml
    from experiments.each_setting import check_each_setting
    from experiments.planning.plan import check_fits
    from experiments.processes import check_launcher
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

    def find() -> RunFolder:
        if options.overrides:
            write_whole(run.config, to_yaml(config))  # where the other processes read them
        return run

    return _execute(config, _meet(config, find))


def _execute(config: "ExperimentConfig", run: "RunFolder") -> int:
    quieten()
    from callbacks.stop_on_interrupt import RunInterrupted, interrupted_by_scheduler
    from experiments.checks import doubts_about
    from experiments.processes import is_main_process
    from experiments.runs import RUN_VARIABLE
    from experiments.show.console import print_summary
    from experiments.summary import FAILED as HAS_FAILED
    from experiments.train import run_experiment

    if is_main_process():
        os.environ[RUN_VARIABLE] = str(run.path.absolute())
        print(f"{config.name}: {config.description}\nrun folder: {run.path}", flush=True)
        for doubt in doubts_about(config):
            log.warning("warning: %s", doubt)
    try:
        with interrupted_by_scheduler(), _saying_how_to_go_on(config, run):
            summary = run_experiment(config, run)
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
    if is_main_process():
        with contextlib.suppress(OSError):  # the terminal may be gone
            print(
                f"\ninterrupted; go on with: python -m experiments.run --resume {run.path}", file=sys.stderr
            )
    return REQUEUE if by_scheduler else INTERRUPTED


@contextlib.contextmanager
def _saying_how_to_go_on(config: "ExperimentConfig", run: "RunFolder") -> Iterator[None]:
    """Inside, what a run can be gone on from is said so: a disk that is full, a GPU whose memory is.

    Raises:
        ConfigError: what failed, and the way out.
    """
    from torch import OutOfMemoryError

    from experiments.config import ConfigError
    from experiments.out_of_memory import way_out

    excepthook = threading.excepthook
    # TensorBoard writes in a thread, and its errors come back here
    threading.excepthook = lambda failed: None if _is_of_disk(failed) else excepthook(failed)
    try:
        yield
    except ValueError:  # says so itself
        raise
    except OutOfMemoryError as error:
        raise ConfigError(way_out(config, run, str(error))) from error
    except Exception as error:
        trouble = disk_trouble(error)
        if trouble is None:
            raise
        again = f"go on with: python -m experiments.run --resume {run.path}"
        raise ConfigError(f"{trouble}; then {again if run.start.is_file() else 'start again'}") from error
    finally:
        threading.excepthook = excepthook


def _is_of_disk(failed: threading.ExceptHookArgs) -> bool:
    return failed.exc_value is not None and disk_trouble(failed.exc_value) is not None


if __name__ == "__main__":
    sys.exit(main())
