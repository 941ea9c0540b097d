"""What becomes of a retriever by the factors of part `collapse`, and what each factor does."""

from collections.abc import Collection, Mapping, Sequence
from itertools import combinations, product
from typing import TypeVar

import numpy as np
from jaxtyping import Float

from experiments.study import collapse
from experiments.study.analysis import SURE_BY_CHANCE, crossed_estimate, over_seeds
from experiments.study.cells import Result, exactly, of_part
from experiments.study.numbers import Numbers
from experiments.study.prediction import BEYOND_LENGTH, GAIN
from experiments.study.stopping import validations_of
from lightning_modules.metrics.estimates import Estimate

APART, OF_CANDIDATES_APART = "candidates", "shown"
"""The factor for whose levels, each alone, the others' effects are computed; and that for its own effect."""
RATE, STEPS = "rate", "steps"
"""The factor whose levels stand apart in what validations say by step; and the name of those steps."""
VALIDATED = "validation/hr_at_5_less_start"
LESS = "uniform"
"""The control that is taken from the others."""
Combination = tuple[str, ...]
"""A level of each factor."""
_BySeed = Mapping[int, Result]
_Pair = tuple[_BySeed, _BySeed]
_T = TypeVar("_T")


def by_combination(results: Sequence[Result], *, controls: bool = False) -> dict[Combination, _BySeed]:
    """Results of the part by seed of each combination, of those with a reader or of the controls."""
    found: dict[Combination, dict[int, Result]] = {}
    for result in of_part(results, collapse.NAME):
        if collapse.is_control(result.cell) == controls:
            levels = tuple(value for _, value in result.cell.factors)
            found.setdefault(levels, {})[result.cell.seed] = result
    return dict(found)


def _having(by_levels: Mapping[Combination, _T], **fixed: str) -> list[_T]:
    """What is of the combinations with these levels of some factors."""
    places = {list(collapse.FACTORS).index(name): level for name, level in fixed.items()}
    return [
        of
        for levels, of in by_levels.items()
        if all(levels[place] == level for place, level in places.items())
    ]


def add_collapse(numbers: Numbers, results: Sequence[Result]) -> None:
    """Of each combination over its seeds, of all together, the effects of factors, and the way there."""
    by_levels = by_combination(results)
    if not by_levels:
        return
    seeds = sorted({seed for of_seeds in by_levels.values() for seed in of_seeds})
    whole = {levels: of for levels, of in by_levels.items() if set(of) == set(seeds)}
    found = {levels: _of_combination(list(of_seeds.values())) for levels, of_seeds in by_levels.items()}
    for levels, measures in found.items():
        numbers.add(collapse.NAME, measures, **dict(zip(collapse.FACTORS, levels, strict=True)))
    num_cells, num_run = len(collapse.cells(seeds)), len(of_part(results, collapse.NAME))
    cells = {
        "cells_run": exactly(num_run, num_cells),
        "cells": exactly(num_cells, num_cells),
        "lack_a_seed": exactly(len(by_levels) - len(whole), len(by_levels)),
    }
    of_whole = {levels: found[levels] for levels in whole}
    numbers.add(collapse.NAME, _counts(of_whole.values()) | cells)
    place = list(collapse.FACTORS).index(RATE)
    for rate in dict.fromkeys(levels[place] for levels in whole):
        numbers.add(collapse.NAME, _counts(_having(of_whole, rate=rate)), rate=rate)
    _add_effects(numbers, whole, seeds)
    _add_steps(numbers, whole, seeds)
    controls = by_combination(results, controls=True)
    _add_controls(numbers, {of: found for of, found in controls.items() if set(found) >= set(seeds)})
    _add_rates(numbers, whole, controls, seeds)


def _of_combination(of_seeds: Sequence[Result]) -> dict[str, Estimate]:
    words = float(np.mean([of.measures["words"].mean for of in of_seeds]))
    return {
        GAIN: over_seeds(of_seeds, GAIN),
        BEYOND_LENGTH: over_seeds(of_seeds, BEYOND_LENGTH),
        "words": exactly(words, len(of_seeds)),
    }


def _counts(found: Collection[Mapping[str, Estimate]]) -> dict[str, Estimate]:
    """Of combinations that have every seed."""
    counts = {
        "combinations": len(found),
        "surely_lower": sum(of[GAIN].high < 0 for of in found),
        "surely_higher": sum(of[GAIN].low > 0 for of in found),
        "surely_lower_beyond_length": sum(of[BEYOND_LENGTH].high < 0 for of in found),
        "surely_higher_beyond_length": sum(of[BEYOND_LENGTH].low > 0 for of in found),
        "surely_higher_by_chance": SURE_BY_CHANCE * len(found),
    }
    return {name: exactly(number, len(found)) for name, number in counts.items()}


# ---- what a factor does ----


