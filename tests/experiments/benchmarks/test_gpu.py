"""The script for a GPU, in small on the CPU, where packages that a GPU machine may lack are not there."""

import json
import os
import re
import subprocess
import sys
import time
import tomllib
from pathlib import Path

import pytest
import torch

from experiments.benchmarks import gpu
from experiments.benchmarks.gpu import PARTS, WIDTH, run_part
from experiments.benchmarks.gpu_parts import OLDEST, TINY, Rig
from experiments.benchmarks.row import Row

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
        time.sleep(5)

    outcome = run_part(part, rig(), 0.05)
    assert (outcome.rows, outcome.error) == ([Row("first", 1.0)], "TimeoutError: not done after 0.05 s")


def test_one_failure_does_not_stop_the_others(monkeypatch, tmp_path, capsys):
    from experiments.benchmarks import gpu_parts

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
