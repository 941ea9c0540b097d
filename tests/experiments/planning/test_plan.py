"""The command and the check of runs: what fits, what does not, and what makes it fit."""

import json
import re
import shlex
import time
from dataclasses import replace
from pathlib import Path

import pytest

from experiments import plan, run
from experiments.config import ConfigError, experiment_names, load_config, read_config
from experiments.planning import plan as planning
from experiments.planning.machines import GPUS, Machine, named_machine
from experiments.planning.measured import compare
from experiments.planning.plan import Fit, balances_of, changes_that_fit, check_fits, make_plan
from experiments.planning.setup import count_passages, describe
from experiments.runs import RunFolder
from tests.toy_files import as_overrides, toy_settings


def shown(capsys, *arguments: str) -> str:
    assert plan.main([*arguments]) == 0
    return capsys.readouterr().out


def small_machine(monkeypatch, **sizes: int) -> None:
    """Runs believe that this machine has less."""
    here = planning.this_machine
    monkeypatch.setattr(planning, "this_machine", lambda config: replace(here(config), **sizes))


def test_offshelf_nq_fits_on_the_papers_machine(capsys):
    text = shown(capsys, "--exp", "offshelf_nq", "--gpu", "a100-80gb", "--memory", "128")
    assert text.rstrip().endswith("It fits (nothing was said of the disk).")
    for figure in ("66.3", "80.0", "29.6", "128.0", "32.3", "6 x 21,015,324, while it trains"):
        assert figure in text
    assert "estimated from the arithmetic" in text
    assert max(map(len, text.splitlines())) <= 100


@pytest.mark.parametrize("name", experiment_names())
def test_every_experiment_can_be_planned(name):
    made = make_plan(load_config(name), named_machine("h100-80gb", 256, 1000, 1))
    assert made.fits
    assert 0 < made.seconds < 100 * 24 * 3600
    assert all(part.seconds > 0 for part in made.times)


def test_hours_follow_from_the_work():
    """Twice the passages take twice the encoding; a GPU that is faster takes less of everything."""

    def seconds(machine: Machine, *overrides: str) -> dict[str, float]:
        made = make_plan(load_config("step2_nq", [*overrides, "data.verify_sizes=true"]), machine)
        groups = {part.group: 0.0 for part in made.times}
        for part in made.times:
            groups[part.group] += part.seconds
        return groups

    a100, t4 = (named_machine(gpu, 128, None, 1) for gpu in ("a100-80gb", "t4-16gb"))
    whole, half = seconds(a100), seconds(a100, "data.max_passages=10507662")
    assert whole["encoding"] == pytest.approx(2 * half["encoding"])
    # 21 million passages of 140 tokens through 85 million weights, at 140 TFLOP/s
    by_hand = 21_015_324 * 140 * (2 * 85_054_464 + 4 * 12 * 768 * 140) / 140e12
    assert whole["encoding"] == pytest.approx(by_hand)
    slow = seconds(t4)
    assert all(slow[group] > whole[group] for group in whole if group != "loading")


def test_several_processes_search_a_share_each():
    """A search takes a share of the time, and evaluations, whose questions are dealt out, make fewer."""

    def seconds(num_devices: int, *overrides: str) -> dict[str, float]:
        devices = f"trainer.devices={num_devices}"
        machine = named_machine("a100-80gb", 128, None, num_devices)
        times = make_plan(load_config("step2_nq", [devices, *overrides]), machine).times
        return {part.group: part.seconds for part in times if "search" in part.name}

    one, four = seconds(1), seconds(4)
    assert four["training"] == pytest.approx(one["training"] / 4)
    assert one["testing"] / 16 < four["testing"] < one["testing"] / 4
    approximate = "index.factory=IVF16384,PQ64"
    assert seconds(4, approximate)["training"] == seconds(1, approximate)["training"]


