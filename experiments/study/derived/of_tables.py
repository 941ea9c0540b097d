"""What the settings of the paper's Table 1 gain, and in which order they come."""

from collections.abc import Mapping, Sequence

import numpy as np

from experiments.show.report_runs import paper_value
from experiments.study import tables
from experiments.study.analysis import crossed_estimate, over_seeds
from experiments.study.cells import Result, exactly, of_part
from experiments.study.numbers import Numbers
from experiments.study.prediction import BEYOND_LENGTH, GAIN
from lightning_modules.metrics.estimates import Estimate

PAPER = {"initial": "checkpoint", "off-the-shelf": "offshelf", "step-1": "step1", "step-2": "step2"}
"""What the paper's tables call a setting."""
DATA = "nq"
"""The paper's results that stand beside."""
COMPARED = (("step-1", "off-the-shelf"), ("step-2", "step-1"), ("step-2", "off-the-shelf"))
"""Settings of the paper's Table 1 of which the first has the higher HR@5 there; the last is its claim."""
BESIDE_CONTROL = ("off-the-shelf", "step-2")
"""Settings whose longer runs stand beside the control's."""
BASELINE = "BM25"
"""No setting: what ranks the same passages without a model."""
HITS, HITS_IN_PAPER, SEEDS = "hr_at_5", "paper/hr_at_5", "seeds"
LAST_LESS_FIRST, LAST_LESS_HIGHEST = "validation/last_less_first", "validation/last_less_highest"
"""Of the validations of a run, each a mean over questions; a fall after a rise shows in the second alone."""


def groups_of(results: Sequence[Result]) -> dict[str, list[Result]]:
    """Of each setting that has been run, in the paper's order; longer runs after its others."""
    found: dict[str, list[Result]] = {}
    order = list(tables.EXPERIMENTS)
    for result in sorted(
        of_part(results, tables.NAME),
        key=lambda of: (order.index(of.cell["setting"]), int(of.cell["steps"]), of.cell.seed),
    ):
        found.setdefault(tables.name_of(result.cell), []).append(result)
    return found


def add_tables(numbers: Numbers, results: Sequence[Result]) -> None:
    """Of each setting the gain over its seeds, and how far it is above others that the paper compares."""
    groups = groups_of(results)
    if of_bm25 := _bm25(results):
        numbers.add(tables.NAME, of_bm25, setting=BASELINE)
    for name, of_seeds in groups.items():
        setting = of_seeds[0].cell["setting"]
        numbers.add(tables.NAME, _paper(setting), setting=name)
        if setting in tables.LEARNS:
            numbers.add(tables.NAME, _gains(of_seeds), setting=name)
        numbers.add(tables.NAME, _validations(of_seeds), setting=name)
        if name != setting:
            _add_difference(numbers, groups, (name, setting), longer_than=setting)
    for num_steps in dict.fromkeys((tables.NUM_STEPS, *tables.LONGER.values())):
        for setting, other in COMPARED:
            names = (tables.name_with(setting, num_steps), tables.name_with(other, num_steps))
            _add_difference(numbers, groups, names, _less_in_paper(setting, other), less=names[1])
        for setting in BESIDE_CONTROL:
            names = (tables.name_with(setting, num_steps), tables.name_with(tables.CONTROL, num_steps))
            _add_difference(numbers, groups, names, control=names[1])
        if groups:
            numbers.add(tables.NAME, _runs(results, num_steps), steps=str(num_steps))


def _add_difference(
    numbers: Numbers,
    groups: Mapping[str, Sequence[Result]],
    names: tuple[str, str],
    theirs: Mapping[str, Estimate] | None = None,
    **factors: str,
) -> None:
    """Of the first group less the second, and the paper's; nothing where no seed has been run of both."""
    if set(names) <= groups.keys() and (found := _difference(groups, *names)):
        numbers.add(tables.NAME, {**found, **(theirs or {})}, setting=names[0], **factors)


def _bm25(results: Sequence[Result]) -> dict[str, Estimate]:
    """Of the runs that measured it, which all have the same questions and passages."""
    found = [
        of.measures[tables.HITS_OF_BM25].mean
        for of in of_part(results, tables.NAME)
        if tables.HITS_OF_BM25 in of.measures
    ]
    return {HITS: exactly(float(np.mean(found)), len(found))} if found else {}


def _paper(setting: str) -> dict[str, Estimate]:
    found = paper_value("table1", PAPER.get(setting, setting), DATA, "hr5")
    return {} if found is None else {HITS_IN_PAPER: exactly(found[0], 1)}


def _gains(of_seeds: Sequence[Result]) -> dict[str, Estimate]:
    beyond = [of.measures[BEYOND_LENGTH] for of in of_seeds]
    return {
        GAIN: over_seeds(of_seeds, GAIN),
        BEYOND_LENGTH: exactly(float(np.mean([of.mean for of in beyond])), len(beyond)),
        "seeds_surely_above_0": exactly(sum(of.low > 0 for of in beyond), len(beyond)),
    }


def _less_in_paper(setting: str, other: str) -> dict[str, Estimate]:
    one, less = (_paper(of)[HITS_IN_PAPER].mean for of in (setting, other))
    return {HITS_IN_PAPER: exactly(one - less)}


def _validations(of_seeds: Sequence[Result]) -> dict[str, Estimate]:
    """How the last one compares with others of its run, the mean over runs; empty where none is trained."""
    curves = [list(curve.values()) for curve in map(tables.validations_of, of_seeds) if len(curve) > 1]
    if not curves:
        return {}
    changes = {
        LAST_LESS_FIRST: [curve[-1] - curve[0] for curve in curves],
        LAST_LESS_HIGHEST: [curve[-1] - max(curve) for curve in curves],
    }
    return {name: exactly(float(np.mean(of)), len(of)) for name, of in changes.items()}


def _runs(results: Sequence[Result], num_steps: int) -> dict[str, Estimate]:
    """How many there are of so many steps, with how many seeds, and how many ended before their last step."""
    of_steps = [of for of in of_part(results, tables.NAME) if int(of.cell["steps"]) == num_steps]
    seeds = {result.cell.seed for result in of_steps}
    validated = [curve for curve in map(tables.validations_of, of_steps) if curve]
    return {
        "runs": exactly(len(of_steps), len(of_steps)),
        SEEDS: exactly(len(seeds), len(seeds)),
        "ended_early": exactly(sum(max(curve) < num_steps for curve in validated), len(validated)),
    }


def _difference(groups: Mapping[str, Sequence[Result]], above: str, setting: str) -> dict[str, Estimate]:
    """Of HR@5, over the seeds that both have, and their questions; empty where there is no such seed."""
    by_seed = {result.cell.seed: result.questions[tables.HITS] for result in groups[setting]}
    pairs = [
        np.subtract(result.questions[tables.HITS], by_seed[result.cell.seed])
        for result in groups[above]
        if result.cell.seed in by_seed
    ]
    if not pairs:
        return {}
    return {HITS: crossed_estimate(np.array(pairs)), SEEDS: exactly(len(pairs), len(pairs))}
