"""What each factor of the part `collapse` does, against gains that are made of known effects."""

from types import SimpleNamespace

import numpy as np
import pytest

from experiments.study import collapse
from experiments.study.cells import Result, exactly
from experiments.study.derived.of_collapse import add_collapse
from experiments.study.numbers import Numbers
from experiments.study.pages import collapse_page

EFFECTS = {
    "step1-40": 0.04,
    "rank": -0.05,
    "shuffled": 0.02,
    "index": 0.0,
    "1e-4": -0.1,
    "1e-4-warmed-up": -0.04,
    "taken-off": 0.03,
}
NUM_QUESTIONS = 40


def result_of(cell, noise):
    gain = sum(EFFECTS.get(value, 0.0) for _, value in cell.factors)
    values = list(gain + noise)
    return Result(
        cell,
        measures={"words": exactly(80.0)},
        questions={
            "gain/hr_at_5": values,
            "gain/beyond_length": [value / 2 for value in values],
            "validation/hr_at_5@0": [1.0, 0.0],
            "validation/hr_at_5@8": [0.0, 0.0],
        },
    )


@pytest.fixture
def results():
    generator = np.random.default_rng(0)
    noise = generator.normal(0, 0.001, NUM_QUESTIONS)
    return [result_of(cell, noise) for cell in collapse.cells(range(2))]


def numbers_of(results):
    numbers = Numbers()
    add_collapse(numbers, results)
    return numbers


def effects_of(numbers):
    """By both levels."""
    found = numbers.having("collapse", "level", "instead_of")
    return {f"{of['level']} instead of {of['instead_of']}": of.measures for of in found}


def test_effects_are_those_that_gains_are_made_of(results, tmp_path):
    (tmp_path / "out").mkdir()
    numbers = numbers_of(results)
    sentences, page = collapse_page.of_collapse(results, numbers, tmp_path / "out")
    effects = effects_of(numbers)
    found = {
        words: (
            of["pairs_up"].mean + of["pairs_down"].mean,
            of["gain/hr_at_5"].mean,
            of["gain/beyond_length"].mean,
        )
        for words, of in effects.items()
    }
    wanted = {
        "step1-40 instead of initial": (36, 0.04),
        "rank instead of independent": (24, -0.05),
        "shuffled instead of rank": (24, 0.07),
        "shuffled instead of independent": (24, 0.02),
        "1e-4-warmed-up instead of 3e-5": (24, -0.04),
        "1e-4 instead of 3e-5": (24, -0.1),
        "1e-4-warmed-up instead of 1e-4": (24, 0.06),
        "taken-off instead of as-it-is": (36, 0.03),
    }
    assert found.pop("index instead of both")[1] == pytest.approx(0.0)
    assert found == {
        words: (pairs, pytest.approx(effect), pytest.approx(effect / 2))
        for words, (pairs, effect) in wanted.items()
    }
    tiny = 1e-9
    gains = [of["gain/hr_at_5"] for of in effects.values()]
    assert all(of.low - tiny <= of.mean <= of.high + tiny for of in gains)
    rank = effects["rank instead of independent"]
    assert (rank["pairs_up"].mean, rank["pairs_down"].mean, rank["pairs_up"].n) == (0, 24, 24)
    for source in ("both", "index"):
        of_source = numbers.at("collapse", level="rank", instead_of="independent", candidates=source)
        assert of_source["gain/hr_at_5"].mean == pytest.approx(-0.05)
    counts = numbers.at("collapse")
    assert counts["combinations"].mean == 72
    assert counts["surely_lower"].mean == sum(
        of.measures["gain/hr_at_5"].high < 0 for of in numbers.having("collapse", *collapse.FACTORS)
    )
    of_combinations = [of.measures for of in numbers.having("collapse", *collapse.FACTORS)]
    assert counts["surely_lower_beyond_length"].mean == sum(
        of["gain/beyond_length"].high < 0 for of in of_combinations
    )
    assert counts["surely_higher_by_chance"].mean == pytest.approx(1.8)
    assert "By chance alone about 2 would be surely above it." in sentences[0]
    for shown in ("rank", "shuffled", "independent"):
        of_candidates = numbers.at("collapse", level="index", instead_of="both", shown=shown)
        assert of_candidates["gain/hr_at_5"].mean == pytest.approx(0.0)
    assert sum("| index instead of both | " in line for line in page) == 4
    assert "144 of 144 cells have been run." in page
    assert sentences[1].startswith("What changes it, on average over all else: 1e-4 instead of 3e-5 -0.100")
    assert "<svg" in (tmp_path / "out" / "collapse.svg").read_text()[:2000]


def test_combinations_that_lack_a_seed_are_left_out_of_effects_and_counts(results, tmp_path):
    kept = [of for of in results if not (of.cell.seed == 1 and of.cell["rate"] == "1e-4")]
    numbers = numbers_of(kept)
    words = effects_of(numbers)
    assert "1e-4 instead of 3e-5" not in words
    assert "rank instead of independent" in words
    counts = numbers.at("collapse")
    assert {of: counts[of].mean for of in ("combinations", "lack_a_seed", "cells_run", "cells")} == {
        "combinations": 48,
        "lack_a_seed": 24,
        "cells_run": 120,
        "cells": 144,
    }
    with_low_rate = [
        of
        for of in numbers.having("collapse", *collapse.FACTORS)
        if of["rate"] != "1e-4" and of.measures["gain/hr_at_5"].high < 0
    ]
    assert counts["surely_lower"].mean == len(with_low_rate) > 0
    sentences, _ = collapse_page.of_collapse(kept, numbers, tmp_path)
    assert sentences[0] == "24 combinations lack a seed and are in no count."
    assert "rank index 1e-4 " not in sentences[1]


def test_without_results_there_is_no_page(tmp_path):
    assert collapse_page.of_collapse([], numbers_of([]), tmp_path) == ([], [])


@pytest.mark.parametrize(
    ("rate", "peak", "warmup_steps"),
    [("3e-5", 3e-5, None), ("1e-4", 1e-4, None), ("1e-4-warmed-up", 1e-4, 32)],
)
def test_a_rate_that_rises_for_half_of_the_steps(rate, peak, warmup_steps, monkeypatch):
    monkeypatch.setattr(collapse, "measure_and_teach", lambda cell, teacher, lesson, *rest: lesson)
    material = SimpleNamespace(config=SimpleNamespace(trainer=SimpleNamespace(max_steps=32)))
    [cell, *_] = [cell for cell in collapse.cells([0]) if cell["rate"] == rate]
    lesson = collapse.run(cell, material, None)
    assert (lesson.rate, lesson.num_steps, lesson.warmup_steps) == (peak, 64, warmup_steps)
