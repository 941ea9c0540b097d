"""Runs a grid: `python -m experiments.sweep --exp NAME training.retriever_lr=1e-5,2e-5 seed=0,1,2`.

One run after the other, or a SLURM job array. The same command again leaves out what is finished, and goes on
with what is not. It ends in a report.
"""

import argparse
import itertools
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from experiments.command_line import INTERRUPTED, USER_ERROR, run_command

if TYPE_CHECKING:
    from experiments.runs import RunFolder

_LOCAL, _SLURM = "local", "slurm-array"


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line; returns the exit code (0, 2 for a mistake of the user's, 130 for Ctrl-C)."""
    options = _parser().parse_args(arguments)
    return run_command(lambda: _sweep(options))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m experiments.sweep", description=__doc__)
    parser.add_argument("--exp", metavar="NAME", required=True, help="the experiment")
    parser.add_argument("--launcher", choices=(_LOCAL, _SLURM), default=_LOCAL, help=f"default: {_LOCAL}")
    parser.add_argument(
        "--out",
        type=Path,
        metavar="PATH",
        help="folder of the report (default: report), or the job array's file (default: sweep.sbatch)",
    )
    parser.add_argument("overrides", nargs="+", metavar="key=a,b", help="settings, each one value or several")
    return parser


def _sweep(options: argparse.Namespace) -> int:
    from experiments.checks import check_config
    from experiments.config import load_config

    points = list(grid(options.overrides))
    for point in points:
        check_config(load_config(options.exp, point))
    print(f"{len(points)} runs of {options.exp}")
    if options.launcher == _SLURM:
        return _write_job_array(options.exp, points, options.out or Path("sweep.sbatch"))
    for number, point in enumerate(points, start=1):
        run = find_run_of(options.exp, point)
        named = " ".join(point)
        if run is not None and run.is_finished:
            print(f"{number}/{len(points)} {named}: finished already, {run.path}", flush=True)
            continue
        print(f"{number}/{len(points)} {named}{'' if run is None else ': going on'}", flush=True)
        begin = ["--exp", options.exp, *point] if run is None else ["--resume", str(run.path)]
        code = launch(begin)
        if code in (INTERRUPTED, USER_ERROR):
            print("the same command goes on with the rest", file=sys.stderr)
            return code
        if code:
            print(f"{named}: ended with code {code}", file=sys.stderr)
    from experiments import report

    found = [run for point in points if (run := find_run_of(options.exp, point)) is not None]
    return report.main([*(str(run.path) for run in found), "--out", str(options.out or "report")])


def launch(arguments: Sequence[str]) -> int:
    """A run in a process of its own, which may start others."""
    return subprocess.run([sys.executable, "-m", "experiments.run", *arguments], check=False).returncode


def grid(overrides: Sequence[str]) -> Iterator[list[str]]:
    """Every combination of the values, the last setting changing fastest.

    Commas within brackets, braces or quotation marks part no values.

    Example:
        >>> list(grid(["seed=0,1", "evaluation.hit_rate_ks=[1,5]"]))
        [['seed=0', 'evaluation.hit_rate_ks=[1,5]'], ['seed=1', 'evaluation.hit_rate_ks=[1,5]']]
    """
    choices = []
    for override in overrides:
        key, _, values = override.partition("=")
        parts = re.findall(r"""(?:\[[^]]*]|\{[^}]*}|"[^"]*"|'[^']*'|[^,])+""", values) or [""]
        choices.append([f"{key}={value}" for value in parts])
    yield from map(list, itertools.product(*choices))


def find_run_of(experiment: str, point: Sequence[str]) -> "RunFolder | None":
    """The newest run with just these settings, a finished one before any other; None = there is none."""
    from experiments.config import load_config, read_config
    from experiments.runs import runs_of, with_runs_named

    wanted = with_runs_named(load_config(experiment, point))
    same = [run for run in runs_of(experiment, Path(wanted.runs)) if read_config(run.config) == wanted]
    return max(same, key=lambda run: (run.is_finished, run.path.name), default=None)


def _write_job_array(experiment: str, points: Sequence[Sequence[str]], path: Path) -> int:
    """A script for sbatch with a task a run; partition, time and GPUs are the user's to add."""
    commands = (
        shlex.join(["python", "-m", "experiments.run", "--exp", experiment, *point]) for point in points
    )
    cases = "".join(f"  {number}) {command} ;;\n" for number, command in enumerate(commands))
    path.write_text(
        "#!/bin/bash\n"
        f"#SBATCH --job-name={experiment}\n"
        f"#SBATCH --array=0-{len(points) - 1}\n"
        "# add what your cluster asks for: --partition, --time, --gres=gpu:1, --mem\n"
        f'case "$SLURM_ARRAY_TASK_ID" in\n{cases}esac\n'
    )
    print(f"{path}: submit it with `sbatch {path}`; afterwards the same command without --launcher reports")
    return 0


if __name__ == "__main__":
    sys.exit(main())
