"""The study's runs of the paper's settings, with tiny models."""

import re
from types import SimpleNamespace

import numpy as np
import pytest

from datamodules.sealed_files import write_json
from experiments import run
from experiments.runs import RunFolder
from experiments.study import tables
from experiments.study.cells import Cell, Result, exactly
from experiments.study.derived.of_tables import add_tables
from experiments.study.numbers import Numbers
from experiments.study.pages.tables_page import of_tables
from experiments.study.prediction import BEYOND_LENGTH, GAIN
from tests.toy_files import as_overrides, toy_settings


def test_settings_are_run_in_turn_and_found_again(tmp_path, monkeypatch):
    changes = {"evaluation__num_read": 1, "evaluation__num_read_test": 2, "trainer__validate_every_steps": 1}
    toy = as_overrides(toy_settings(tmp_path, trainer__loggers="[csv]", **changes))
    launched = []

    def launch(arguments):
        launched.append(arguments)
        return run.main(arguments)

    monkeypatch.setattr(tables, "launch", launch)
    monkeypatch.setattr(tables, "_CUT_DOWN", tuple(toy))
    monkeypatch.setattr(tables, "NUM_STEPS", 2)
    monkeypatch.setattr(tables, "LONGER", {tables.CONTROL: 2})
    config = SimpleNamespace(data=SimpleNamespace(train="vital"))
    material = SimpleNamespace(folder=tmp_path, config=config)
    cells = {cell["setting"]: cell for cell in tables.cells([0]) if cell["steps"] == "2"}
    with pytest.raises(ValueError, match=r"run tables/setting=step-1/\*/seed=0"):
        tables.run(cells["step-2"], material, None)
    assert not launched
    run_in_turn = ("initial", "step-1", "step-2", tables.CONTROL)
    found = {setting: tables.run(cells[setting], material, None) for setting in run_in_turn}
    assert len(launched) == 4
    assert {"objective.name=uniform", "training.train_reader=false"} <= {*launched[-1]}
    steps = {
        setting: [name for name in result.measures if name.startswith("validation/")]
        for setting, result in found.items()
    }
    at = "validation/mean_hr_at_5@"
    assert steps == {
        "initial": [],
        "step-1": [f"{at}{n}" for n in (0, 1, 2)],
        "step-2": [f"{at}{n}" for n in (0, 1, 2)],
        tables.CONTROL: [f"{at}{n}" for n in (0, 1, 2)],
    }
    assert found["initial"].measures["hr_at_5"] == found["step-1"].measures["start/hr_at_5"]
    assert {"em", "f1", *tables.INDICATORS} <= found["step-2"].measures.keys()
    for result in found.values():
        hits = result.questions["hit_at_5"]
        assert np.mean(hits) == pytest.approx(result.measures["hr_at_5"].mean)
    assert [setting for setting, result in found.items() if GAIN in result.questions] == [
        "step-2",
        tables.CONTROL,
    ]
    step_2 = found["step-2"]
    change = step_2.measures["hr_at_5"].mean - step_2.measures["start/hr_at_5"].mean
    assert np.mean(step_2.questions[GAIN]) == pytest.approx(change)
    assert step_2.measures[BEYOND_LENGTH].n == len(step_2.questions[GAIN])
    again = tables.run(cells["step-2"], material, None)
    assert again.measures == found["step-2"].measures
    assert len(launched) == 4


def test_a_control_for_length_of_another_k_is_made_again(tmp_path, monkeypatch):
    found, made = RunFolder(tmp_path), []

    def write(k, mean):
        estimate = {"mean": mean, "low": mean, "high": mean, "n": 3}
        write_json(found.length_control, {"k": k, "beyond_length": estimate})

    def control(arguments):
        made.append(arguments)
        write(5, 0.5)
        return 0

    monkeypatch.setattr(tables.control_length, "main", control)
    write(3, 0.25)
    assert tables._beyond_length(found).mean == 0.5
    assert tables._beyond_length(found).mean == 0.5
    assert made == [[str(tmp_path), "--k", "5"]]
    found.length_control.write_bytes(found.length_control.read_bytes()[:-9])
    assert tables._beyond_length(found).mean == 0.5
    assert len(made) == 2


def test_other_questions_are_refused():
    material = SimpleNamespace(config=SimpleNamespace(data=SimpleNamespace(train="nq.jsonl")))
    with pytest.raises(ValueError, match=r"with data\.train=nq\.jsonl name the other parts"):
        tables.run(tables.cells([0])[0], material, None)


