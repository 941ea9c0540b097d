"""What each factor of the part `collapse` does, against gains that are made of known effects."""

from functools import partial
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
    "5e-6": 0.01,
    "1e-4": -0.1,
    "1e-4-warmed-up": -0.04,
    "taken-off": 0.03,
    # without a reader
    "uniform": 0.001,
    "order": 0.002,
    "labels": 0.003,
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
        "step1-40 instead of initial": (48, 0.04),
        "rank instead of independent": (32, -0.05),
        "shuffled instead of rank": (32, 0.07),
        "shuffled instead of independent": (32, 0.02),
        "3e-5 instead of 5e-6": (24, -0.01),
        "1e-4 instead of 5e-6": (24, -0.11),
        "1e-4-warmed-up instead of 5e-6": (24, -0.05),
        "1e-4-warmed-up instead of 3e-5": (24, -0.04),
        "1e-4 instead of 3e-5": (24, -0.1),
        "1e-4-warmed-up instead of 1e-4": (24, 0.06),
        "taken-off instead of as-it-is": (48, 0.03),
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
    assert (rank["pairs_up"].mean, rank["pairs_down"].mean, rank["pairs_up"].n) == (0, 32, 32)
    for source in ("both", "index"):
        of_source = numbers.at("collapse", level="rank", instead_of="independent", candidates=source)
        assert of_source["gain/hr_at_5"].mean == pytest.approx(-0.05)
    counts = numbers.at("collapse")
    assert counts["combinations"].mean == 96
    assert counts["surely_lower"].mean == sum(
        of.measures["gain/hr_at_5"].high < 0 for of in numbers.having("collapse", *collapse.FACTORS)
    )
    of_combinations = [of.measures for of in numbers.having("collapse", *collapse.FACTORS)]
    assert counts["surely_lower_beyond_length"].mean == sum(
        of["gain/beyond_length"].high < 0 for of in of_combinations
    )
    assert counts["surely_higher_by_chance"].mean == pytest.approx(2.4)
    assert "By chance alone about 2 would be surely above it." in sentences[0]
    of_rates = [numbers.at("collapse", rate=rate) for rate in collapse.RATES]
    assert [of["combinations"].mean for of in of_rates] == [24] * 4
    assert sum(of["surely_lower"].mean for of in of_rates) == counts["surely_lower"].mean
    assert (of_rates[0]["surely_lower"].mean, of_rates[2]["surely_lower"].mean) == (4, 24)
    assert "| 1e-4 | 24 | 24 | 0 | 24 | 0 |" in page
    for shown in ("rank", "shuffled", "independent"):
        of_candidates = numbers.at("collapse", level="index", instead_of="both", shown=shown)
        assert of_candidates["gain/hr_at_5"].mean == pytest.approx(0.0)
    assert sum("| index instead of both | " in line for line in page) == 4
    assert "240 of 240 cells have been run." in page
    assert sentences[1].startswith("What changes it, on average over all else: 1e-4 instead of 5e-6 -0.110")
    assert sentences[2].startswith("By rate: at 5e-6 4 of 24 end surely below their start and ")
    assert (
        "; at 1e-4 24 of 24 end surely below their start and 0 surely above it, less uniform " in sentences[2]
    )
    assert "<svg" in (tmp_path / "out" / "collapse.svg").read_text()[:2000]


def test_what_validations_say_after_each_doubling_of_the_steps(results, tmp_path):
    """One of two questions is found at the start, fewer later, the higher the rate; seeds differ."""
    lost = {"5e-6": 0.0, "3e-5": 0.1, "1e-4": 0.5, "1e-4-warmed-up": 0.2}
    for of in results:
        for step in range(0, 65, 8):
            found = 1.0 - lost[of.cell["rate"]] * (step / 64) * (1 + of.cell.seed)
            of.questions[f"validation/hr_at_5@{step}"] = [found, 0.0]
    numbers = numbers_of(results)
    for rate, of_rate in lost.items():
        for step in range(8, 65, 8):
            at = numbers.at("collapse", rate=rate, steps=str(step))["validation/hr_at_5_less_start"]
            assert at.mean == pytest.approx(-of_rate * step / 64 * 1.5 / 2)
    _, page = collapse_page.of_collapse(results, numbers, tmp_path)
    assert "| rate | 8 steps | 16 steps | 32 steps | 64 steps |" in page
    [row] = [line for line in page if line.startswith("| 1e-4 | -0.0")]
    assert row.split(" | ")[4].startswith("-0.375 [")


