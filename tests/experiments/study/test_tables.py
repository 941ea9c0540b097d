"""The study's runs of the paper's settings, with tiny models."""

from types import SimpleNamespace

import pytest

from experiments import run
from experiments.study import tables
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
    monkeypatch.setattr(tables, "_NUM_STEPS", 2)
    material = SimpleNamespace(folder=tmp_path)
    cells = {cell["setting"]: cell for cell in tables.cells([0])}
    with pytest.raises(ValueError, match=r"run tables/setting=step-1/seed=0"):
        tables.run(cells["step-2"], material, None)
    assert not launched
    found = {
        setting: tables.run(cells[setting], material, None) for setting in ("initial", "step-1", "step-2")
    }
    assert len(launched) == 3
    steps = {
        setting: [name for name in result.measures if name.startswith("validation/")]
        for setting, result in found.items()
    }
    at = "validation/mean_hr_at_5@"
    assert steps == {
        "initial": [],
        "step-1": [f"{at}{n}" for n in (0, 1, 2)],
        "step-2": [f"{at}{n}" for n in (0, 1, 2)],
    }
    assert found["initial"].measures["hr_at_5"] == found["step-1"].measures["start/hr_at_5"]
    assert {"em", "f1"} <= found["step-2"].measures.keys()
    again = tables.run(cells["step-2"], material, None)
    assert again.measures == found["step-2"].measures
    assert len(launched) == 3
