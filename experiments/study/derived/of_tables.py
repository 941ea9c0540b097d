"""What the settings of the paper's Table 1 gain, and in which order they come."""

from collections.abc import Mapping, Sequence
from itertools import pairwise

import numpy as np

from experiments.show.report_runs import paper_value
from experiments.study import tables
from experiments.study.analysis import crossed_estimate, over_seeds
from experiments.study.cells import Result, of_part
from experiments.study.numbers import Numbers, counted, without_interval
from experiments.study.prediction import BEYOND_LENGTH, GAIN
from lightning_modules.metrics.estimates import Estimate

PAPER = {"initial": "checkpoint", "off-the-shelf": "offshelf", "step-1": "step1", "step-2": "step2"}
"""What the paper's tables call a setting."""
DATA = "nq"
"""The paper's results that stand beside."""
ORDER = ("off-the-shelf", "step-1", "step-2")
"""Settings of the paper's Table 1, whose HR@5 rises in this order there."""
HITS, HITS_IN_PAPER = "hr_at_5", "paper/hr_at_5"


def groups_of(results: Sequence[Result]) -> dict[str, list[Result]]:
    """Of each setting that has been run, in the paper's order; longer runs after its others."""
    found: dict[str, list[Result]] = {}
    order = list(tables.SETTINGS)
    for result in sorted(
        of_part(results, tables.NAME),
        key=lambda of: (order.index(of.cell["setting"]), int(of.cell["steps"]), of.cell.seed),
    ):
        found.setdefault(tables.name_of(result.cell), []).append(result)
    return found


def add_tables(numbers: Numbers, results: Sequence[Result]) -> None:
    """Of each setting the gain over its seeds; of each in `ORDER` how far it is above the one before."""
    groups = groups_of(results)
    for name, of_seeds in groups.items():
        setting = of_seeds[0].cell["setting"]
        numbers.add(tables.NAME, _paper(setting), setting=name)
        if setting in tables.LEARNS:
            numbers.add(tables.NAME, _gains(of_seeds), setting=name)
        if name != setting and setting in groups:
            more = {HITS: _difference(groups, name, setting)}
            numbers.add(tables.NAME, more, setting=name, longer_than=setting)
    if all(setting in groups for setting in ORDER):
        for setting, above in pairwise(ORDER):
            theirs = [_paper(of)[HITS_IN_PAPER].mean for of in (above, setting)]
            found = {
                HITS: _difference(groups, above, setting),
                HITS_IN_PAPER: without_interval(theirs[0] - theirs[1], 1),
            }
            numbers.add(tables.NAME, found, setting=above, less=setting)


def _paper(setting: str) -> dict[str, Estimate]:
    found = paper_value("table1", PAPER.get(setting, setting), DATA, "hr5")
    return {} if found is None else {HITS_IN_PAPER: without_interval(found[0], 1)}


def _gains(of_seeds: Sequence[Result]) -> dict[str, Estimate]:
    beyond = [of.measures[BEYOND_LENGTH] for of in of_seeds]
    return {
        GAIN: over_seeds(of_seeds, GAIN),
        BEYOND_LENGTH: without_interval(float(np.mean([of.mean for of in beyond])), len(beyond)),
        "seeds_surely_above_0": counted(sum(of.low > 0 for of in beyond), len(beyond)),
    }


def _difference(groups: Mapping[str, Sequence[Result]], above: str, setting: str) -> Estimate:
    """Of HR@5, over the seeds that both have, and their questions."""
    by_seed = {result.cell.seed: result.questions[tables.HITS] for result in groups[setting]}
    pairs = [
        np.subtract(result.questions[tables.HITS], by_seed[result.cell.seed])
        for result in groups[above]
        if result.cell.seed in by_seed
    ]
    return crossed_estimate(np.array(pairs))