def test_what_makes_it_fit(capsys):
    text = shown(capsys, "--exp", "step2_nq", "--gpu", "rtx3090-24gb", "--memory", "64", "--disk", "400")
    assert "It does not fit: memory of each GPU" in text
    assert "\n  index.gpu=false  (exact search on the CPU: " in text
    config, machine = load_config("step2_nq"), named_machine("rtx3090-24gb", 64, 400, 1)
    for change in changes_that_fit(config, machine):
        changed = load_config("step2_nq", change.overrides)
        assert make_plan(changed, machine).fits, change
    hopeless = shown(capsys, "--exp", "offshelf_nq", "--gpu", "t4-16gb", "--memory", "64", "--disk", "400")
    assert "No change of settings known here makes it fit: take a GPU with more memory." in hopeless


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--against", "runs/nowhere"], "--against runs/nowhere: not the folder of a finished run"),
        (
            ["--against", "runs/nowhere", "seed=3"],
            "--against takes the settings of the run; leave seed=3 out",
        ),
        (["--gpu", "a100"], "--gpu a100: unknown; choose one of: h200-141gb, h100-80gb, a100-80gb"),
        (["--gpu", "none", "index.gpu=true"], "this machine has none; name one with --gpu"),
        (["--memory", "-1"], "--memory -1.0: give GB of at least 0"),
        (["--gpu", "t4-16gb", "--calibrate"], "--calibrate times this machine, not t4-16gb"),
        (["--calibrate"], "--calibrate: retriever.name=facebook/contriever@"),
        (
            ["--calibrate", "seed=3", "data.root=/no where"],
            "python -m experiments.download --exp step2_nq seed=3 'data.root=/no where' fetches it",
        ),
        (["trainer.max_step=3"], "did you mean 'trainer.max_steps'?"),
        (["data.validation=mine.jsonl", "data.root=/nowhere"], "there is no file /nowhere/mine.jsonl"),
    ],
)
def test_mistakes(capsys, arguments, message):
    assert plan.main([*([] if "--against" in arguments else ["--exp", "step2_nq"]), *arguments]) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ")
    assert message in error
    assert error.count("\n") == 1


def test_what_is_not_known_is_said_and_counts_for_nothing(capsys, tmp_path):
    settings = toy_settings(tmp_path, reader__name="nobody/has-this-model")
    text = shown(capsys, "--exp", "quickstart", *as_overrides(settings))
    assert "unknown: reader.name=nobody/has-this-model is not known and not on this machine" in text
    command = " ".join(text.split()).partition("(python -m experiments.download ")[2].partition(")")[0]
    arguments = shlex.split(command)
    assert arguments[:2] == ["--exp", "quickstart"]
    assert load_config("quickstart", arguments[2:]) == load_config("quickstart", as_overrides(settings))
    assert "the number of passages, 25, is an estimate" in text
    assert text.rstrip().endswith("It fits.")


@pytest.fixture(scope="module")
def finished(tmp_path_factory) -> RunFolder:
    """A run that trains both models."""
    folder = tmp_path_factory.mktemp("finished")
    settings = toy_settings(folder, training__train_reader="true", reader__read_once="false")
    assert run.main(["--exp", "slice_vital", *as_overrides(settings)]) == 0
    [path] = folder.glob("runs/slice_vital/*")
    return RunFolder(path)


def test_calibration_measures_a_small_copy_and_leaves_nothing(capsys, finished):
    """What the run took stands beside what is planned for it."""
    before = {*finished.path.parents[2].rglob("*")}
    text = shown(capsys, "--against", str(finished.path), "--calibrate")
    assert "measured on this machine" in " ".join(text.split())
    assert {*finished.path.parents[2].rglob("*")} == before
    assert "the run ended because: all 4 steps done" in text
    [total] = (line for line in text.splitlines() if line.split()[:1] == ["all"])
    planned, measured = (float(number) for number in re.findall(r"(\d+) s", total))
    assert abs(measured - json.loads(finished.summary.read_text())["times_s"]["total"]) <= 0.5
    assert 0 < planned < 10 * measured


