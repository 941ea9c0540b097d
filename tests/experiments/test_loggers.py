"""Loggers by name: what they are told, and what is said where a package is missing."""

import csv
import dataclasses
import importlib
import json
import sqlite3
import sys
from contextlib import closing
from importlib.util import find_spec
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
import yaml
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from callbacks.log_curve import draw_hit_rates
from callbacks.logged_media import log_figure, log_histogram, log_text
from experiments.checks import check_settings
from experiments.config import ConfigError, load_config
from experiments.loggers import LOGGERS, curves_name, make_loggers
from experiments.runs import RunFolder, create_run


def test_curves_are_named_by_all_that_differs(tmp_path):
    changes = ["data.train=/far/my/capitals.jsonl", "data.passages=my/corpus.tsv", "data.max_test=300"]
    changes += ["data.test=beir/qrels/test.tsv", "training.retriever_lr=1e-3", "reader.num_examples=0"]
    name = curves_name(load_config("quickstart", changes), RunFolder(tmp_path))
    assert name == (
        "tensorboard,train=capitals,test=beir-test,passages=corpus,max_test=300,retriever_lr=0.001"
    ), "no examples are shown anyway"
    assert curves_name(load_config("quickstart", []), RunFolder(tmp_path)) == "tensorboard"


def test_what_a_run_has_resolved_is_no_difference(tmp_path):
    """The heads of a list: its curves are named by what was asked for, and so is the check of its teacher."""
    config = load_config("quickstart", [f"runs={tmp_path}", "reader.attention_heads=core:8"])
    write_check(tmp_path, config, "go")
    run = create_run(config)
    named = dataclasses.replace(config, reader=dataclasses.replace(config.reader, attention_heads="0.1,2.3"))
    assert curves_name(named, run) == "tensorboard,attention_heads=core_8"
    for logger in make_loggers(named, run):
        logger.finalize("success")
    [folder] = run.path.glob("tensorboard,*")
    events = EventAccumulator(str(folder))
    events.Reload()
    assert events.Tensors("preflight/text_summary")


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

class Image:
    def __init__(self, value): self.pixels = value

class Run:
    def log(self, metrics, step=None): calls.append(("log", metrics, step))

def init(project, name=None, group=None, config=None, resume="never", embed=True):
    calls.append(("init", project, name, group, dict(config), resume, embed))
    return Run()
