"""A baseline for stopping is read as written; other files are refused, with what to do instead."""

import dataclasses
import json
import math
from pathlib import Path

import pytest

from experiments.checks import check_overlap, read_baseline
from experiments.config import ConfigError, DataConfig, load_config
from experiments.runs import create_run
from lightning_modules.metrics.question_values import QuestionValues

IDS = [f"q{i}" for i in range(9)]
MONITOR = "indicator1/spearman_p90"
DATA = DataConfig()


def write(path, content):
    path.write_text(json.dumps(content))
    return path


def test_the_instances_of_a_file_are_read(tmp_path):
    values = {MONITOR: [*range(8), None], "other": [None] * 9}
    content = {"test": {"em": 1}, "instances": {"question_ids": IDS, "values": values}}
    found = read_baseline(write(tmp_path / "start.json", content), [MONITOR], DATA)
    assert found.question_ids == IDS
    assert found.values[MONITOR] == pytest.approx([*range(8), math.nan], nan_ok=True)


@pytest.mark.parametrize(
    "content",
    [
        [],
        {},
        {"instances": {"question_ids": IDS}},
        {"instances": {"question_ids": IDS, "values": {MONITOR: [0.1]}}},
        {"instances": {"question_ids": IDS, "values": {MONITOR: ["high"] * 9}}},
        {"instances": {"question_ids": IDS, "values": [0.1] * 9}},
    ],
)
def test_other_content_is_refused(tmp_path, content):
    with pytest.raises(ConfigError, match=r"file\.json does not hold instances .* start\.json"):
        read_baseline(write(tmp_path / "file.json", content), [MONITOR], DATA)


def test_a_missing_file_and_a_folder_are_refused(tmp_path):
    for path in (tmp_path / "none.json", tmp_path):
        with pytest.raises(ConfigError, match=r"stopping\.baseline: .*cannot (be )?read"):
            read_baseline(path, [MONITOR], DATA)


def test_what_a_probe_measured_was_measured_on_the_passages_of_the_start(tmp_path):
    values = {"teacher/auc": [0.5] * 9, MONITOR: [0.1] * 9, f"start_candidates/{MONITOR}": [0.2] * 9}
    path = write(tmp_path / "file.json", {"instances": {"question_ids": IDS, "values": values}})
    monitors = ["start_candidates/teacher/auc", f"start_candidates/{MONITOR}"]
    found = read_baseline(path, monitors, DATA).values
    assert found["start_candidates/teacher/auc"] == [0.5] * 9
    assert found[f"start_candidates/{MONITOR}"] == [0.2] * 9, "a run's own is on its start's passages"


def test_a_metric_of_too_few_questions_is_refused(tmp_path):
    values = {MONITOR: [0.1] * 9, "teacher/auc": [0.5] * 7 + [None] * 2}
    path = write(tmp_path / "file.json", {"instances": {"question_ids": IDS, "values": values}})
    with pytest.raises(
        ConfigError, match=r"has teacher/auc of 7 questions, at least 8 .* stopping\.monitors"
    ):
        read_baseline(path, [MONITOR, "teacher/auc"], DATA)
    with pytest.raises(ConfigError, match="has nothing of 0 questions"):
        read_baseline(path, ["nothing"], DATA)


def test_other_questions_are_refused(tmp_path):
    baseline = QuestionValues(IDS)
    check_overlap(tmp_path, baseline, QuestionValues(["x", *IDS[1:]]))
    with pytest.raises(ConfigError, match=r"only 7 of the questions .* at least 8 .*evaluation\.num_read"):
        check_overlap(tmp_path, baseline, QuestionValues(["x", *IDS[2:]]))


# ---- ids number the lines of one file ----


def saved_probe(path: Path, split: str, data: DataConfig) -> Path:
    instances = QuestionValues(IDS, {MONITOR: [0.5] * 9}).to_json()
    config = {"data": dataclasses.asdict(data)}
    return write(path, {"kind": "probe", "split": split, "instances": instances, "config": config})


NQ = DataConfig(train="nq-train.qa.csv", validation="nq-dev.qa.csv", test="nq-test.qa.csv")
OWN = DataConfig(train="my/train.jsonl", validation="my/dev.jsonl", test="my/test.jsonl")
HELD_OUT = DataConfig(train="my/all.jsonl", validation="held_out", test="held_out")


@pytest.mark.parametrize("data", [DATA, NQ, OWN, HELD_OUT])
def test_a_probe_of_other_questions_is_refused(tmp_path, data):
    same = saved_probe(tmp_path / "same.json", "validation", data)
    assert read_baseline(same, [MONITOR], data).question_ids == IDS
    fewer = dataclasses.replace(data, max_validation=9, max_train=50)
    assert read_baseline(same, [MONITOR], fewer).question_ids == IDS, "the first ones of the same"
    others = [("validation", other) for other in (DATA, NQ, OWN, HELD_OUT) if other != data]
    for split, other in [("test", data), ("train", data), *others]:
        path = saved_probe(tmp_path / "other.json", split, other)
        with pytest.raises(
            ConfigError, match=r"is of other questions .* --split validation .* stopping\.baseline=null"
        ):
            read_baseline(path, [MONITOR], data)


def test_the_start_of_a_run_with_other_questions_is_refused(tmp_path):
    """What its folder says of it; away from there nothing does."""
    run = create_run(load_config("quickstart", [f"runs={tmp_path}", "data.validation=my/dev.jsonl"]))
    write(run.start, {"instances": QuestionValues(IDS, {MONITOR: [0.5] * 9}).to_json()})
    assert read_baseline(run.start, [MONITOR], OWN).question_ids == IDS
    with pytest.raises(ConfigError, match=r"start\.json is of other questions \(.*dev\.jsonl\) .*vital"):
        read_baseline(run.start, [MONITOR], DATA)
    copy = write(tmp_path / "copy.json", json.loads(run.start.read_text()))
    assert read_baseline(copy, [MONITOR], DATA).question_ids == IDS
    run.config.write_text("[")
    with pytest.raises(ConfigError, match=r"stopping\.baseline: .*config\.yaml"):
        read_baseline(run.start, [MONITOR], OWN)


@pytest.mark.parametrize("change", [{"split": None}, {"config": []}, {"config": {"data": {"train": 3}}}])
def test_a_probe_that_does_not_say_whose_questions_it_read_is_refused(tmp_path, change):
    path = saved_probe(tmp_path / "probe.json", "validation", DATA)
    with pytest.raises(ConfigError, match=r"other questions|does not hold instances"):
        read_baseline(write(path, json.loads(path.read_text()) | change), [MONITOR], HELD_OUT)
