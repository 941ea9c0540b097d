"""Loggers by name: what they are told, and what is said where a package is missing."""

import csv
import dataclasses
import importlib
import json
import sys
from importlib.util import find_spec
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
import yaml
from lightning.pytorch.loggers import MLFlowLogger, WandbLogger
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from callbacks.logged_media import add_text, log_histogram, log_text
from experiments.checks import check_settings
from experiments.config import ConfigError, load_config
from experiments.loggers import curves_name, make_loggers
from experiments.runs import RunFolder


def test_curves_are_named_by_all_that_differs(tmp_path):
    changes = ["data.train=/far/my/capitals.jsonl", "data.passages=my/corpus.tsv", "data.max_test=300"]
    changes += ["data.test=beir/qrels/test.tsv", "training.retriever_lr=1e-3", "reader.num_examples=0"]
    name = curves_name(load_config("quickstart", changes), RunFolder(tmp_path))
    assert name == (
        "tensorboard,train=capitals,test=beir-test,passages=corpus,max_test=300,retriever_lr=0.001"
    ), "no examples are shown anyway"
    assert curves_name(load_config("quickstart", []), RunFolder(tmp_path)) == "tensorboard"


def test_each_is_told_the_configuration_and_an_earlier_file_stays(tmp_path):
    config = load_config("quickstart", ["trainer.loggers=[tensorboard,csv]", "seed=3"])
    run = RunFolder(tmp_path)
    for value in (0.25, 0.5):  # a resumed run logs on in a process of its own
        for logger in make_loggers(config, run):
            logger.log_metrics({"validation/hr_at_5": value}, step=7)
            logger.finalize("success")
    assert list((tmp_path / "tensorboard").glob("events.*"))
    for name, value in (("csv", "0.25"), ("csv-2", "0.5")):
        with (tmp_path / name / "metrics.csv").open() as file:
            assert list(csv.DictReader(file)) == [{"step": "7", "validation/hr_at_5": value}]
        told = yaml.safe_load((tmp_path / name / "hparams.yaml").read_text())
        assert (told["seed"], told["objective.signals.likelihood"]) == (3, 1.0)
    assert make_loggers(load_config("quickstart", ["trainer.loggers=[]"]), run) == []


@pytest.mark.skipif(find_spec("wandb") is not None, reason="wandb is installed")
def test_a_missing_package_and_an_unknown_name_are_refused(tmp_path):
    config = load_config("quickstart", ["trainer.loggers=[csv,wandb]"])
    check_settings(config)
    with pytest.raises(ConfigError, match=r"wandb needs a package .*attention-distillation\[loggers\]"):
        make_loggers(config, RunFolder(tmp_path))
    with pytest.raises(ConfigError, match=r"'neptune' is unknown; choose one of: tensorboard.*trackio"):
        check_settings(load_config("quickstart", ["trainer.loggers=[csv,neptune]"]))


@pytest.mark.skipif(find_spec("trackio") is not None, reason="trackio is installed")
def test_a_missing_trackio_is_said(tmp_path):
    config = load_config("quickstart", ["trainer.loggers=[trackio]"])
    with pytest.raises(ConfigError, match=r"trackio needs a package .*attention-distillation\[trackio\]"):
        make_loggers(config, RunFolder(tmp_path))


# ---- what loggers get beside numbers ----

TRACKIO = """
calls = []

class Markdown:
    def __init__(self, text): self.text = text

class Histogram:
    def __init__(self, sequence): self.values = list(sequence)

class Run:
    def log(self, metrics, step=None): calls.append(("log", metrics, step))

def init(project, name=None, group=None, config=None, resume="never", embed=True):
    calls.append(("init", project, name, group, dict(config), resume, embed))
    return Run()
"""
"""What the suite uses of trackio 0.27, which is not installed where these tests run."""


@pytest.fixture
def trackio(tmp_path, monkeypatch):
    """The package, or a module in its place that records what it is told."""
    (tmp_path / "packages").mkdir()
    (tmp_path / "packages" / "trackio.py").write_text(TRACKIO)
    monkeypatch.syspath_prepend(tmp_path / "packages")
    monkeypatch.delitem(sys.modules, "trackio", raising=False)
    yield importlib.import_module("trackio")
    sys.modules.pop("trackio", None)


