from experiments.show.decisions import describe_kept


def test_without_a_choice_nothing_is_said_of_the_start():
    assert describe_kept({"best_step": None, "chosen_by": None}) == "no checkpoint was chosen by a validation"
    found = {"best_step": 4, "chosen_by": {"monitor": "m", "start": 0.5, "kept": 0.75, "last": None}}
    assert describe_kept(found) == "best checkpoint: step 4, m 0.750 (+0.250); last m undefined"