def test_teachers_stand_beside_those_without_a_reader_at_the_same_rate(results, tmp_path):
    """All else has effects of its own, that go away in the mean, as those of readers and lengths do not."""
    near = partial(pytest.approx, abs=2e-4)
    numbers = numbers_of(results)
    of_all = (EFFECTS["step1-40"] + EFFECTS["taken-off"]) / 2 + (EFFECTS["rank"] + EFFECTS["shuffled"]) / 3
    gains = {"uniform": 0.001, "order": 0.002, "labels": 0.003}
    for rate in collapse.RATES:
        for source in ("both", "index"):
            at = {"candidates": source, "rate": rate}
            of_rate = EFFECTS.get(rate, 0.0)
            assert numbers.at("collapse", **at)["gain/hr_at_5"].mean == near(of_rate + of_all)
            for control, gain in gains.items():
                found = numbers.at("collapse", control=control, **at)
                assert found["gain/hr_at_5"].mean == near(of_rate + gain)
            less = numbers.at("collapse", less="uniform", **at)
            assert less["gain/hr_at_5"].mean == near(of_all - 0.001)
            assert less["gain/beyond_length"].mean == near((of_all - 0.001) / 2)
    _, page = collapse_page.of_collapse(results, numbers, tmp_path)
    head = (
        "| candidates | rate | gain, with a reader | uniform | order | labels | with a reader less uniform |"
    )
    assert head in page
    without = [of for of in results if not collapse.is_control(of.cell) or of.cell["control"] != "uniform"]
    assert not numbers_of(without).at("collapse", less="uniform", candidates="both", rate="1e-4")
    _, page = collapse_page.of_collapse(without, numbers_of(without), tmp_path)
    assert sum(line.endswith(" | - |") and line.startswith("| both | 1e-4 |") for line in page) == 2
    alone = [of for of in results if not collapse.is_control(of.cell)]
    _, page = collapse_page.of_collapse(alone, numbers_of(alone), tmp_path)
    assert head not in page
    assert "192 of 240 cells have been run." in "".join(page)


def test_controls_teach_from_the_candidates_of_their_source(monkeypatch):
    monkeypatch.setattr(collapse, "measure_and_teach", lambda cell, teacher, *rest: teacher)
    material = SimpleNamespace(config=SimpleNamespace(trainer=SimpleNamespace(max_steps=32)))
    found = [
        (cell["control"], cell["candidates"], collapse.run(cell, material, None))
        for cell in collapse.cells([0])
        if collapse.is_control(cell) and cell["rate"] == "5e-6"
    ]
    assert len(found) == 6
    for control, source, teacher in found:
        assert (teacher.control, teacher.source.value, teacher.reading) == (control, source, None)


def test_combinations_that_lack_a_seed_are_left_out_of_effects_and_counts(results, tmp_path):
    kept = [of for of in results if not (of.cell.seed == 1 and of.cell["rate"] == "1e-4")]
    numbers = numbers_of(kept)
    words = effects_of(numbers)
    assert "1e-4 instead of 3e-5" not in words
    assert "rank instead of independent" in words
    counts = numbers.at("collapse")
    assert {of: counts[of].mean for of in ("combinations", "lack_a_seed", "cells_run", "cells")} == {
        "combinations": 72,
        "lack_a_seed": 24,
        "cells_run": 210,
        "cells": 240,
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
    [("5e-6", 5e-6, None), ("3e-5", 3e-5, None), ("1e-4", 1e-4, None), ("1e-4-warmed-up", 1e-4, 32)],
)
def test_a_rate_that_rises_for_half_of_the_steps(rate, peak, warmup_steps, monkeypatch):
    monkeypatch.setattr(collapse, "measure_and_teach", lambda cell, teacher, lesson, *rest: lesson)
    material = SimpleNamespace(config=SimpleNamespace(trainer=SimpleNamespace(max_steps=32)))
    [cell, *_] = [cell for cell in collapse.cells([0]) if cell["rate"] == rate]
    lesson = collapse.run(cell, material, None)
    assert (lesson.rate, lesson.num_steps, lesson.warmup_steps) == (peak, 64, warmup_steps)
