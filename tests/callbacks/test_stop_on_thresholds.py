"""Scripted means in a real Trainer: which bounds break, when, what follows, and what it says."""

import math

import lightning as L
import numpy as np
import pytest
from lightning.pytorch.loggers import TensorBoardLogger
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torchdata.stateful_dataloader import StatefulDataLoader

from callbacks.blamed_model import is_worse, model_of, what_declined
from callbacks.decisions import COMPARISON, Decisions
from callbacks.log_indicators import LogIndicators
from callbacks.refresh_index import RefreshIndex
from callbacks.save_last import SaveLast
from callbacks.stop_on_indicators import StopOnIndicators
from callbacks.stop_on_thresholds import StopOnThresholds, did_you_mean
from lightning_modules.metrics.question_values import QuestionValues
from tests.several_processes import run_script
from tests.toy_training import (
    LIGHTNING_ADVICE,
    OneNumber,
    toy_datamodule,
    toy_module,
    toy_trainer,
)

pytestmark = pytest.mark.filterwarnings(*LIGHTNING_ADVICE)

START = {"m": 0.5}


class ScriptedMeans(L.Callback):
    """Logs the means one after the other, a validation each: at the start, then after every step.

    A number stands for the metric `m`.
    """

    def __init__(self, script) -> None:
        self.script = [{"m": one} if isinstance(one, float) else one for one in script]

    def on_validation_epoch_end(self, trainer, pl_module) -> None:
        for name, value in self.script.pop(0).items():
            pl_module.log(name, value)


def run(
    folder,
    means,
    thresholds,
    start=None,
    module=None,
    index=(),
    max_steps=None,
    ckpt_path=None,
    logger=False,
    others=(),
    decided=None,
):
    """The callback, the steps done and the module; without `start`, the first mean is the start's."""
    stopping = StopOnThresholds(thresholds, start, decided)
    trainer = toy_trainer(
        folder,
        [*index, ScriptedMeans(means), *others, stopping, SaveLast(folder / "last.ckpt", 1)],
        max_steps=max_steps or len(means) - (start is None),
        limit_val_batches=1,
        val_check_interval=1,
        logger=logger,
    )
    data = StatefulDataLoader([0.0] * 20) if module is None else toy_datamodule()
    module = module or OneNumber()
    both = (data, data) if isinstance(data, StatefulDataLoader) else (data,)
    if start is None:
        trainer.validate(module, data, verbose=False)
    trainer.fit(module, *both, ckpt_path=ckpt_path, weights_only=True)
    return stopping, trainer.global_step, module


def run_models(folder, means, thresholds, start, train_reader=True, schedule="0-100:1", **settings):
    """The same with tiny models, and an index that is fresh at the steps of a schedule."""
    folder.mkdir(exist_ok=True)
    index = RefreshIndex(schedule, folder / "index", show_progress=False)
    module = toy_module(folder, train_reader=train_reader)
    return run(folder, means, thresholds, start, module, [index], **settings)


def made(stopping) -> list[tuple[int, str]]:
    return [(decision.step, decision.action) for decision in stopping.decided.made]


# ---- when a run stops ----


@pytest.mark.parametrize(
    ("threshold", "means", "steps", "reason"),
    [
        ("m >= 0.3 for 1", [0.5, 0.3, 0.2, 0.2], 2, "threshold"),
        ("m >= 0.3 for 2", [0.5, 0.2, 0.3, 0.2, 0.2, 0.2], 4, "threshold"),
        ("m >= 0.3 for 3", [0.5, 0.2, 0.2, 0.4], 3, None),
        ("m <= 0.6 for 1", [0.5, 0.6, 0.7, 0.7], 2, "threshold"),
        ("m >= start - 0.25 for 1", [0.5, 0.25, 0.24, 0.24], 2, "threshold"),
        ("m <= start + 0.25 for 1", [0.5, 0.75, 0.76, 0.76], 2, "threshold"),
        ("m >= start for 1", [0.5, 0.5, 0.5], 2, None),
        ("until m >= 0.7", [0.5, 0.6, 0.7, 0.8], 2, "target"),
        ("until m >= 0.7 for 2", [0.5, 0.7, 0.6, 0.7, 0.8, 0.8], 4, "target"),
        ("until m <= start - 0.25", [0.5, 0.3, 0.2, 0.2], 2, "target"),
        # nothing that is not finite holds a bound or reaches a goal
        ("m >= 0.3 for 2", [0.5, 0.2, math.nan, 0.5], 2, "threshold"),
        ("m >= 0.3 for 1", [0.5, math.inf, 0.5], 1, "threshold"),
        ("until m >= 0.7", [0.5, math.nan, math.inf, 0.5], 3, None),
        ("m >= start for 1", [math.nan, 0.1, 0.0], 2, None),
    ],
)
def test_when_a_threshold_ends_the_run(tmp_path, threshold, means, steps, reason):
    stopping, done, _ = run(tmp_path, means, [threshold])
    assert (done, stopping.decided.reason) == (steps, reason)
    assert made(stopping) == ([] if reason is None else [(steps, "stop")])


