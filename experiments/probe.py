"""A pre-flight check: `python -m experiments.probe --exp NAME [key=value ...]` says go, no-go or unsure."""

import argparse
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from experiments.command_line import quieten, run_command


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line; returns the exit code (0, 2 for a mistake of the user's, 130 for Ctrl-C)."""
    options = _parser().parse_intermixed_args(arguments)
    return run_command(lambda: _probe(options))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m experiments.probe", description=__doc__)
    parser.add_argument("--exp", metavar="NAME", required=True, help="the experiment that is thought of")
    parser.add_argument("--instances", type=int, default=200, help="questions read, at most (200)")
    parser.add_argument("--split", choices=("train", "validation", "test"), default="validation")
    parser.add_argument("--compare", type=int, default=24, help="of them compared with other variants (24)")
    parser.add_argument("--calibrations", action="store_true", help="also compare calibrated signals")
    parser.add_argument("--reranker", metavar="NAME", help="also compare with a cross-encoder")
    parser.add_argument("--all", action="store_true", help="read all, also when the verdict is clear")
    parser.add_argument("--out", metavar="FOLDER", help="default: RUNS/probes/NAME/DATE")
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="settings (see run --help)")
    return parser


def _probe(options: argparse.Namespace) -> int:
    from experiments.checks import check_config
    from experiments.config import ConfigError, load_config

    config = load_config(options.exp, options.overrides)
    check_config(config)
    if options.instances < 2 or options.compare < 0:
        raise ConfigError("--instances must be at least 2 and --compare at least 0")
    from experiments.preflight_run import run_preflight, save_preflight
    from experiments.runs import with_runs_named, with_template_text
    from experiments.show.preflight_console import print_preflight
    from experiments.show.preflight_page import write_page
    from lightning_modules.preflight import PreflightSettings

    # the verdict is on what these are now, and is not quoted for runs with another one
    config = with_template_text(with_runs_named(config))
    quieten()
    started = time.perf_counter()
    settings = PreflightSettings(
        num_instances=options.instances,
        num_compared=options.compare,
        batch_size=config.data.evaluation_batch_size,
        calibrations=options.calibrations,
    )
    print(f"pre-flight check of {config.name}: {config.description}", flush=True)
    result = run_preflight(
        config, settings, options.split, stops_early=not options.all, reranker=options.reranker
    )
    seconds = time.perf_counter() - started
    stamp = time.strftime("%Y%m%d-%H%M%S")
    folder = Path(options.out or Path(config.runs) / "probes" / config.name / stamp)
    save_preflight(result, config, options.split, seconds, folder / "probe.json")
    write_page(result, config.name, config.description, options.split, folder / "probe.html")
    print_preflight(result, options.split)
    print(f"{seconds:.0f} seconds; saved: {folder / 'probe.json'} and probe.html")
    return 0


if __name__ == "__main__":
    sys.exit(main())
