"""Runs an experiment by name: `python -m experiments.run --exp NAME [key=value ...]`."""

import argparse
import contextlib
import logging
import os
import shutil
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from experiments.command_line import INTERRUPTED, quieten, run_command

if TYPE_CHECKING:
    from experiments.config import ExperimentConfig
    from experiments.runs import RunFolder

log = logging.getLogger(__name__)


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line; returns the exit code (0, 2 for a mistake of the user's, 130 for Ctrl-C)."""
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
    from experiments.run_lock import locked
    from experiments.runs import RunFolder, create_run, join_run, with_runs_named

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

    try:
        with contextlib.ExitStack() as held:

            def make() -> RunFolder:
                run = create_run(with_runs_named(config))
                made.append(run)
                held.enter_context(locked(run.path))
                return run

            run = _meet(config, make)
            # as the run has it, which names the runs that it starts from
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
    from experiments.config import ConfigError, load_config, read_config
    from experiments.planning.plan import check_fits
    from experiments.processes import check_launcher
    from experiments.run_lock import locked
    from experiments.runs import find_run

    if options.overrides:
        raise ConfigError("a resumed run keeps its settings; leave the overrides out, or start a new run")
    runs = Path(load_config(options.exp).runs if options.exp else "runs")
    run = find_run(options.exp, runs, options.resume or None)
    if run.is_finished:
        raise ConfigError(f"{run.path} is finished; its results are in {run.summary}")
    config = read_config(run.config)
    check_fits(config, is_begun=True)
    check_launcher(config)
    with contextlib.ExitStack() as held:

        def find() -> "RunFolder":
            held.enter_context(locked(run.path))
            run.repair()
            return run

        return _execute(config, _meet(config, find))


def _execute(config: "ExperimentConfig", run: "RunFolder") -> int:
    quieten()
    from callbacks.stop_on_interrupt import RunInterrupted
    from experiments.checks import doubts_about
    from experiments.processes import is_main_process
    from experiments.runs import RUN_VARIABLE
    from experiments.show.console import print_summary
    from experiments.train import run_experiment

    if is_main_process():
        os.environ[RUN_VARIABLE] = str(run.path.absolute())
        print(f"{config.name}: {config.description}\nrun folder: {run.path}", flush=True)
        for doubt in doubts_about(config):
            log.warning("warning: %s", doubt)
    try:
        summary = run_experiment(config, run)
    except (RunInterrupted, KeyboardInterrupt, SystemExit):
        if is_main_process():
            print(
                f"\ninterrupted; go on with: python -m experiments.run --resume {run.path}", file=sys.stderr
            )
        return INTERRUPTED
    if is_main_process():
        print_summary(summary, run)
    return 0


if __name__ == "__main__":
    sys.exit(main())
