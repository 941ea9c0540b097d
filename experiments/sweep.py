"""Runs a grid: `python -m experiments.sweep --exp NAME training.retriever_lr=1e-5,2e-5 seed=0,1,2`.

One run after the other, or a SLURM job array. The same command again leaves out what is finished or has
failed, and goes on with what has not come to its end. It ends in a report.
"""

import argparse
import itertools
import os
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from experiments.command_line import FAILED, INTERRUPTED, USER_ERROR, run_command

if TYPE_CHECKING:
    from experiments.config import ExperimentConfig
    from experiments.runs import RunFolder

_LOCAL, _SLURM = "local", "slurm-array"


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line; returns the exit code.

    0; 1 where a run failed, now or earlier; 2 for a mistake of the user's; 130 for Ctrl-C.
    """
    options = _parser().parse_intermixed_args(arguments)
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
    parser.add_argument(
        "--only",
        type=int,
        metavar="NUMBER",
        help="this run of the grid alone, counted from 0, without a report: what a job array's task does",
    )
    parser.add_argument("overrides", nargs="+", metavar="key=a,b", help="settings, each one value or several")
    return parser


def _sweep(options: argparse.Namespace) -> int:
    from experiments.checks import check_config
    from experiments.config import ConfigError, load_config

    points = list(grid(options.overrides))
    if options.only is not None:
        if not 0 <= options.only < len(points):
            raise ConfigError(f"--only {options.only}: the grid has the runs 0 to {len(points) - 1}")
        return _run_only(options.exp, points[options.only])
    for point in points:
        check_config(load_config(options.exp, point))
    print(f"{len(points)} runs of {options.exp}")
    if options.launcher == _SLURM:
        return _write_job_array(options, points)
    num_failed = 0
    for number, point in enumerate(points, start=1):
        run = find_run_of(options.exp, point)
        named = " ".join(point)
        print(f"{number}/{len(points)} {named}{'' if run is None else f': {_state_of(run)}'}", flush=True)
        if run is not None and not run.can_go_on:
            num_failed += run.has_failed
            continue
        code = launch(_arguments(options.exp, point, run))
        if code in (INTERRUPTED, USER_ERROR):
            print("the same command goes on with the rest", file=sys.stderr)
            return code
        if code:
            num_failed += 1
            ended = find_run_of(options.exp, point)
            has_failed = ended is not None and ended.has_failed
            said = _state_of(ended) if ended is not None and has_failed else f"ended with code {code}"
            print(f"{named}: {said}", file=sys.stderr)
    code = _report(options, points)
    return FAILED if num_failed and not code else code


def _state_of(run: "RunFolder") -> str:
    """What has become of a run so far, and what becomes of it now."""
    if run.has_failed:
        return f"has failed, {run.path}; delete that folder to run these settings again"
    return f"finished already, {run.path}" if run.is_finished else f"going on, {run.path}"


def _report(options: argparse.Namespace, points: Sequence[Sequence[str]]) -> int:
    """Of the runs that there are; returns the exit code."""
    from experiments import report

    found = [run for point in points if (run := find_run_of(options.exp, point)) is not None]
    if not found:  # each has ended before it had a folder
        return FAILED
    return report.main([*(str(run.path) for run in found), "--out", str(options.out or "report")])


def _run_only(experiment: str, point: Sequence[str]) -> int:
    run = find_run_of(experiment, point)
    if run is None or run.can_go_on:
        return become(_arguments(experiment, point, run))
    print(f"{' '.join(point)}: {_state_of(run)}")
    return FAILED if run.has_failed else 0


def _arguments(experiment: str, point: Sequence[str], run: "RunFolder | None") -> list[str]:
    """What begins a run of these settings, or goes on with one."""
    return ["--exp", experiment, *point] if run is None else ["--resume", str(run.path)]


def become(arguments: Sequence[str]) -> int:
    """A run in place of this process: a scheduler's signals reach it, and its exit code the scheduler."""
    sys.stdout.flush()
    os.execv(sys.executable, [sys.executable, "-m", "experiments.run", *arguments])


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
    """The newest run with just these settings: a finished one, else one that can go on, else one that failed.

    None = there is none. Settings are compared as they were asked for, since a run resolves some of them.
    Whether a progress bar is shown, and whether a batch may be computed in parts, may differ; so may where
    the folder of all runs was at that time.
    """
    from experiments.config import load_config
    from experiments.runs import runs_of, with_runs_named, with_template_text

    config = with_template_text(with_runs_named(load_config(experiment, point)))
    runs = runs_of(experiment, Path(config.runs))
    same = [run for run in runs if _of_results(run.read_asked()) == _of_results(config)]
    return max(same, key=lambda run: (run.is_finished, run.can_go_on, run.path.name), default=None)


def _of_results(config: "ExperimentConfig") -> "ExperimentConfig":
    """Settings without those with which the result is the same."""
    return replace(config, runs="", trainer=replace(config.trainer, progress_bar=True, auto_batch=False))


def _write_job_array(options: argparse.Namespace, points: Sequence[Sequence[str]]) -> int:
    """A script for sbatch with a task a run; partition, time and GPUs are the user's to add.

    A task looks for its run when it starts: a requeued or resubmitted one goes on with what it finds.
    """
    path = options.out or Path("sweep.sbatch")
    tasks = "".join(f"#   {number}: {shlex.join(point)}\n" for number, point in enumerate(points))
    command = f"exec python -m experiments.sweep --exp {shlex.quote(options.exp)}"
    path.write_text(
        "#!/bin/bash\n"
        f"#SBATCH --job-name={options.exp}\n"
        f"#SBATCH --array=0-{len(points) - 1}\n"
        "# add what your cluster asks for: --partition, --time, --gres=gpu:1, --mem\n"
        f"# tasks:\n{tasks}"
        f'{command} --only "$SLURM_ARRAY_TASK_ID" {shlex.join(options.overrides)}\n'
    )
    print(
        f"{path}: submit it with `sbatch {path}`, again for what is not finished; afterwards the same "
        "command without --launcher reports"
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