def test_a_decision_says_its_numbers(tmp_path):
    stopping, _, _ = run(tmp_path, [0.5, 0.375, 0.25], ["m >= start - 0.0625"])
    [decision] = stopping.decided.made
    assert decision.rule == "m >= start - 0.0625 for 2 then stop"
    assert (decision.baseline, decision.value, decision.change, decision.bound) == (0.5, 0.25, -0.25, 0.4375)
    assert (decision.metric, decision.low, decision.high) == ("m", None, None)
    said = "m is 0.25, which breaks >= start - 0.0625 = 0.4375 (start: 0.5) in 2 validations in a row"
    assert stopping.decided.message == said
    stopping, _, _ = run(tmp_path, [0.5, math.nan], ["m >= start for 1"])
    assert stopping.decided.message == "m is undefined, which breaks >= start = 0.5"
    stopping, _, _ = run(tmp_path, [0.75], ["until m >= 0.7"], START)
    assert stopping.decided.message == "m = 0.75 reached the target >= 0.7"


class ScriptedHits(LogIndicators):
    """Knows 60 questions that were asked, 12 that were read, and 11 that have a value."""

    def on_validation_batch_end(self, *_args, **_kwargs) -> None:
        pass

    def on_validation_epoch_end(self, trainer, pl_module) -> None:
        ids = [f"q{i}" for i in range(60)]
        self.latest_hits = QuestionValues(ids, {"retrieval/hit": [1.0] * 60})
        values = {"indicator1/spearman_p90": [0.5] * 11 + [math.nan]}
        self.latest_questions = QuestionValues(ids[:12], values)


FEW = "questions are few: each is"


@pytest.mark.parametrize(
    ("threshold", "value", "said"),
    [
        (
            "validation/hr_at_7 >= start",
            0.4,
            "which breaks >= start = 0.5 (60 questions): the retriever finds passages with an answer for "
            "fewer questions, so training harms it",
        ),
        (
            "validation/hr_at_5 >= 0.7",
            0.6,
            "which breaks >= 0.7 (60 questions); it is a metric of the retriever",
        ),
        (
            "until validation/hr_at_5 >= 0.7",
            0.8,
            "= 0.8 reached the target >= 0.7 (60 questions); it is a metric of the retriever",
        ),
        (
            "indicator1/spearman_p90 >= start",
            0.4,
            "(11 questions): the reader teaches worse on what is retrieved now than on what was at the "
            f"start; 11 {FEW} 0.091 of the mean, and others may say otherwise, so give validations more",
        ),
        (
            "until indicator1/spearman_p90 >= 0.7",
            0.8,
            f"(11 questions); it is a metric of the reader; 11 {FEW} 0.091 of the mean, and others may say "
            "otherwise, so give validations more",
        ),
        ("validation/f1 >= start", 0.4, f"than from what was at the start; 12 {FEW} 0.083 of the mean"),
        ("m >= start", 0.4, "m is 0.4, which breaks >= start = 0.5"),
    ],
)
def test_a_decision_says_which_model_it_is_about_and_how_few_questions_say_so(
    tmp_path, threshold, value, said
):
    name = threshold.removeprefix("until ").split()[0]
    indicators = ScriptedHits()
    stopping = StopOnThresholds([f"{threshold} for 1"], {name: 0.5}, indicators=indicators)
    trainer = toy_trainer(
        tmp_path,
        [ScriptedMeans([{name: value}]), indicators, stopping],
        max_steps=1,
        limit_val_batches=1,
        val_check_interval=1,
    )
    data = StatefulDataLoader([0.0] * 2)
    trainer.fit(OneNumber(), data, data)
    assert said in stopping.decided.message
    assert (FEW in stopping.decided.message) == (FEW in said)


