"""What a run takes, and whether it fits: `python -m experiments.plan --exp NAME [key=value ...]`."""

import argparse
import sys
from collections.abc import Sequence

from experiments.command_line import quieten, run_command


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line; returns the exit code (0, 2 for a mistake of the user's, 130 for Ctrl-C)."""
    options = _parser().parse_args(arguments)
    return run_command(lambda: _plan(options))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m experiments.plan", description=__doc__)
    parser.add_argument("--exp", metavar="NAME", required=True, help="the experiment that is thought of")
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
    from experiments.config import ConfigError, load_config
    from experiments.planning.calibrate import calibrate
    from experiments.planning.machines import named_machine, this_machine
    from experiments.planning.plan import make_plan
    from experiments.planning.setup import describe
    from experiments.show.plan_console import print_plan

    quieten()
    config = load_config(options.exp, options.overrides)
    (check_config if options.gpu is None else check_settings)(config)
    if options.gpu is None:
        machine = this_machine(config, options.memory, options.disk)
    elif options.calibrate:
        raise ConfigError(f"--calibrate times this machine, not {options.gpu}; leave one of them out")
    else:
        machine = named_machine(options.gpu, options.memory, options.disk, config.trainer.devices)
    rates = calibrate(describe(config, machine)) if options.calibrate else None
    print_plan(make_plan(config, machine, rates))
    return 0


if __name__ == "__main__":
    sys.exit(main())
