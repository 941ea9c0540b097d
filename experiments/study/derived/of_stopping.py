"""How the stopping rule does, replayed on the runs of parts `prediction` and `collapse`."""

from collections.abc import Sequence

import numpy as np

from experiments.study import stopping
from experiments.study.cells import Result, exactly
from experiments.study.numbers import Numbers
from experiments.study.prediction import GAIN
from experiments.study.stopping import Replayed
from lightning_modules.metrics.estimates import Estimate

FIRST = str(stopping.PATIENCES[0])
"""The patience whose stops are shown one by one."""


def add_stopping(numbers: Numbers, results: Sequence[Result]) -> None:
    """With each patience, and each stop of the first one."""
    for patience in map(str, stopping.PATIENCES):
        runs = stopping.replay(results, int(patience))
        if not runs:
            return
        numbers.add(stopping.NAME, _counts(runs) | _steps(runs), patience=patience)
        for run in runs:
            if patience == FIRST and run.stopped_at is not None:
                of_run = {"stopped_at": exactly(run.stopped_at), "end": exactly(run.end), GAIN: run.test}
                numbers.add(stopping.NAME, of_run, patience=patience, run=run.cell)


def _counts(runs: Sequence[Replayed]) -> dict[str, Estimate]:
    stopped = [run for run in runs if run.saves_steps]
    of_all = {
        "runs": len(runs),
        "end_surely_lower": sum(run.ended_lower for run in runs),
        "stopped": len(stopped),
        "stopped_by_the_last": sum(run.stopped_at == run.num_steps for run in runs),
        "end_surely_lower_not_stopped": sum(run.is_missed for run in runs),
    }
    of_stopped = {
        "stopped_end_surely_lower": sum(run.ended_lower for run in stopped),
        "stopped_end_no_lower": sum(run.is_false for run in stopped),
        "stopped_come_back": sum(run.came_back for run in stopped),
    }
    return {name: exactly(number, len(runs)) for name, number in of_all.items()} | {
        name: exactly(number, len(stopped)) for name, number in of_stopped.items()
    }


def _steps(runs: Sequence[Replayed]) -> dict[str, Estimate]:
    """Shares of steps that are saved, and steps from the first lower validation to the stop."""
    stopped = [run for run in runs if run.saves_steps]
    late = [run.late for run in stopped if run.late is not None]
    saved = np.average([run.saved for run in runs], weights=[run.num_steps for run in runs])
    found = {"steps_saved": exactly(saved, len(runs))}
    if stopped:
        of_stopped = float(np.mean([run.saved for run in stopped]))
        found["steps_saved_of_stopped"] = exactly(of_stopped, len(stopped))
    if late:
        found["steps_to_the_stop"] = exactly(float(np.mean(late)), len(late))
    return found
