import pytest

from experiments.config import load_config
from experiments.show.decisions import describe_kept, kept_start

CHOSEN = {"monitor": "m", "start": 0.5, "kept": 0.5, "last": 0.25}


def test_without_a_choice_nothing_is_said_of_the_start():
    assert describe_kept({"best_step": None, "chosen_by": None}) == "no checkpoint was chosen by a validation"
    found = {"best_step": 4, "chosen_by": {"monitor": "m", "start": 0.5, "kept": 0.75, "last": None}}
    assert describe_kept(found) == "best checkpoint: step 4, m 0.750 (+0.250); last m undefined"


@pytest.mark.parametrize(
    ("changes", "summary", "kept"),
    [
        ([], {"trained": True, "best_step": None, "chosen_by": CHOSEN}, True),
        ([], {"trained": True, "best_step": 4, "chosen_by": CHOSEN}, False),
        ([], {"trained": True, "best_step": None, "chosen_by": None}, False),
        ([], {"trained": True, "best_step": None}, True),
        (["evaluation.monitor=null"], {"trained": True, "best_step": None}, False),
        ([], {"trained": False, "best_step": None}, False),
    ],
)
def test_the_start_is_kept_where_checkpoints_were_compared_with_it(changes, summary, kept):
    assert kept_start(load_config("quickstart", changes), summary) == kept