def _add_effects(numbers: Numbers, whole: Mapping[Combination, _BySeed], seeds: Sequence[int]) -> None:
    """Of each factor a level instead of another, over combinations that have every seed."""
    for place, (factor, levels) in enumerate(collapse.FACTORS.items()):
        apart = OF_CANDIDATES_APART if factor == APART else APART
        for level, other in combinations(levels, 2):
            pairs = {
                of: (whole[of], whole[instead])
                for of in whole
                if of[place] == level and (instead := (*of[:place], other, *of[place + 1 :])) in whole
            }
            if pairs:
                _add_effect(numbers, pairs, seeds, apart, level=other, instead_of=level)


def _add_effect(
    numbers: Numbers, pairs: Mapping[Combination, _Pair], seeds: Sequence[int], apart: str, **factors: str
) -> None:
    """Over all pairs of combinations that differ in nothing else, and with each level of a further factor."""
    of_all = list(pairs.values())
    changes = [_changes([pair], seeds, GAIN).mean() for pair in of_all]
    measures = {
        "pairs_up": exactly(sum(change > 0 for change in changes), len(pairs)),
        "pairs_down": exactly(sum(change < 0 for change in changes), len(pairs)),
        GAIN: crossed_estimate(_changes(of_all, seeds, GAIN)),
        BEYOND_LENGTH: crossed_estimate(_changes(of_all, seeds, BEYOND_LENGTH)),
    }
    numbers.add(collapse.NAME, measures, **factors)
    by_level: dict[str, list[_Pair]] = {}
    for levels, pair in pairs.items():
        by_level.setdefault(levels[list(collapse.FACTORS).index(apart)], []).append(pair)
    if len(by_level) > 1:
        for level, of_level in by_level.items():
            of_gain = {GAIN: crossed_estimate(_changes(of_level, seeds, GAIN))}
            numbers.add(collapse.NAME, of_gain, **factors, **{apart: level})


def _changes(
    pairs: Sequence[_Pair], seeds: Sequence[int], outcome: str
) -> Float[np.ndarray, "seeds questions"]:
    """The mean over pairs."""
    return np.array(
        [
            np.mean(
                [
                    np.subtract(other[seed].questions[outcome], one[seed].questions[outcome])
                    for one, other in pairs
                ],
                axis=0,
            )
            for seed in seeds
        ]
    )


# ---- by the number of steps ----


def _add_steps(numbers: Numbers, whole: Mapping[Combination, _BySeed], seeds: Sequence[int]) -> None:
    """Of each rate what the validations have changed by after so many steps, over all else."""
    for rate in collapse.FACTORS[RATE]:
        of_rate = _having(whole, rate=rate)
        if not of_rate:
            continue
        validated = [[validations_of(of_seeds[seed]) for of_seeds in of_rate] for seed in seeds]
        start, *later = validated[0][0]  # all cells validate after the same steps
        for step in later:
            changes = np.array(
                [np.mean([hits[step] - hits[start] for hits in of_seed], axis=0) for of_seed in validated]
            )
            numbers.add(collapse.NAME, {VALIDATED: crossed_estimate(changes)}, rate=rate, steps=str(step))


# ---- beside no reader ----


def _add_controls(numbers: Numbers, controls: Mapping[Combination, _BySeed]) -> None:
    """Of each control that has every seed."""
    for levels, of_seeds in controls.items():
        factors = dict(zip(collapse.FACTORS_OF_CONTROLS, levels, strict=True))
        numbers.add(collapse.NAME, _of_combination(list(of_seeds.values())), **factors)


def _add_rates(
    numbers: Numbers,
    whole: Mapping[Combination, _BySeed],
    controls: Mapping[Combination, _BySeed],
    seeds: Sequence[int],
) -> None:
    """Of each rate and source of candidates the mean over all else, and that less what no teacher does."""
    for source, rate in product(collapse.FACTORS[APART], collapse.FACTORS[RATE]):
        factors = {APART: source, RATE: rate}
        found = _having(whole, **factors)
        if not found:
            continue
        of_rate = {outcome: _over(found, seeds, outcome) for outcome in (GAIN, BEYOND_LENGTH)}
        numbers.add(collapse.NAME, _estimates(of_rate), **factors)
        nobody = controls.get((LESS, source, rate), {})
        if set(nobody) >= set(seeds):
            less = {outcome: of - _over([nobody], seeds, outcome) for outcome, of in of_rate.items()}
            numbers.add(collapse.NAME, _estimates(less), less=LESS, **factors)


def _over(
    found: Sequence[_BySeed], seeds: Sequence[int], outcome: str
) -> Float[np.ndarray, "seeds questions"]:
    """The mean over combinations."""
    return np.array([np.mean([of[seed].questions[outcome] for of in found], axis=0) for seed in seeds])


def _estimates(of_outcomes: Mapping[str, Float[np.ndarray, "seeds questions"]]) -> dict[str, Estimate]:
    return {outcome: crossed_estimate(values) for outcome, values in of_outcomes.items()}
