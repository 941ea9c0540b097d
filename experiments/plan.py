"""What a run takes, and whether it fits: `python -m experiments.plan --exp NAME [key=value ...]`.

`--against RUN` shows beside the plan of a finished run what that run took.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from experiments.command_line import quieten, run_command

if TYPE_CHECKING:
    from experiments.config import ExperimentConfig


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line; returns the exit code (0, 2 for a mistake of the user's, 130 for Ctrl-C)."""
    options = _parser().parse_intermixed_args(arguments)
    return run_command(lambda: _plan(options))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m experiments.plan", description=__doc__)
    planned = parser.add_mutually_exclusive_group(required=True)
    planned.add_argument("--exp", metavar="NAME", help="the experiment that is thought of")
    planned.add_argument(
        "--against", metavar="RUN", help="folder of a finished run, to compare its plan with"
    )
    parser.add_argument("--gpu", metavar="NAME", help="plan for such a GPU, or none; default: this machine")
    parser.add_argument("--memory", type=float, metavar="GB", help="memory of the host")
    parser.add_argument("--disk", type=float, metavar="GB", help="free disk where runs are kept")
    parser.add_argument(
        "--calibrate", action="store_true", help="time a few batches on this machine, for a minute or two"
    )
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="settings (see run --help)")
    return parser


def _plan(options: argparse.Namespace) -> int:
    from experiments.checks import check_config, check_settings
    from experiments.config import ConfigError
    from experiments.planning.calibrate import calibrate
    from experiments.planning.machines import named_machine, this_machine
    from experiments.planning.measured import compare
    from experiments.planning.plan import make_plan
    from experiments.planning.setup import describe
    from experiments.show.plan_console import print_comparison, print_plan

    quieten()
    config, summary = _read(options)
    (check_config if options.gpu is None else check_settings)(config)
    if options.gpu is None:
        machine = this_machine(config, options.memory, options.disk)
    elif options.calibrate:
        raise ConfigError(f"--calibrate times this machine, not {options.gpu}; leave one of them out")
    else:
        machine = named_machine(options.gpu, options.memory, options.disk, config.trainer.devices)
    rates = calibrate(describe(config, machine)) if options.calibrate else None
    plan = make_plan(config, machine, rates)
    if summary is None:
        print_plan(plan)
    else:
        print_comparison(plan, compare(plan, summary["times_s"]), summary["stopped"])
    return 0


def _read(options: argparse.Namespace) -> tuple["ExperimentConfig", dict[str, Any] | None]:
    """The configuration, and the summary of the run that it is of; None = it is of none."""
    from experiments.config import ConfigError, load_config, read_config
    from experiments.runs import RunFolder

    if options.against is None:
        return load_config(options.exp, options.overrides), None
    if options.overrides:
        raise ConfigError(f"--against takes the settings of the run; leave {' '.join(options.overrides)} out")
    run = RunFolder(Path(options.against))
    if not (run.config.is_file() and run.is_finished):
        raise ConfigError(f"--against {options.against}: not the folder of a finished run")
    return read_config(run.config), run.read_summary()


if __name__ == "__main__":
    sys.exit(main())
