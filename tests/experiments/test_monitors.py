"""What is watched by default: only what can become worse in the run."""

import pytest

from experiments.config import load_config
from experiments.monitors import monitors_of

READER = ("start_candidates/indicator1/spearman_p90", "start_candidates/teacher/auc")


@pytest.mark.parametrize(
    ("experiment", "expected"),
    [
        ("quickstart", ("retrieval/hit",)),
        ("step2_vital", ("retrieval/hit",)),
        ("offshelf_vital", (*READER, "retrieval/hit")),
        ("step1_vital", READER),
    ],
)
def test_defaults(experiment, expected):
    assert monitors_of(load_config(experiment)) == expected


def test_what_is_named_is_watched():
    config = load_config("offshelf_vital", ["stopping.monitors=[teacher/auc]"])
    assert monitors_of(config) == ("teacher/auc",)