def test_a_frozen_reader_is_not_blamed():
    assert what_declined("indicator1/spearman_p95", reader_is_frozen=True).startswith(
        "the reader is frozen and"
    )
    assert what_declined("validation/em", reader_is_frozen=True).startswith(
        "the reader is frozen, and answers"
    )
    assert (model_of("start_candidates/teacher/auc"), model_of("embeddings/effective_rank")) == (
        "reader",
        "retriever",
    )
    assert model_of("validation/kl") is model_of("validation/bm25/hr_at_5") is None
    assert not is_worse("validation/kl", 0.1, 0.2), "nobody says that more is better"
    assert is_worse("start_candidates/teacher/auc", 0.1, 0.2)


def test_all_that_break_in_a_validation_are_listed_and_the_first_gives_the_reason(tmp_path):
    thresholds = ["m >= 0.3 for 1", "n <= 1 for 1 then freeze_retriever", "n <= 1 for 1"]
    stopping, steps, module = run_models(
        tmp_path, [{"m": 0.2, "n": 2.0}] * 2, thresholds, {"m": 0.5, "n": 1.0}
    )
    assert (steps, [decision.metric for decision in stopping.decided.made]) == (1, ["m", "n"])
    assert stopping.decided.message == "m is 0.2, which breaks >= 0.3"
    assert module.retriever_learns, "a run that ends freezes nothing"


@pytest.mark.parametrize(("name", "steps"), [("teacher/auc", 3), ("indicator1/spearman_p90", 1)])
def test_only_a_teacher_left_undefined_by_retrieval_goes_on(tmp_path, name, steps):
    script = [{name: math.nan}] * 3
    _, done, _ = run(tmp_path, script, [f"{name} >= 0.5 for 1"], {name: 0.7})
    assert done == steps


@pytest.mark.parametrize(
    ("name", "steps"), [("m", 4), ("start_candidates/teacher/auc", 2), ("embeddings/effective_rank", 2)]
)
def test_what_a_stale_index_finds_is_not_compared(tmp_path, name, steps):
    """Fresh at every second step; what needs no index is compared at every one."""
    script = [{name: 0.2}] * 6
    _, done, _ = run_models(tmp_path, script, [f"{name} >= 0.3 for 2"], {name: 0.5}, schedule="0-100:2")
    assert done == steps
    _, done, _ = run_models(tmp_path / "never", [{"m": 0.2}] * 3, ["m >= 0.3 for 1"], START, schedule="-1")
    assert done == 3


def test_the_start_is_told_of(tmp_path, caplog):
    thresholds = ["m >= 0.6 for 3", "until m >= 0.4", "n >= start", "m >= start + 0.1"]
    thresholds += ["m >= start", "m <= 0.6", "until m >= start + 0.1"]
    stopping, _, _ = run(tmp_path, [{"m": 0.5, "n": math.nan}] * 2, thresholds)
    assert stopping.start["m"] == 0.5
    told = [record.getMessage() for record in caplog.records if "at the start" in record.getMessage()]
    assert told == [
        "m is 0.5 at the start: 'm >= 0.6 for 3 then stop' will act after 3 validations unless that changes",
        "m is 0.5 at the start: 'until m >= 0.4 for 1' will act after 1 validation unless that changes",
        "n is undefined at the start: 'n >= start for 2 then stop' will decide nothing",
        "m is 0.5 at the start: 'm >= start + 0.1 for 2 then stop' will act after 2 validations unless that "
        "changes",
    ]


def test_what_is_not_logged_and_a_start_that_is_missing_are_refused(tmp_path):
    with pytest.raises(ValueError, match=r"thresholds: 'mm' is not measured in .* \(did you mean 'm'\?\)"):
        run(tmp_path, [0.5, 0.5], ["mm >= 0.3"])
    with pytest.raises(ValueError, match=r"'m >= start' needs the start; call trainer.validate before"):
        run(tmp_path, [0.5], ["m >= start"], start={"other": 0.5})


def test_near_names():
    known = ["teacher/auc", "teacher/mrr", "validation/hr_at_5", "x"]
    assert did_you_mean("teacher/acu", known) == " (did you mean 'teacher/auc' or 'teacher/mrr'?)"
    assert did_you_mean("hr_at_5", known) == " (did you mean 'validation/hr_at_5'?)"
    assert did_you_mean("quite something else", known) == ""


