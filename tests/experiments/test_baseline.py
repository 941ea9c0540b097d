"""A baseline for stopping is read as written; other files are refused, with what to do instead."""

import json
import math

import pytest

from experiments.checks import check_overlap, read_baseline
from experiments.config import ConfigError
from lightning_modules.metrics.question_values import QuestionValues

IDS = [f"q{i}" for i in range(9)]
MONITOR = "indicator1/spearman_p90"


def write(path, content):
    path.write_text(json.dumps(content))
    return path


def test_the_instances_of_a_file_are_read(tmp_path):
    values = {MONITOR: [*range(8), None], "other": [None] * 9}
    content = {"test": {"em": 1}, "instances": {"question_ids": IDS, "values": values}}
    found = read_baseline(write(tmp_path / "start.json", content), [MONITOR])
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
        read_baseline(write(tmp_path / "file.json", content), [MONITOR])


def test_a_missing_file_and_a_folder_are_refused(tmp_path):
    for path in (tmp_path / "none.json", tmp_path):
        with pytest.raises(ConfigError, match=r"stopping\.baseline: .*cannot (be )?read"):
            read_baseline(path, [MONITOR])


def test_what_a_probe_measured_was_measured_on_the_passages_of_the_start(tmp_path):
    values = {"teacher/auc": [0.5] * 9, MONITOR: [0.1] * 9, f"start_candidates/{MONITOR}": [0.2] * 9}
    path = write(tmp_path / "file.json", {"instances": {"question_ids": IDS, "values": values}})
    monitors = ["start_candidates/teacher/auc", f"start_candidates/{MONITOR}"]
    found = read_baseline(path, monitors).values
    assert found["start_candidates/teacher/auc"] == [0.5] * 9
    assert found[f"start_candidates/{MONITOR}"] == [0.2] * 9, "a run's own is on its start's passages"


def test_a_metric_of_too_few_questions_is_refused(tmp_path):
    values = {MONITOR: [0.1] * 9, "teacher/auc": [0.5] * 7 + [None] * 2}
    path = write(tmp_path / "file.json", {"instances": {"question_ids": IDS, "values": values}})
    with pytest.raises(
        ConfigError, match=r"has teacher/auc of 7 questions, at least 8 .* stopping\.monitors"
    ):
        read_baseline(path, [MONITOR, "teacher/auc"])
    with pytest.raises(ConfigError, match="has nothing of 0 questions"):
        read_baseline(path, ["nothing"])


def test_other_questions_are_refused(tmp_path):
    baseline = QuestionValues(IDS)
    check_overlap(tmp_path, baseline, QuestionValues(["x", *IDS[1:]]))
    with pytest.raises(ConfigError, match=r"only 7 of the questions .* at least 8 .*evaluation\.num_read"):
        check_overlap(tmp_path, baseline, QuestionValues(["x", *IDS[2:]]))