"""
"""What the suite uses of trackio 0.43, which is not installed where these tests run."""


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
    log_figure(trainer, "hit_rate", draw_hit_rates({0: {"validation/hr_at_5": 0.25}}, ks=(5,)))
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
        (["hit_rate"], 8),
        (["test/hr_at_5"], 9),
    ]
    assert logged[0][1]["preflight"].text == "go (AUC 0.81; not length alone)"
    assert logged[2][1]["token_view"].text == "**Paris**"
    assert logged[3][1]["instances/teacher/auc"].values == [0.5, 1.0]
    pixels = logged[4][1]["hit_rate"].pixels
    assert (pixels.dtype, pixels.shape[2], pixels.min() < pixels.max()) == ("uint8", 3, True)


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


def log_everything(config, run: RunFolder):
    """A number, text, a histogram and an image, to the only logger of a configuration."""
    [logger] = make_loggers(config, run)
    logger.log_metrics({"validation/hr_at_5": 0.25}, step=7)
    trainer = SimpleNamespace(is_global_zero=True, loggers=[logger], global_step=8)
    log_text(trainer, "retrieved", "**Paris**")
    log_histogram(trainer, "instances/teacher/auc", torch.tensor([0.5, 1.0]))
    validations = {0: {"validation/hr_at_5": 0.25, "validation/bm25/hr_at_5": 0.5}}
    log_figure(trainer, "hit_rate", draw_hit_rates(validations, ks=(5, 20)))
    logger.log_metrics({"test/hr_at_5": 0.5}, step=9)
    return logger


def checked_config(name: str, folder: Path):
    config = load_config("quickstart", [f"trainer.loggers=[{name}]", f"runs={folder}", "seed=3"])
    write_check(folder, config, "go")
    return config


def is_image(path: Path) -> bool:
    return path.read_bytes().startswith(b"\x89PNG") and path.stat().st_size > 5_000


def test_tensorboard_shows_an_image(tmp_path):
    log_everything(checked_config("tensorboard", tmp_path), RunFolder(tmp_path / "run")).finalize("success")
    events = EventAccumulator(str(tmp_path / "run" / "tensorboard"))
    events.Reload()
    [found] = events.Images("hit_rate")
    (tmp_path / "hit_rate.png").write_bytes(found.encoded_image_string)
    assert is_image(tmp_path / "hit_rate.png")
    assert (found.step, found.width > found.height) == (8, True)


def test_csv_takes_no_image(tmp_path):
    log_everything(checked_config("csv", tmp_path), RunFolder(tmp_path / "run")).finalize("success")
    assert {path.name for path in (tmp_path / "run" / "csv").iterdir()} == {"metrics.csv", "hparams.yaml"}


# ---- the packages of the extras, where they are installed ----


@pytest.mark.filterwarnings("ignore")
def test_wandb_keeps_all_of_it(tmp_path, monkeypatch):
    pytest.importorskip("wandb")
    monkeypatch.setenv("WANDB_MODE", "offline")
    logger = log_everything(checked_config("wandb", tmp_path), RunFolder(tmp_path / "run"))
    run = logger.experiment
    assert run.config["objective.signals.likelihood"] == 1.0
    assert (run.name, run.group) == ("quickstart run", "quickstart")
    summary = dict(run.summary)
    run.finish()
    assert (summary["validation/hr_at_5"], summary["test/hr_at_5"]) == (0.25, 0.5)
    assert sum(summary["instances/teacher/auc"]["values"]) == 2
    [files] = (tmp_path / "run" / "wandb").glob("offline-run-*/files/media")
    [image] = files.rglob("hit_rate*.png")
    assert is_image(image)
    for name, text in (("preflight", "go (AUC 0.81; not length alone)"), ("retrieved", "**Paris**")):
        [table] = files.rglob(f"{name}*.table.json")
        assert json.loads(table.read_text())["data"] == [[text]]


@pytest.mark.filterwarnings("ignore")
def test_mlflow_keeps_all_but_histograms(tmp_path, monkeypatch):
    mlflow = pytest.importorskip("mlflow")
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    logger = log_everything(checked_config("mlflow", tmp_path), RunFolder(tmp_path / "run"))
    logger.finalize("success")
    client = mlflow.MlflowClient(f"sqlite:///{tmp_path / 'run' / 'mlflow.db'}")
    found = client.get_run(logger.run_id)
    assert (found.info.run_name, found.info.status) == ("run", "FINISHED")
    assert found.data.metrics == {"validation/hr_at_5": 0.25, "test/hr_at_5": 0.5}
    assert found.data.params["objective.signals.likelihood"] == "1.0"
    [artifacts] = (tmp_path / "run" / "mlruns").glob("*/artifacts")
    assert (artifacts / "preflight" / "step-0.md").read_text() == "go (AUC 0.81; not length alone)"
    assert (artifacts / "retrieved" / "step-8.md").read_text() == "**Paris**"
    assert is_image(artifacts / "hit_rate" / "step-8.png")


@pytest.mark.filterwarnings("ignore")
def test_mlflow_goes_where_its_variable_says(tmp_path, monkeypatch):
    pytest.importorskip("mlflow")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
    logger = LOGGERS["mlflow"](checked_config("mlflow", tmp_path), RunFolder(tmp_path / "run"))
    assert logger._tracking_uri == "http://127.0.0.1:9"


@pytest.mark.filterwarnings("ignore")
def test_trackio_itself_keeps_all_of_it(tmp_path, monkeypatch):
    monkeypatch.setenv("TRACKIO_DIR", str(tmp_path / "trackio"))
    pytest.importorskip("trackio")
    logger = log_everything(checked_config("trackio", tmp_path), RunFolder(tmp_path / "run"))
    logger.experiment.finish()
    [database] = (tmp_path / "trackio").glob("*.db")
    with closing(sqlite3.connect(database)) as connection:
        rows = connection.execute("SELECT step, metrics FROM metrics ORDER BY step, id").fetchall()
    logged = {(step, name): value for step, text in rows for name, value in json.loads(text).items()}
    assert (logged[7, "validation/hr_at_5"], logged[9, "test/hr_at_5"]) == (0.25, 0.5)
    assert "**Paris**" in json.dumps(logged[8, "retrieved"])
    assert sum(logged[8, "instances/teacher/auc"]["values"]) == 2
    [image] = (tmp_path / "trackio").rglob("*.png")
    assert is_image(image)