# ---- actions ----


def test_a_frozen_retriever_stays_so(tmp_path):
    stopping, steps, module = run_models(
        tmp_path, [0.2, 0.5, 0.2], ["m >= 0.3 for 1 then freeze_retriever"], START
    )
    assert (steps, made(stopping)) == (3, [(1, "freeze_retriever")])
    assert not module.retriever_learns


def test_the_reader_first_until_the_bound_holds(tmp_path):
    stopping, _, module = run_models(
        tmp_path, [0.2, 0.29, 0.3, 0.2, 0.2], ["m >= 0.3 for 1 then reader_first"], START
    )
    assert made(stopping) == [(1, "reader_first"), (3, "distil"), (4, "reader_first")]
    assert not module.retriever_learns


def test_the_retriever_learns_again_once_no_threshold_holds_it_back(tmp_path):
    thresholds = ["m >= 0.3 for 1 then reader_first", "n >= 0.3 for 1 then reader_first"]
    script = [{"m": 0.2, "n": 0.2}, {"m": 0.5, "n": 0.2}, {"m": 0.5, "n": 0.5}]
    learns = []

    class Watch(L.Callback):
        def on_train_batch_start(self, trainer, pl_module, *_args) -> None:
            learns.append(pl_module.retriever_learns)

    stopping, _, module = run_models(
        tmp_path, [*script, script[0]], thresholds, {"m": 0.5, "n": 0.5}, max_steps=4, others=[Watch()]
    )
    assert learns == [True, False, False, True]
    actions = [(decision.step, decision.metric, decision.action) for decision in stopping.decided.made[:4]]
    assert actions == [
        (1, "m", "reader_first"),
        (1, "n", "reader_first"),
        (2, "m", "distil"),
        (3, "n", "distil"),
    ]
    assert not module.retriever_learns


@pytest.mark.parametrize("action", ["freeze_retriever", "reader_first"])
def test_without_a_reader_to_train_the_run_stops(tmp_path, action):
    stopping, steps, _ = run_models(
        tmp_path, [0.2] * 3, [f"m >= 0.3 for 1 then {action}"], START, train_reader=False
    )
    assert (steps, made(stopping), stopping.decided.reason) == (1, [(1, "stop")], "threshold")
    assert f"{action} leaves nothing to train" in stopping.decided.message


# ---- beside the comparison with the start ----


class ScriptedQuestions(LogIndicators):
    """The same mean as `ScriptedMeans`, of 12 questions that hardly differ."""

    def __init__(self, means) -> None:
        super().__init__()
        self.means = list(means)

    def on_validation_batch_end(self, *_args, **_kwargs) -> None:
        pass

    def on_validation_epoch_end(self, trainer, pl_module) -> None:
        self.latest_questions = questions(self.means.pop(0))


def questions(mean: float) -> QuestionValues:
    noise = np.linspace(-0.01, 0.01, 12)
    return QuestionValues([f"q{i}" for i in range(12)], {"m": (mean + noise).tolist()})


def run_both(folder, means, action, threshold):
    decided, indicators = Decisions(), ScriptedQuestions(means)
    paired = StopOnIndicators(
        indicators, ["m"], patience=1, action=action, baseline=questions(0.5), decided=decided
    )
    return run_models(folder, means, [threshold], START, others=[indicators, paired], decided=decided)


def test_the_comparison_and_a_threshold_act_in_one_run(tmp_path):
    """Each by its own numbers; the first to end the run gives the reason, and both are listed."""
    stopping, steps, _ = run_both(tmp_path, [0.4, 0.4, 0.2], "stop", "m >= 0.3 for 1")
    assert (steps, stopping.decided.reason) == (1, "ineffective")
    assert [decision.rule for decision in stopping.decided.made] == [COMPARISON]
    stopping, steps, _ = run_both(tmp_path, [0.2, 0.2], "stop", "m >= 0.3 for 1")
    assert [d.rule for d in stopping.decided.made] == [COMPARISON, "m >= 0.3 for 1 then stop"]
    assert (steps, stopping.decided.reason) == (1, "ineffective")
    stopping, steps, _ = run_both(tmp_path, [0.4, 0.4, 0.2], "freeze_retriever", "m >= 0.3 for 1")
    assert made(stopping) == [(1, "freeze_retriever"), (3, "stop")]
    assert (steps, stopping.decided.reason) == (3, "threshold")