def write_check(runs: Path, config, advice: str, changes=None) -> None:
    """As `experiments.probe` leaves it, the newest of a second."""
    path = runs / "probes" / config.name / f"2026-{len(list(runs.rglob('probe.json')))}" / "probe.json"
    path.parent.mkdir(parents=True)
    of_config = dataclasses.asdict(config)
    of_config["reader"].update(changes or {})
    verdict = {"advice": advice, "reasons": ["AUC 0.81", "not length alone"], "needs_more": False}
    path.write_text(json.dumps({"config": of_config, "result": {"verdict": verdict}}))


def test_trackio_gets_the_configuration_numbers_text_and_histograms(tmp_path, trackio):
    config = load_config("quickstart", ["trainer.loggers=[trackio]", f"runs={tmp_path}", "seed=3"])
    write_check(tmp_path, config, "go")
    write_check(tmp_path, config, "do not", changes={"name": "another/reader"})
    run = RunFolder(tmp_path / "run")
    [logger] = make_loggers(config, run)
    logger.log_metrics({"validation/hr_at_5": 0.25}, step=7)
    trainer = SimpleNamespace(is_global_zero=True, loggers=[logger], global_step=8)
    log_text(trainer, "token_view", "**Paris**")
    log_histogram(trainer, "instances/teacher/auc", torch.tensor([0.5, 1.0]))
    logger.finalize("success")
    logger.log_metrics({"test/hr_at_5": 0.5}, step=9)  # a test after the training
    (what, project, name, group, told, resume, embed), *logged = trackio.calls
    assert (what, project, name, group) == ("init", "attention-distillation", "quickstart run", "quickstart")
    assert (resume, embed) == ("allow", False), "a run that is gone on with is the same run"
    assert (told["seed"], told["objective.signals.likelihood"]) == (3, 1.0)
    assert [(list(metrics), step) for _, metrics, step in logged] == [
        (["preflight"], 0),
        (["validation/hr_at_5"], 7),
        (["token_view"], 8),
        (["instances/teacher/auc"], 8),
        (["test/hr_at_5"], 9),
    ]
    assert logged[0][1]["preflight"].text == "go (AUC 0.81; not length alone)"
    assert logged[2][1]["token_view"].text == "**Paris**"
    assert logged[3][1]["instances/teacher/auc"].values == [0.5, 1.0]


def test_tensorboard_gets_the_verdict_and_csv_can_take_none(tmp_path):
    config = load_config("quickstart", ["trainer.loggers=[tensorboard,csv]", f"runs={tmp_path}"])
    run = RunFolder(tmp_path / "run")
    for _ in range(2):
        for logger in make_loggers(config, run):
            logger.finalize("success")
        write_check(tmp_path, config, "go")
    events = EventAccumulator(str(run.path / "tensorboard"))
    events.Reload()
    [found] = events.Tensors("preflight/text_summary")
    assert found.tensor_proto.string_val[0] == b"go (AUC 0.81; not length alone)"
    assert found.step == 0


def test_wandb_and_mlflow_are_told_text_as_they_take_it(monkeypatch):
    """Without the packages: what is asked of Lightning's loggers, whose own calls they are."""
    told = []
    wandb, mlflow = object.__new__(WandbLogger), object.__new__(MLFlowLogger)
    monkeypatch.setattr(WandbLogger, "log_text", lambda self, key, **kwargs: told.append((key, kwargs)))
    client = SimpleNamespace(log_text=lambda *args: told.append(args))
    monkeypatch.setattr(MLFlowLogger, "experiment", client)
    monkeypatch.setattr(MLFlowLogger, "run_id", "r1")
    for logger in (wandb, mlflow):
        add_text(logger, "retrieved", "**Paris**", step=4)
    assert told == [
        ("retrieved", {"columns": ["text"], "data": [["**Paris**"]], "step": 4}),
        ("r1", "**Paris**", "retrieved/step-4.md"),
    ]
