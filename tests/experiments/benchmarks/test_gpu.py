"""The script for a GPU, in small on the CPU, where packages that a GPU machine may lack are not there."""

import gc
import json
import math
import os
import re
import subprocess
import sys
import time
import tomllib
import weakref
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from lightning.pytorch.strategies import Strategy
from lightning.pytorch.trainer.states import TrainerFn

from datamodules.prompts import PromptBuilder
from experiments.benchmarks import gpu, gpu_parts, gpu_run, made_up
from experiments.benchmarks.gpu import PARTS, WIDTH, run_part
from experiments.benchmarks.gpu_parts import TINY, Rig
from experiments.benchmarks.packages import OLDEST
from experiments.benchmarks.row import Row
from tests.toy_training import LIGHTNING_ADVICE

ROOT = Path(__file__).parents[3]
LACKING = (
    "bm25s",
    "faiss",
    "gguf",
    "ir_measures",
    "mlflow",
    "omegaconf",
    "peft",
    "sentence_transformers",
    "spacy",
    "torchdata",
    "wandb",
)
WITHOUT_THEM = f"""
import sys
for name in {LACKING!r}:
    sys.modules[name] = None
from experiments.benchmarks import gpu
sys.exit(gpu.main(sys.argv[1:]))
"""


@pytest.fixture(scope="module")
def ended(tmp_path_factory):
    """The script at its smallest, and what it wrote."""
    out = tmp_path_factory.mktemp("gpu") / "gpu.json"
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    process = subprocess.run(
        [sys.executable, "-c", WITHOUT_THEM, "--size", "tiny", "--out", str(out)],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    return process, json.loads(out.read_text())


def test_every_part_runs_without_what_a_gpu_machine_may_lack(ended):
    process, found = ended
    failed = {name: part["traceback"] for name, part in found["parts"].items() if part["error"]}
    assert (process.returncode, failed) == (0, {}), process.stderr
    assert found["size"] == "tiny"
    assert list(found["parts"]) == list(PARTS)
    assert all(part["rows"] for part in found["parts"].values())


def test_a_table_of_a_hundred_columns(ended):
    lines = ended[0].stdout.splitlines()
    assert max(map(len, lines)) <= WIDTH
    assert {line.split()[0] for line in lines} == set(PARTS)


def test_the_run_refreshes_and_decides(ended):
    rows = {row["what"]: row["value"] for row in ended[1]["parts"]["run"]["rows"]}
    assert rows["steps"] == TINY.run.num_steps
    assert rows["index refreshed at steps"] == "2, 4"
    assert abs(rows["a change that the stopping rule has seen"]) <= 1.0


def test_the_oldest_packages_are_those_of_the_project():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    wanted = dict(re.findall(r"^([\w-]+)>=([\d.]+)", "\n".join(project["dependencies"]), re.MULTILINE))
    assert {name: wanted[name] for name in OLDEST} == OLDEST


def rig() -> Rig:
    return Rig(torch.device("cpu"), TINY)


def test_a_part_that_fails_keeps_its_rows():
    def part(rig):
        yield Row("first", 1.0)
        raise RuntimeError("no such kernel\nand more")

    outcome = run_part(part, rig(), 5.0)
    assert outcome.rows == [Row("first", 1.0)]
    assert outcome.error == "RuntimeError: no such kernel"
    assert "in part" in outcome.traceback


def test_a_part_that_takes_too_long_is_ended():
    def part(rig):
        yield Row("first", 1.0)
        try:
            time.sleep(5)
        except OSError:  # as who writes files takes every error of the system
            yield Row("no room on the disk", 0.0)

    outcome = run_part(part, rig(), 0.05)
    assert (outcome.rows, outcome.error) == ([Row("first", 1.0)], "OutOfTimeError: not done after 0.05 s")


def test_what_a_part_leaves_in_circles_is_gone_before_the_device_is_asked_for_its_memory():
    class Held:
        pass

    found = []

    class Watched(Rig):
        def free(self):
            found.append(held())

    def part(rig):
        nonlocal held
        circle = Held()
        circle.itself, held = circle, weakref.ref(circle)
        yield Row("first", 1.0)

    held = None
    gc.disable()
    try:
        run_part(part, Watched(torch.device("cpu"), TINY), 5.0)
    finally:
        gc.enable()
    assert found == [None]


def test_all_parts_together_have_one_end(monkeypatch, capsys):
    def sleeps(rig):
        yield Row("it", 2.0, "GB")
        time.sleep(5)

    monkeypatch.setattr(gpu, "WHOLE_S", 0.5)
    for name in PARTS:
        monkeypatch.setattr(gpu_parts, name, sleeps)
    assert gpu.main(["--size", "tiny"]) == 1
    printed = [line for line in capsys.readouterr().out.splitlines() if "FAILED" in line]
    assert len(printed) == len(PARTS)
    assert "OutOfTimeError: not done after 0.4" in printed[0] or "not done after 0.5" in printed[0]
    assert all("FAILED after 0 s: OutOfTimeError: not begun: 0.5 s are over" in line for line in printed[1:])


@pytest.mark.parametrize(
    ("name", "oldest", "expected"),
    [
        ("transformers", "99.1", r"transformers [\d.]+ is older than 99.1, which the suite needs"),
        ("no_such_package", "1", "no_such_package is not installed"),
    ],
)
def test_packages_that_will_not_do_are_refused_before_anything_is_measured(
    name, oldest, expected, monkeypatch, tmp_path, capsys
):
    monkeypatch.setitem(OLDEST, name, oldest)
    out = tmp_path / "gpu.json"
    assert gpu.main(["--size", "tiny", "--out", str(out)]) == 2
    captured = capsys.readouterr()
    assert re.match(f"error: {expected}; install newer ones: pip install '{name}>={oldest}'$", captured.err)
    assert captured.out == ""
    assert not out.exists()


# ---- what is measured ----


def test_texts_are_of_the_lengths_that_were_asked_for():
    builder = PromptBuilder(made_up.made_up_tokenizer(), "independent")
    full = builder.build(made_up.made_up_batch(2, passage_words=150)).attention_mask
    assert full.shape == (10, 128 + 8 + 1)  # with the answer and its end
    assert full.all()
    varied = made_up.made_up_batch(20, 2, (64, 150), answer_words=(1, 12), question_words=(5, 15))
    for texts, low, high in (
        ([passage.text for found in varied.passages for passage in found], 64, 150),
        (varied.answers, 1, 12),
        ([question.text for question in varied.questions], 5, 15),
    ):
        counts = [len(text.split()) for text in texts]
        assert low <= min(counts) < max(counts) <= high
    mask = builder.build(varied).attention_mask
    assert not mask[:, 0].all()
    assert mask.any(dim=0).all()


def test_shares_of_the_chips_rate_are_of_full_prompts(ended):
    rows = [row["what"] for row in ended[1]["parts"]["speed"]["rows"]]
    assert [re.sub(r"\d+% of its rate", "a share", what) for what in rows[:-1]] == [
        *(
            f"{work}, {batch}"
            for batch in ("1 question, padded", "2 questions, padded")
            for work in ("prompts built", "read", "read and train")
        ),
        "prompts built, 2 questions, full",
        "read, 2 questions, full, a share",
        "read and train, 2 questions, full, a share",
    ]


def test_numbers_that_are_off_are_named():
    off: list[str] = []
    wanted = {"loss": torch.tensor([1.0, 2.0]), "gradient": torch.tensor([4.0])}
    found = {"loss": torch.tensor([1.0, 2.1]), "gradient": torch.tensor([4.001])}
    row = gpu_parts._largest_difference("a step", found, wanted, torch.bfloat16, off)
    assert (row.what, off) == ("a step: largest difference, of loss", [])
    assert row.value == pytest.approx(0.05)
    gpu_parts._largest_difference("a step", found, wanted, torch.float32, off)
    broken = {**found, "gradient": torch.tensor([math.nan])}
    gpu_parts._largest_difference("a broken step", broken, wanted, torch.bfloat16, off)
    assert off == [
        "loss of a step by 0.05, 0.001 allowed",
        "gradient of a broken step by nan, 0.06 allowed",
    ]


@pytest.mark.filterwarnings(*LIGHTNING_ADVICE)
def test_where_everything_is_is_asked_while_it_trains(tmp_path, monkeypatch):
    """On a GPU Lightning moves the models off it as training ends; here it moves them off the CPU."""
    teardown = Strategy.teardown

    def moves(strategy):
        teardown(strategy)
        if strategy.lightning_module.trainer.state.fn == TrainerFn.FITTING:
            strategy.lightning_module.to("meta")

    monkeypatch.setattr(Strategy, "teardown", moves)
    rows = list(gpu_run.train(torch.device("cpu"), replace(gpu_run.TINY, num_steps=3), tmp_path))
    assert Row("steps", 3.0) in rows


def test_what_is_elsewhere_is_named():
    trainer = SimpleNamespace(global_step=6, callback_metrics={"train/loss": torch.tensor(1.0)})
    places = {"reader": torch.device("cpu"), "index": torch.device("cuda", 0)}
    with pytest.raises(ValueError, match=r"not on cuda: reader on cpu$"):
        gpu_run._check(torch.device("cuda"), gpu_run.TINY, trainer, places)


def test_one_failure_does_not_stop_the_others(monkeypatch, tmp_path, capsys):
    def fails(rig):
        raise RuntimeError("broken")
        yield

    def works(rig):
        yield Row("it", 2.0, "GB")

    for name in PARTS:
        monkeypatch.setattr(gpu_parts, name, fails if name == "speed" else works)
    out = tmp_path / "gpu.json"
    assert gpu.main(["--size", "tiny", "--out", str(out)]) == 1
    printed = capsys.readouterr().out.splitlines()
    assert printed[2] == "speed        FAILED after 0 s: RuntimeError: broken"
    assert [line.split()[0] for line in printed] == list(PARTS)
    parts = json.loads(out.read_text())["parts"]
    assert "RuntimeError: broken" in parts["speed"]["traceback"]
    assert parts["run"]["rows"] == [{"what": "it", "value": 2.0, "unit": "GB"}]


@pytest.mark.parametrize("arguments", [[], ["--size", "full"]])
@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_without_a_gpu_nothing_is_guessed(arguments, capsys):
    assert gpu.main(arguments) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith("error: torch sees no GPU here")