def test_stages_of_a_run_are_compared_with_the_groups_of_its_plan(finished):
    plan_of_it = make_plan(read_config(finished.config), named_machine("none", 8, 100, 1))
    times = {"load": 2.0, "refresh_index": 3.0, "staleness": 1.0, "retrieve": 50.0, "read": 60.0}
    times |= {"find_candidates": 1.0, "steps": 7.0, "validation": 4.0, "testing": 2.0, "total": 23.0}
    stages = {stage.name: stage for stage in compare(plan_of_it, times)}
    assert {name: stage.measured for name, stage in stages.items()} == {
        "loading": 2,
        "encoding and refreshing": 4,
        "training": 8,
        "validation": 4,
        "testing": 2,
        "everything else": 3,
        "all": 23,
    }
    planned = {name: stage.planned for name, stage in stages.items()}
    assert planned.pop("all") == plan_of_it.seconds == pytest.approx(sum(planned.values()))
    assert all(seconds > 0 for name, seconds in planned.items() if name != "everything else")
    assert stages["training"].ratio == planned["training"] / 8
    assert stages["everything else"].ratio == 0
    measured = json.loads(finished.summary.read_text())["times_s"]
    within = [measured[part] for part in ("load", "refresh_index", "steps", "validation", "testing")]
    assert min(within) > 0
    assert sum(within) <= measured["total"]
    del times["testing"]
    with pytest.raises(ConfigError, match="of a version that did not time its stages; run it again"):
        compare(plan_of_it, times)


# ---- the check of runs ----


def test_a_run_that_cannot_fit_is_refused_before_anything_is_written(capsys, tmp_path, monkeypatch):
    small_machine(monkeypatch, disk_bytes=120_000_000_000)
    arguments = ["--exp", "offshelf_nq", f"runs={tmp_path}/runs", f"data.root={tmp_path}"]
    assert run.main(arguments) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert "this run does not fit: it needs at least 124.4 GB on the disk of" in error
    assert "there are 120.0 GB" in error
    assert "set data.max_passages=1000000, or free the disk, or set runs to a folder" in error
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("sizes", "what"),
    [
        ({"memory_bytes": 200_000_000}, "at least 0.3 GB of memory"),
        ({"disk_bytes": 1000}, "at least 0.0 GB on the disk"),
    ],
)
def test_a_run_on_toy_files_is_refused_only_on_a_toy_machine(capsys, tmp_path, monkeypatch, sizes, what):
    settings = as_overrides(toy_settings(tmp_path))
    config = load_config("quickstart", settings)
    check_fits(config)
    small_machine(monkeypatch, **sizes)
    assert run.main(["--exp", "quickstart", *settings]) == 2
    assert what in capsys.readouterr().err
    assert not Path(config.runs).exists()
    if "disk_bytes" in sizes:
        check_fits(config, is_begun=True)  # which has its disk already


def test_gpu_memory_is_refused_only_where_the_sure_part_is_too_much():
    """22.7 GB of models and 32.3 GB of embeddings are sure; about 66 GB are expected."""
    for gpu_gb, fit in ((54, Fit.DOES_NOT_FIT), (56, Fit.TIGHT), (68, Fit.FITS)):
        machine = replace(named_machine("a100-80gb", 128, None, 1), gpu_bytes=gpu_gb * 10**9)
        [gpu] = balances_of(describe(load_config("offshelf_nq"), machine))[2:]
        assert gpu.fit is fit
        if fit is Fit.DOES_NOT_FIT:
            message = planning.refusal(gpu, describe(load_config("offshelf_nq"), machine))
            assert "at least 55.0 GB of GPU memory (index 32.3 GB, models, gradients and moments" in message
            assert "set index.gpu=false or index.factory=IVF16384,PQ64" in message


def test_the_check_costs_no_time():
    config = load_config("offshelf_nq")
    machine = named_machine("a100-80gb", 128, 1000, 1)
    started = time.perf_counter()
    balances_of(describe(config, machine))
    assert time.perf_counter() - started < 0.2


# ---- passages and machines ----


def test_passages_are_estimated_until_a_run_has_counted_them(tmp_path):
    settings = toy_settings(tmp_path)
    config = load_config("quickstart", as_overrides(settings))
    assert count_passages(config) == (25, False)  # the heading is a line too
    assert run.main(["--exp", "quickstart", *as_overrides({**settings, "trainer.max_steps": 0})]) == 0
    assert count_passages(config) == (24, True)
    assert count_passages(load_config("offshelf_nq")) == (21_015_324, True)
    missing = load_config("quickstart", ["data.passages=/nowhere.tsv"])
    assert count_passages(missing) == (None, False)


def test_the_gpus_are_those_that_their_names_say():
    for name, gpu in GPUS.items():
        assert abs(float(name.rpartition("-")[2].removesuffix("gb")) - gpu.memory_gb) < 1
        assert 0 < gpu.fp32_tflops < 100
