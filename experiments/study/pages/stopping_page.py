"""Page `stopping`: the stopping rule, replayed."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from experiments.study import stopping
from experiments.study.cells import Result
from experiments.study.pages.text import interval, table


def of_stopping(results: Sequence[Result], out: Path) -> tuple[list[str], list[str]]:
    """The findings in sentences, and the lines of the page; both empty without results."""
    rows, sentences = [], []
    for patience in stopping.PATIENCES:
        runs = stopping.replay(results, patience)
        if not runs:
            return [], []
        stopped = [run for run in runs if run.saves_steps]
        late = [run.late for run in stopped if run.late is not None]
        num_lower = sum(run.ended_lower for run in runs)
        num_last = sum(run.stopped_at == run.num_steps for run in runs)
        stopped_lower = sum(run.ended_lower for run in stopped)
        num_false, num_back = sum(run.is_false for run in stopped), sum(run.came_back for run in stopped)
        num_missed = sum(run.is_missed for run in runs)
        saved = np.average([run.saved for run in runs], weights=[run.num_steps for run in runs])
        rows.append(
            [
                str(patience),
                str(len(runs)),
                str(num_lower),
                str(len(stopped)),
                str(stopped_lower),
                str(num_false),
                str(num_back),
                str(num_last),
                str(num_missed),
                f"{np.mean(late):.1f}" if late else "-",
                f"{np.mean([run.saved for run in stopped]):.0%}" if stopped else "-",
                f"{saved:.0%}",
            ]
        )
        sentences.append(
            f"Replayed on {len(runs)} runs, of which {num_lower} end surely below their start, the rule with "
            f"patience {patience} stops {len(stopped)} before their end: {stopped_lower} of them end surely "
            f"lower, {num_false} no lower than they started, and {num_back} come back to their start in "
            f"a later validation. It lets {num_missed} go on that end surely lower, and saves "
            f"{saved:.0%} of all steps."
        )
    heads = [
        "patience",
        "runs",
        "end surely lower",
        "stopped before the end",
        "of them end surely lower",
        "of them end no lower",
        "of them come back in a later validation",
        "stopped by the last validation",
        "end surely lower, not stopped",
        "steps from the first lower validation to the stop",
        "share of their steps saved",
        "share of all steps saved",
    ]
    page = ["# The stopping rule, replayed", "", _OF_ALL_PARTS, ""]
    page += [
        "Every run of the study is validated every so many steps; the rule that a run has (a significant "
        "decline of the Hit Rate against the start, question by question) is asked after each what it would "
        "have done. *Surely lower*: of the questions that are measured on, by the interval of the change. "
        "Runs share questions and seeds, so that counts have no intervals; all of them have 32 or 64 steps, "
        "and none trains its reader.",
        "",
        *table(heads, rows),
    ]
    stopped_runs = [run for run in stopping.replay(results, 1) if run.stopped_at is not None]
    if stopped_runs:
        page += ["", "The runs that patience 1 stops:", ""]
        page += table(
            ["run", "stopped at", "change on validation at the end", "on the questions measured on"],
            [[f"`{r.cell}`", str(r.stopped_at), f"{r.end:+.3f}", interval(r.test)] for r in stopped_runs],
        )
    return sentences, page


_OF_ALL_PARTS = (
    "`python -m experiments.study`; [results.parquet](results.parquet), rows `validation/hr_at_5@STEP` of "
    "all parts that train."
)
