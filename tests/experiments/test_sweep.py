"""Grids of runs: all combinations once, and only what is missing the next time."""

import dataclasses
import shutil
import sys
from pathlib import Path

import pytest

from datamodules.sealed_files import write_json
from experiments import report, run, sweep
from experiments.command_line import FAILED, INTERRUPTED
from experiments.config import load_config, read_config, save_config
from experiments.runs import RunFolder, create_run, with_runs_named
from experiments.trainer import RunCallbacks
from tests.experiments.test_train import KillAt, KilledError
from tests.toy_files import as_overrides, toy_settings


@pytest.fixture(scope="module")
def settings(tmp_path_factory):
    folder = tmp_path_factory.mktemp("sweep")
    changes = {"evaluation__num_read": 0, "evaluation__num_read_test": 0, "trainer__max_steps": 2}
    changes |= {"objective__retrieval_temperature": "null"}  # derived by each run
    return folder, as_overrides(toy_settings(folder, trainer__loggers="[csv]", **changes))


def test_a_grid_is_run_once_goes_on_and_ends_in_a_report(settings, monkeypatch, capsys):
    folder, fixed = settings
    launched = []

    def launch(arguments):
        launched.append(arguments)
        if len(launched) == 2:
            all_callbacks, kill = RunCallbacks.all, KillAt("on_train_batch_start", 1)
            with monkeypatch.context() as patched:
                patched.setattr(RunCallbacks, "all", lambda self: [*all_callbacks(self), kill])
                with pytest.raises(KilledError):
                    run.main(arguments)
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
    first, begun, resumed = launched
    assert (first[-1], begun[-1]) == ("training.retriever_lr=1e-3", "training.retriever_lr=1e-2")
    assert resumed[0] == "--resume"
    assert f"training.retriever_lr=1e-2: going on, {resumed[1]}" in shown
    assert RunFolder(Path(resumed[1])).is_finished
    report = (folder / "report" / "report.md").read_text()
    assert all(str(path) in report for path in (folder / "runs" / "quickstart").iterdir())
    assert len(list((folder / "runs" / "quickstart").glob("*/csv/metrics.csv"))) == 2
    assert len(list((folder / "runs" / "quickstart").glob("*/csv-2/metrics.csv"))) == 1, "of what was resumed"


def test_a_run_that_fails_is_at_its_end_and_the_others_are_run(tmp_path, monkeypatch, capsys):
    """In the first call and in the next ones, whose exit code says that one failed."""
    launched, reported = [], []

    def launch(arguments):
        launched.append(arguments[-1])
        made = create_run(load_config("quickstart", arguments[2:]))
        breaks = arguments[-1] == "seed=1"
        write_json(made.summary, {"status": "failed" if breaks else "finished"})
        return FAILED if breaks else 0

    monkeypatch.setattr(sweep, "launch", launch)
    monkeypatch.setattr(report, "main", lambda arguments: reported.append(arguments) or 0)
    command = ["--exp", "quickstart", f"runs={tmp_path}", "seed=0,1,2"]
    assert sweep.main(command) == FAILED
    assert launched == ["seed=0", "seed=1", "seed=2"]
    [failed] = (tmp_path / "quickstart").glob("*-seed1")
    said = f"seed=1: has failed, {failed}; delete that folder to run these settings again"
    assert said in capsys.readouterr().err
    assert sweep.main(command) == FAILED
    assert f"2/3 runs={tmp_path} {said}" in capsys.readouterr().out
    assert sweep.main([*command, "--only", "1"]) == FAILED
    assert said in capsys.readouterr().out
    assert len(launched) == 3
    assert [len(arguments) for arguments in reported] == [5, 5], "the failed one too"
    shutil.rmtree(failed)
    assert sweep.main(command) == FAILED
    assert launched[3:] == ["seed=1"]