def test_the_retriever_waits_for_both(tmp_path):
    """The threshold is content from step 2 on, the comparison from step 3 on."""
    stopping, _, module = run_both(
        tmp_path, [0.2, 0.4, 0.5, 0.5], "reader_first", "m >= 0.3 for 1 then reader_first"
    )
    assert made(stopping) == [(1, "reader_first"), (1, "reader_first"), (2, "distil"), (3, "distil")]
    assert [d.rule for d in stopping.decided.made][2:] == ["m >= 0.3 for 1 then reader_first", COMPARISON]
    assert module.retriever_learns


# ---- what is written ----


def test_bounds_and_decisions_arrive_in_tensorboard(tmp_path):
    logger = TensorBoardLogger(tmp_path, name="", version="events")
    stopping, _, _ = run(tmp_path, [0.5, 0.2], ["m >= 0.25 for 1", "m >= start for 9"], logger=logger)
    logger.finalize("success")
    events = EventAccumulator(str(tmp_path / "events"))
    events.Reload()
    assert [event.value for event in events.Scalars("stopping/threshold_1")] == [0.25, 0.25]
    assert [event.value for event in events.Scalars("stopping/threshold_2")] == [0.5], "known after the start"
    [text] = events.Tensors("decisions/text_summary")
    assert stopping.decided.message in text.tensor_proto.string_val[0].decode()


# ---- resuming ----


@pytest.mark.parametrize("resume_at", [1, 2])
def test_a_resumed_run_decides_the_same(tmp_path, resume_at):
    """Killed within a row of broken bounds, or while the retriever is held back."""
    means = [0.2, 0.2, 0.5, 0.2, 0.2, 0.5]
    thresholds = ["m >= start - 0.25 for 2 then reader_first"]
    whole, _, _ = run_models(tmp_path / "whole", means, thresholds, START)
    run_models(tmp_path / "killed", means, thresholds, START, max_steps=resume_at)
    checkpoint = tmp_path / "killed" / "last.ckpt"
    resumed, steps, _ = run_models(
        tmp_path / "killed", means[resume_at:], thresholds, {}, max_steps=6, ckpt_path=checkpoint
    )
    assert made(whole) == [(2, "reader_first"), (3, "distil"), (5, "reader_first"), (6, "distil")]
    assert (steps, resumed.decided) == (6, whole.decided)


def test_a_run_that_had_stopped_stays_stopped(tmp_path):
    first, steps, _ = run(tmp_path, [0.2, 0.2, 0.5], ["m >= 0.3"], START)
    assert steps == 2
    resumed, steps, _ = run(
        tmp_path, [0.5] * 4, ["m >= 0.3"], START, max_steps=6, ckpt_path=tmp_path / "last.ckpt"
    )
    assert (steps, resumed.decided) == (2, first.decided)


# ---- several processes ----

TWO_PROCESSES = """
import sys
from pathlib import Path
from torchdata.stateful_dataloader import StatefulDataLoader
from callbacks.stop_on_thresholds import StopOnThresholds
from tests.callbacks.test_stop_on_thresholds import ScriptedMeans
from tests.toy_training import OneNumber, toy_trainer

if __name__ == "__main__":
    stopping = StopOnThresholds(["m >= 0.3 for 1"], start={"m": 0.5})
    trainer = toy_trainer(Path(sys.argv[1]), [], devices=2, strategy="ddp", max_steps=4, limit_val_batches=1,
        val_check_interval=1)
    # the second process measures what breaks the bound one validation earlier
    means = ScriptedMeans([[0.5, 0.2, 0.2, 0.2], [0.2, 0.25, 0.2, 0.2]][trainer.global_rank])
    trainer.callbacks = [means, stopping, *trainer.callbacks]
    data = StatefulDataLoader([0.0] * 20)
    trainer.fit(OneNumber(), data, data)
    assert trainer.global_step == 2, trainer.global_step
    [decision] = stopping.decided.made
    assert (decision.step, round(decision.value, 6)) == (2, 0.2), decision
"""


def test_two_processes_decide_alike(tmp_path):
    run_script(tmp_path, TWO_PROCESSES)
