"""What commands import before they do anything: those that load no model must not load models' code."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from experiments.config import ExperimentConfig, TrainerConfig, save_config

ROOT = Path(__file__).parents[2]
MODELS_CODE = ("transformers", "lightning", "torchmetrics", "scipy.stats", "spacy", "faiss", "bm25s")
"""Each takes from a third of a second to several seconds."""
PROGRAM = """
import sys
from importlib import import_module

name, *arguments = sys.argv[1:]
code = import_module(f"experiments.{name}").main(arguments)
print(code, *sys.modules, file=sys.stderr)
"""


@pytest.mark.parametrize(
    ("command", "code", "unwanted"),
    [
        ("run --list", 0, ("torch", *MODELS_CODE)),
        ("run --exp quickstart --print-config", 0, ("torch", *MODELS_CODE)),
        # what is asked for is not there, which is said once all is imported
        ("report nowhere", 2, MODELS_CODE),
        ("report run", 0, MODELS_CODE),
        ("analyse --from nowhere.parquet", 2, MODELS_CODE),
    ],
)
def test_a_command_imports_no_more_than_it_needs(command, code, unwanted, tmp_path):
    (tmp_path / "run").mkdir()
    config = ExperimentConfig(name="mine", trainer=TrainerConfig(loggers=["csv"]))
    save_config(config, tmp_path / "run" / "config.yaml")
    ended = subprocess.run(
        [sys.executable, "-c", PROGRAM, *command.split()],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )
    found, *modules = ended.stderr.splitlines()[-1].split()
    assert int(found) == code, ended.stderr
    assert not set(unwanted) & set(modules)
