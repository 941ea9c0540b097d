"""What each factor of the part `collapse` does, against gains that are made of known effects."""

from types import SimpleNamespace

import numpy as np
import pytest

from experiments.study import collapse
from experiments.study.cells import Result, exactly
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


def test_effects_are_those_that_gains_are_made_of(results, tmp_path):
    (tmp_path / "out").mkdir()
    sentences, page = collapse_page.of_collapse(results, tmp_path / "out")
    effects = collapse_page._effects(collapse_page._by_factors(results))
    found = {of.words: (of.up + of.down, of.of_gain.mean, of.beyond.mean) for of in effects}
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
    assert all(of.of_gain.low - tiny <= of.of_gain.mean <= of.of_gain.high + tiny for of in effects)
    [rank] = [of for of in effects if of.words == "rank instead of independent"]
    assert (rank.up, rank.down) == (0, 24)
    assert {source: of.mean for source, of in rank.by_candidates.items()} == {
        source: pytest.approx(-0.05) for source in ("both", "index")
    }
    assert "surely above it beyond length" in sentences[0]
    assert "144 of 144 cells have been run." in page
    assert sentences[1].startswith("What changes it, on average over all else: 1e-4 instead of 3e-5 -0.100")
    assert "<svg" in (tmp_path / "out" / "collapse.svg").read_text()[:2000]


def test_combinations_that_lack_a_seed_are_left_out_of_effects(results):
    kept = [of for of in results if not (of.cell.seed == 1 and of.cell["rate"] == "1e-4")]
    words = [of.words for of in collapse_page._effects(collapse_page._by_factors(kept))]
    assert "1e-4 instead of 3e-5" not in words
    assert "rank instead of independent" in words


def test_without_results_there_is_no_page(tmp_path):
    assert collapse_page.of_collapse([], tmp_path) == ([], [])


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