def test_runs_that_end_before_they_have_a_folder_are_not_reported(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(sweep, "launch", lambda _arguments: -9)
    assert sweep.main(["--exp", "quickstart", f"runs={tmp_path}", "seed=0,1"]) == FAILED
    assert "seed=1: ended with code -9" in capsys.readouterr().err


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


def test_a_run_is_found_again_whether_or_not_it_showed_a_progress_bar(tmp_path):
    made = create_run(load_config("quickstart", [f"runs={tmp_path}", "trainer.progress_bar=false"]))
    found = sweep.find_run_of("quickstart", [f"runs={tmp_path}"])
    assert found is not None
    assert found.path == made.path
    assert sweep.find_run_of("quickstart", [f"runs={tmp_path}", "trainer.gradient_clip=2"]) is None


@pytest.mark.parametrize(
    ("experiment", "section", "resolved"),
    [
        ("quickstart", "reader", {"attention_heads": "0.1,2.3"}),
        ("own_data", "objective", {"retrieval_temperature": 0.05}),
        ("slice_vital", "trainer", {"auto_batch": True}),
    ],
)
def test_a_run_is_found_again_after_it_has_resolved_its_settings(tmp_path, experiment, section, resolved):
    """The heads of a list, a temperature; and a run may be gone on with `trainer.auto_batch`."""
    point = [f"runs={tmp_path}", "seed=1"]
    made = create_run(load_config(experiment, point))
    config = read_config(made.config)
    changed = dataclasses.replace(getattr(config, section), **resolved)
    save_config(dataclasses.replace(config, **{section: changed}), made.config, "resolved")
    assert sweep.find_run_of(experiment, point) == made
    assert sweep.find_run_of(experiment, [point[0], "seed=2"]) is None


def test_a_run_of_an_earlier_version_is_found_by_what_it_has_resolved(tmp_path):
    made = create_run(load_config("slice_vital", [f"runs={tmp_path}"]))
    made.asked.unlink()
    assert sweep.find_run_of("slice_vital", [f"runs={tmp_path}", "trainer.auto_batch=true"]) == made


def test_a_run_is_found_after_the_folder_of_all_runs_has_moved(tmp_path):
    create_run(load_config("quickstart", [f"runs={tmp_path / 'here'}", "seed=1"]))
    (tmp_path / "here").rename(tmp_path / "there")
    found = sweep.find_run_of("quickstart", [f"runs={tmp_path / 'there'}", "seed=1"])
    assert found is not None
    assert found.path.is_relative_to(tmp_path / "there")


def test_a_run_with_a_template_file_is_found_by_its_text(tmp_path):
    template = tmp_path / "mine.txt"
    template.write_text("{passage}\nQ: {question}\nA: {answer}\n")
    point = [f"runs={tmp_path}", f"reader.template={template}"]
    made = create_run(load_config("quickstart", point))
    assert sweep.find_run_of("quickstart", point) == made
    template.write_text("{passage}\nQuestion: {question}\nA: {answer}\n")
    assert sweep.find_run_of("quickstart", point) is None


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
    assert "#   3: seed=1 training.retriever_lr=2e-5\n" in text
    assert text.endswith(
        'exec python -m experiments.sweep --exp quickstart --only "$SLURM_ARRAY_TASK_ID" seed=0,1 '
        "training.retriever_lr=1e-5,2e-5\n"
    )


def test_a_task_begins_its_run_then_goes_on_with_it_and_leaves_a_finished_one(tmp_path, monkeypatch, capsys):
    became = []
    monkeypatch.setattr(sweep, "become", lambda arguments: became.append(arguments) or 75)
    grid = [f"runs={tmp_path}", "seed=0,1"]
    task = ["--exp", "quickstart", "--only", "1", *grid]
    assert sweep.main(task) == 75, "the run's own exit code"
    made = create_run(load_config("quickstart", [grid[0], "seed=1"]))
    create_run(load_config("quickstart", [grid[0], "seed=0"]))
    assert sweep.main(task) == 75
    assert became == [["--exp", "quickstart", grid[0], "seed=1"], ["--resume", str(made.path)]]
    write_json(made.summary, {"status": "finished"})
    assert sweep.main(task) == 0
    assert f"seed=1: finished already, {made.path}" in capsys.readouterr().out
    assert len(became) == 2
    assert sweep.main(["--exp", "quickstart", "--only", "2", *grid]) == 2
    assert "--only 2: the grid has the runs 0 to 1" in capsys.readouterr().err


def test_a_task_becomes_its_run(monkeypatch):
    executed = []
    monkeypatch.setattr(sweep.os, "execv", lambda *command: executed.append(command))
    sweep.become(["--exp", "quickstart"])
    python = sys.executable
    assert executed == [(python, [python, "-m", "experiments.run", "--exp", "quickstart"])]


def test_what_no_run_can_have_is_refused_before_the_first(capsys):
    assert sweep.main(["--exp", "quickstart", "seed=0,-1"]) == 2
    assert "seed=-1 must be" in capsys.readouterr().err