class TestPage:
    def test_gains_orderings_and_the_papers_numbers(self, tmp_path):
        results = [
            made_up(setting, seed, hits)
            for seed in (0, 1)
            for setting, hits in {
                "initial": 4,
                "off-the-shelf": 2,
                "step-1": 4,
                "step-2": 8,
            }.items()
        ]
        [said], page = of_tables(results, numbers_of(results), tmp_path)
        assert "off-the-shelf -0.200 [" in said
        assert "step-2 +0.400 [" in said
        assert re.search(r"step-1 less off-the-shelf \+0\.200 .* where the paper has \+0\.361", said)
        assert re.search(
            r"step-2 less step-1 \+0\.400 .* where the paper has \+0\.254 \(as there, 2 seeds\)", said
        )
        [row] = [line for line in page if line.startswith("| step-2 | 2 |")]
        assert row.split(" | ")[2] == "0.800, 0.800"
        assert row.endswith("| 0.645 |")
        assert "0.250, 0.250 (0.316)" in "\n".join(page), "Indicator 1 beside the paper's"
        assert (tmp_path / "tables.svg").is_file()

    def test_bm25_stands_below_the_settings(self, tmp_path):
        results = [made_up("initial", seed, 4) for seed in (0, 1)]
        _, page = of_tables(results, numbers_of(results), tmp_path)
        assert not any(line.startswith("| BM25") for line in page), "of runs without it"
        for result in results:
            result.measures["bm25/hr_at_5"] = exactly(0.75)
        _, page = of_tables(results, numbers_of(results), tmp_path)
        [row] = [line for line in page if line.startswith("| BM25")]
        assert row.startswith("| BM25 | - | 0.750 | - |")

    def test_longer_runs_stand_beside_the_others(self, tmp_path):
        results = [made_up("off-the-shelf", seed, 2, steps) for seed in (0, 1) for steps in (60, 240)]
        results[1] = made_up("off-the-shelf", 0, 9, 240)
        [said], page = of_tables(results, numbers_of(results), tmp_path)
        assert "off-the-shelf -0.200 [" in said, "of the 60 steps alone"
        assert "off-the-shelf, 240 steps +0.150 [" in said
        assert "Longer runs beside the others: off-the-shelf, 240 steps +0.350 [" in said
        assert "(2 seeds)" in said
        [row] = [line for line in page if line.startswith("| off-the-shelf, 240 steps | 2 |")]
        assert row.split(" | ")[2] == "0.900, 0.200"

    def test_longer_runs_stand_beside_one_without_a_reader(self, tmp_path):
        results = [made_up(name, 0, hits, 240) for name, hits in (("off-the-shelf", 9), (tables.CONTROL, 5))]
        [said], _ = of_tables(results, numbers_of(results), tmp_path)
        assert "without a reader (uniform): off-the-shelf, 240 steps +0.400 [" in said

    def test_the_papers_claim_and_a_late_fall_are_numbers(self, tmp_path):
        hits = {"off-the-shelf": 2, "step-1": 4, "step-2": 8}
        results = [made_up(setting, seed, of) for seed in (0, 1) for setting, of in hits.items()]
        results += [made_up(setting, 0, hits[setting], 240) for setting in ("off-the-shelf", "step-2")]
        results[-1].measures |= {f"{tables.VALIDATION}{n}": exactly(v) for n, v in ((90, 0.9), (120, 0.3))}
        numbers = numbers_of(results)
        claim = numbers.at("tables", setting="step-2", less="off-the-shelf")
        assert claim["hr_at_5"].mean == pytest.approx(0.6)
        assert claim["paper/hr_at_5"].mean == pytest.approx(0.645 - 0.03)
        longer = numbers.at("tables", setting="step-2, 240 steps", less="off-the-shelf, 240 steps")
        assert (longer["hr_at_5"].mean, longer["hr_at_5"].n) == (pytest.approx(0.6), 10)
        of_longer = numbers.at("tables", setting="step-2, 240 steps")
        assert of_longer["validation/last_less_first"].mean == pytest.approx(0.3)
        assert of_longer["validation/last_less_highest"].mean == pytest.approx(-0.6)
        runs = {steps: numbers.at("tables", steps=steps) for steps in ("60", "240")}
        assert [of["runs"].mean for of in runs.values()] == [6, 2]
        assert [of["seeds"].mean for of in runs.values()] == [2, 1]
        assert [of["ended_early"].mean for of in runs.values()] == [0, 2]
        _, page = of_tables(results, numbers, tmp_path)
        [row] = [line for line in page if line.startswith("| step-2, 240 steps | 1 |")]
        assert row.endswith("| +0.300 | -0.600 | 0.645 |")

    def test_without_longer_runs_there_are_none(self):
        numbers = numbers_of([made_up("step-2", 0, 8)])
        assert numbers.at("tables", steps="240")["runs"].mean == 0

    def test_groups_without_a_common_seed_are_not_compared(self):
        numbers = numbers_of([made_up("step-1", 0, 4), made_up("step-2", 1, 8)])
        assert not numbers.having("tables", "setting", "less")

    def test_half_a_table_has_no_ordering(self, tmp_path):
        results = [made_up("off-the-shelf", 0, 2)]
        [said], _ = of_tables(results, numbers_of(results), tmp_path)
        assert "order of the paper" not in said


def numbers_of(results):
    numbers = Numbers()
    add_tables(numbers, results)
    return numbers


def made_up(setting, seed, num_hits, steps=60):
    """Ten questions, of which four are hits at the start."""
    hits = [float(i < num_hits) for i in range(10)]
    values = {"hr_at_5": num_hits / 10, "em": 0.1, "f1": 0.2, "passage_words": 50}
    values |= dict.fromkeys(tables.INDICATORS, 0.25)
    result = Result(
        Cell.of("tables", seed, setting=setting, steps=str(steps)), {n: exactly(v) for n, v in values.items()}
    )
    result.questions["hit_at_5"] = hits
    if setting in tables.LEARNS:
        result.questions[GAIN] = [hit - float(i < 4) for i, hit in enumerate(hits)]
        result.measures[BEYOND_LENGTH] = exactly(0.1)
        result.measures |= {f"{tables.VALIDATION}{step}": exactly(step / 100) for step in (0, 30, 60)}
    return result
