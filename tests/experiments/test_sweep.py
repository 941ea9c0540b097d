"""Grids of runs: all combinations once, and only what is missing the next time."""

import pytest

from datamodules.sealed_files import write_json
from experiments import run, sweep
from experiments.command_line import INTERRUPTED
from experiments.config import load_config
from experiments.runs import create_run, with_runs_named
from tests.toy_files import as_overrides, toy_settings


@pytest.fixture(scope="module")
def settings(tmp_path_factory):
    folder = tmp_path_factory.mktemp("sweep")
    changes = {"evaluation__num_read": 0, "evaluation__num_read_test": 0, "trainer__max_steps": 2}
    return folder, as_overrides(toy_settings(folder, trainer__loggers="[csv]", **changes))


def test_a_grid_is_run_once_goes_on_and_ends_in_a_report(settings, monkeypatch, capsys):
    folder, fixed = settings
    launched = []

    def launch(arguments):
        launched.append(arguments)
        if len(launched) == 2:
            return INTERRUPTED
        return run.main(arguments)

    monkeypatch.setattr(sweep, "launch", launch)
    command = [
        "--exp",
        "quickstart",
        "--out",
        str(folder / "report"),
        *fixed,
        "training.retriever_lr=1e-3,1e-2",
    ]
    assert sweep.main(command) == INTERRUPTED
    assert "the same command goes on with the rest" in capsys.readouterr().err
    assert sweep.main(command) == 0
    shown = capsys.readouterr().out
    assert "2 runs of quickstart" in shown
    assert "training.retriever_lr=1e-3: finished already" in shown
    rates = [arguments[-1] for arguments in launched]
    assert rates == [f"training.retriever_lr={rate}" for rate in ("1e-3", "1e-2", "1e-2")]
    report = (folder / "report" / "report.md").read_text()
    assert all(str(path) in report for path in (folder / "runs" / "quickstart").iterdir())
    assert len(list((folder / "runs" / "quickstart").glob("*/csv/metrics.csv"))) == 2


def test_a_run_from_the_latest_of_another_is_found_again(tmp_path):
    """Its configuration names the folder that it meant."""
    point = [f"runs={tmp_path}", "init.retriever_from=latest:quickstart"]
    earlier = create_run(load_config("quickstart", point[:1]))
    earlier.retriever.mkdir()
    write_json(earlier.summary, {"status": "finished"})
    made = create_run(with_runs_named(load_config("offshelf_vital", point)))
    found = sweep.find_run_of("offshelf_vital", point)
    assert found is not None
    assert found.path == made.path


def test_a_job_array_has_a_task_a_run(tmp_path, capsys):
    path = tmp_path / "jobs.sbatch"
    arguments = [
        "--launcher",
        "slurm-array",
        "--out",
        str(path),
        "seed=0,1",
        "training.retriever_lr=1e-5,2e-5",
    ]
    assert sweep.main(["--exp", "quickstart", *arguments]) == 0
    text = path.read_text()
    assert "#SBATCH --array=0-3" in text
    assert "  3) python -m experiments.run --exp quickstart seed=1 training.retriever_lr=2e-5 ;;" in text


def test_what_no_run_can_have_is_refused_before_the_first(capsys):
    assert sweep.main(["--exp", "quickstart", "seed=0,-1"]) == 2
    assert "seed=-1 must be" in capsys.readouterr().err
