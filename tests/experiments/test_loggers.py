"""Loggers by name: what they are told, and what is said where a package is missing."""

import csv
from importlib.util import find_spec

import pytest
import yaml

from experiments.checks import check_settings
from experiments.config import ConfigError, load_config
from experiments.loggers import make_loggers
from experiments.runs import RunFolder


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
    with pytest.raises(ConfigError, match="'trackio' is unknown; choose one of: tensorboard"):
        check_settings(load_config("quickstart", ["trainer.loggers=[csv,trackio]"]))
