"""Rules for the verdict: whom a teacher counts as a stranger; and which teachers are compared at all."""

import numpy as np
import pytest

from experiments.study.analysis import Predictions
from experiments.study.cells import Cell, Result, exactly
from experiments.study.derived.of_prediction import GROUPS, JUDGED, SAID
from experiments.study.rules import STRANGERS, make_rule
from experiments.study.teachers import teachers

KNOWN = teachers()


def result_of(teacher, seed=0, measure=0.5, gain=0.0):
    noise = np.random.default_rng(0).normal(0, 0.001, 20)
    questions = {
        of: (gain + noise).tolist() for of in ("gain/beyond_length", "gain/hr_at_5", "gain/mrr_at_20")
    }
    questions |= {f"validation/hr_at_5@{step}": [0.0, 1.0] for step in (0, 8)}
    measures = {"before/auc_at_equal_length": exactly(measure), "before/verdict": exactly(1.0)}
    return Result(Cell.of("prediction", seed, teacher=teacher), measures, questions)


def test_readers_made_of_one_model_are_strangers_by_name_alone():
    one, trained, second = (
        KNOWN[name] for name in ("initial answer", "step1-40 question", "second question")
    )
    by_name, by_model = (STRANGERS[name].traits for name in ("other-reader", "other-base-model"))
    assert not by_name(one) & by_name(trained)
    assert by_model(one) & by_model(trained)
    assert not by_model(one) & by_model(second)
    for traits in (by_name, by_model):
        assert traits(trained) & traits(second), "they share their signal"


@pytest.mark.parametrize(("strangers", "num_judged"), [("other-reader", 39), ("other-base-model", 21)])
def test_a_rule_is_made_of_strangers_alone(strangers, num_judged):
    """All measured alike, and gains that follow: what has too few strangers is judged by none."""
    with_reader = [name for name, teacher in KNOWN.items() if teacher.control is None]
    results = [result_of(name, measure=place / 50, gain=place / 50) for place, name in enumerate(with_reader)]
    results += [result_of("uniform", gain=0.0), result_of("labels", gain=0.8)]
    found = Predictions(results)
    rule = make_rule(found, ["auc_at_equal_length"], STRANGERS[strangers])
    assert rule.num_teachers == num_judged
    assert rule.error == pytest.approx(0.0, abs=1e-9)
    traits = [STRANGERS[strangers].traits(KNOWN[name]) for name in with_reader]
    first = [place for place, of in enumerate(traits) if place and not of & traits[0]]
    mean = np.mean([results[place].questions["gain/beyond_length"] for place in first])
    assert rule.left_out.from_mean[0] == pytest.approx(mean)


def test_teachers_with_other_seeds_are_left_out():
    seeds = {"uniform": (0, 1), "labels": (0, 1), "length": (0, 2), "order": (1,)}
    found = Predictions([result_of(name, seed) for name, of in seeds.items() for seed in of])
    assert found.seeds == {0, 1}
    assert found.results.keys() == {"uniform", "labels"}
    assert sorted(found.left_out) == ["length", "order"]


def test_every_judged_group_is_one_that_is_measured():
    assert {judged.group for judged in JUDGED.values()} <= GROUPS.keys()
    assert SAID == {"go": 1.0, "unsure": 0.0, "no-go": -1.0}
