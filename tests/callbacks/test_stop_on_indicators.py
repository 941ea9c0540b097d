"""Scripted metrics of 12 questions in a real Trainer: what is decided, when, and what it says."""

import itertools
import math

import lightning as L
import numpy as np
import pytest
import torch
from lightning.pytorch.loggers import TensorBoardLogger
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torchdata.stateful_dataloader import StatefulDataLoader

from callbacks.log_indicators import LogIndicators
from callbacks.refresh_index import RefreshIndex
from callbacks.save_last import SaveLast
from callbacks.save_validations import SaveValidations
from callbacks.stop_on_indicators import MONITORS, StopOnIndicators
from lightning_modules.metrics.paired_change import paired_change
from lightning_modules.metrics.question_values import QuestionValues, pair_questions
from tests.toy_training import LIGHTNING_ADVICE, OneNumber, toy_datamodule, toy_module, toy_trainer

pytestmark = pytest.mark.filterwarnings(*LIGHTNING_ADVICE)

MONITOR, AUC, HIT = MONITORS
NUM_QUESTIONS = 12
NOISE = np.random.default_rng(0).normal(scale=0.02, size=(100, NUM_QUESTIONS))
"""Less than what a change of 0.1 needs to be significant."""


def values_around(mean: float, validation: int, ids=None) -> QuestionValues:
    """Around `mean`; the AUC is constant, as of a teacher that only one reading finds fault with."""
    ids = ids or [f"q{i}" for i in range(NUM_QUESTIONS)]
    values = (mean + NOISE[validation]).tolist()
    return QuestionValues(ids, {MONITOR: values, AUC: [0.7] * NUM_QUESTIONS})


class ScriptedMetrics(LogIndicators):
    """Reads the means one after the other, a validation each: at the start, then after every step."""

    def __init__(self, means) -> None:
        super().__init__()
        self.script = list(means)
        self.num_read = 0

    def on_validation_epoch_start(self, trainer, pl_module) -> None:
        next_one = self.script.pop(0)
        if not isinstance(next_one, QuestionValues):
            next_one = values_around(next_one, self.num_read)
        self.latest_questions = next_one
        self.num_read += 1

    def on_validation_batch_end(self, *_args, **_kwargs) -> None:
        pass

    def on_validation_epoch_end(self, trainer, pl_module) -> None:
        pass


def loader() -> StatefulDataLoader:
    return StatefulDataLoader([0.0] * 20)


def run(folder, means, callbacks=(), ckpt_path=None, with_start=True, logger=False, **settings):
    """The callback and the number of steps done; the first reading is the start's."""
    indicators = ScriptedMetrics(means)
    stopping = StopOnIndicators(indicators, **settings)
    trainer = toy_trainer(
        folder,
        [indicators, stopping, *callbacks],
        max_steps=len(means) - with_start + (0 if ckpt_path is None else 2),
        limit_val_batches=1,
        val_check_interval=1,
        logger=logger,
    )
    module = OneNumber()
    if with_start:
        trainer.validate(module, loader(), verbose=False)
    trainer.fit(module, loader(), loader(), ckpt_path=ckpt_path, weights_only=True)
    return stopping, trainer.global_step


# ---- when a run stops ----


def test_the_start_is_the_baseline_and_no_validation_counts_before_it(tmp_path):
    stopping, steps = run(tmp_path, [0.5, 0.5, 0.5])
    assert stopping.baseline == values_around(0.5, 0)
    assert (stopping.reason, steps, stopping.decisions) == (None, 2, [])


def test_a_known_start_stays(tmp_path):
    stopping, steps = run(tmp_path, [0.3] * 4, baseline=values_around(0.9, 9), with_start=False)
    assert stopping.baseline == values_around(0.9, 9)
    assert (stopping.reason, steps) == ("ineffective", 2)


def test_a_known_start_wins_over_the_validation_of_the_start(tmp_path):
    stopping, steps = run(tmp_path, [0.3] * 4, baseline=values_around(0.9, 9))
    assert (stopping.reason, steps) == ("ineffective", 2)


def test_noise_goes_on(tmp_path):
    stopping, steps = run(tmp_path, [0.5] * 20)
    assert (stopping.reason, steps) == (None, 19)


def test_a_decline_within_the_margin_goes_on(tmp_path):
    stopping, steps = run(tmp_path, [0.5] + [0.41] * 6, margin=0.1)
    assert (stopping.reason, steps) == (None, 6)


@pytest.mark.parametrize("patience", [1, 2, 3])
def test_a_decline_stops_after_patience_validations(tmp_path, patience):
    stopping, steps = run(tmp_path, [0.5, 0.5] + [0.39] * 6, patience=patience)
    assert (stopping.reason, steps) == ("ineffective", 1 + patience)
    change = paired_change(0.5 + NOISE[0], 0.39 + NOISE[1 + patience], stopping.rule.level)
    [decision] = stopping.decisions
    assert (decision.step, decision.action, decision.metric) == (1 + patience, "stop", MONITOR)
    assert decision.baseline == pytest.approx(0.5 + NOISE[0].mean())
    assert (decision.change, decision.low, decision.high) == pytest.approx(change[:3])
    for part in (
        MONITOR,
        f"{change.mean:+.3f}",
        f"{change.low:+.3f} to {change.high:+.3f}",
        f"start's {decision.baseline:.3f}",
        "12 questions",
        f"{patience} validations in a row",
    ):
        assert part in stopping.message


def test_a_decline_that_few_questions_cannot_tell_from_noise_goes_on(tmp_path):
    """The same mean decline as one that stops, but of readings that differ much between validations."""
    script = [
        QuestionValues(values_around(0, 0).question_ids, {MONITOR: (mean + 10 * NOISE[i]).tolist()})
        for i, mean in enumerate([0.5] + [0.39] * 6)
    ]
    stopping, steps = run(tmp_path, script)
    assert (stopping.reason, steps) == (None, 6)


def test_recovery_resets_the_count(tmp_path):
    stopping, steps = run(tmp_path, [0.5, 0.3, 0.5, 0.3, 0.5, 0.3, 0.5])
    assert (stopping.reason, steps) == (None, 6)


def test_undefined_counts_as_below(tmp_path):
    stopping, steps = run(tmp_path, [0.5, 0.5, math.nan, 0.3, 0.5])
    assert (stopping.reason, steps) == ("ineffective", 3)
    stopping, steps = run(tmp_path, [0.5, 0.5, 0.3, math.nan, 0.5])
    assert (stopping.reason, steps) == ("ineffective", 3)
    assert "undefined now for 100% of the 12 questions that had a value at the start" in stopping.message


def defined_for(count: int, of: int = NUM_QUESTIONS) -> QuestionValues:
    """A reading that has not changed, of the first questions alone."""
    made = values_around(0.5, 0)
    values = made.values[MONITOR]
    made.values[MONITOR] = [value if i < count else math.nan for i, value in enumerate(values[:of])]
    return QuestionValues(made.question_ids[:of], {MONITOR: made.values[MONITOR]})


@pytest.mark.parametrize(
    ("at_start", "now", "num_read", "is_below"),
    [
        (8, 7, 12, False),  # fewer than are needed for a comparison, but one lost question says nothing
        (12, 11, 12, False),
        (12, 9, 12, False),
        (12, 3, 12, True),
        (12, 0, 12, True),
        (12, 6, 6, False),  # half of the questions were not read, which loses none
        (8, 0, 12, True),
        (12, 0, 7, False),  # of too few questions to say
    ],
)
def test_few_questions_that_lose_their_value_are_noise(tmp_path, at_start, now, num_read, is_below):
    script = [defined_for(at_start), *[defined_for(now, num_read)] * 3]
    stopping, steps = run(tmp_path, script, monitors=[MONITOR])
    assert (stopping.reason, steps) == (("ineffective", 2) if is_below else (None, 3))


def test_an_undefined_start_is_compared_with_nothing(tmp_path, caplog):
    stopping, steps = run(tmp_path, [math.nan, 0.1, 0.0, -0.5])
    assert (stopping.reason, steps) == (None, 3)
    assert f"{MONITOR} of 0 questions at the start, 8 are needed" in caplog.text
    assert AUC not in caplog.text


def test_validations_that_read_nothing_decide_nothing(tmp_path):
    stopping, steps = run(tmp_path, [QuestionValues()] * 4, target=0.0)
    assert (stopping.reason, steps, stopping.baseline) == (None, 3, None)


def with_auc(values) -> QuestionValues:
    made = values_around(0.5, 0)
    made.values[AUC] = (values + NOISE[50]).tolist()
    return made


def test_any_monitor_may_stop_a_run(tmp_path):
    script = [with_auc(np.full(12, 0.7)), *[with_auc(np.full(12, 0.5))] * 3]
    stopping, steps = run(tmp_path, script)
    assert (stopping.reason, steps, stopping.decisions[0].metric) == ("ineffective", 2, AUC)
    stopping, steps = run(tmp_path, script, monitors=[MONITOR])
    assert (stopping.reason, steps) == (None, 3)


def with_hits(num_hits: int) -> QuestionValues:
    made = values_around(0.5, 0)
    made.values[HIT] = [float(i < num_hits) for i in range(NUM_QUESTIONS)]
    return made


def test_a_message_says_what_got_worse(tmp_path):
    stopping, _ = run(tmp_path, [with_hits(12), *[with_hits(1)] * 3])
    assert stopping.decisions[0].metric == HIT
    assert f"{HIT} changed by -0.917 from the start's 1.000 (12 questions, bounds " in stopping.message
    assert "the retriever finds passages with an answer for fewer questions" in stopping.message
    assert "teacher" not in stopping.message
    assert "12 questions are few: each is 0.083 of the mean, and others may say otherwise" in stopping.message
    stopping, _ = run(tmp_path, [0.5, 0.3, 0.3])
    assert "(12 questions, bounds " in stopping.message
    assert "the reader has become a worse teacher" in stopping.message
    assert "the retriever finds" not in stopping.message


def test_an_auc_that_good_retrieval_leaves_undefined_stops_nothing(tmp_path):
    script = [with_auc(np.full(12, auc)) for auc in (0.7, np.nan, np.nan, np.nan)]
    for made in script:  # on what is retrieved now; on fixed passages retrieval has no part in it
        made.values["teacher/auc"] = made.values.pop(AUC)
    stopping, steps = run(tmp_path, script, monitors=["teacher/auc"])
    assert (stopping.reason, steps) == (None, 3)


def test_a_target_stops_at_once(tmp_path):
    stopping, steps = run(tmp_path, [0.5, 0.6, 0.75, 0.8], target=0.7)
    assert (stopping.reason, steps) == ("target", 2)
    assert stopping.decisions[0].change == pytest.approx(0.25, abs=0.02)
    assert "reached the target 0.700" in stopping.message
    assert stopping.message.startswith(f"{MONITOR} = {0.75 + NOISE[2].mean():.3f} ")


def test_without_target_a_good_reading_goes_on(tmp_path):
    stopping, steps = run(tmp_path, [0.5, 0.9, 1.0])
    assert (stopping.reason, steps) == (None, 2)


@pytest.mark.parametrize(
    "settings", [{"margin": -0.1}, {"patience": 0}, {"monitors": []}, {"action": "give_up"}]
)
def test_bad_arguments_are_refused(settings):
    with pytest.raises(ValueError, match=r"margin|num_metrics|choose one of: stop, freeze_retriever"):
        StopOnIndicators(LogIndicators(), **settings)


# ---- pairs ----


def test_questions_are_paired_by_id():
    before = QuestionValues(["a", "b", "c"], {MONITOR: [1.0, 2.0, 3.0]})
    after = QuestionValues(["d", "c", "a", "c"], {MONITOR: [40.0, 30.0, 10.0, 30.0]})
    first, second = pair_questions(before, after, MONITOR)
    assert (first.tolist(), second.tolist()) == ([3.0, 1.0], [30.0, 10.0])
    first, second = pair_questions(before, after, AUC)
    assert np.isnan(first).all()
    assert len(second) == 2


def test_the_order_of_the_questions_does_not_matter(tmp_path):
    """Large differences between questions, which only pairs cancel."""
    ids, spread = [f"q{i}" for i in range(12)], np.linspace(-3, 3, 12)
    script = []
    for i, mean in enumerate([0.5, 0.39, 0.39, 0.39]):
        order = np.random.default_rng(i).permutation(12)
        values = (mean + spread + NOISE[i])[order].tolist()
        script.append(QuestionValues([ids[place] for place in order], {MONITOR: values}))
    stopping, steps = run(tmp_path, script)
    assert (stopping.reason, steps) == ("ineffective", 2)


# ---- what is written ----


def test_changes_and_decisions_arrive_in_tensorboard(tmp_path):
    logger = TensorBoardLogger(tmp_path, name="", version="events")
    stopping, _ = run(tmp_path, [0.5, 0.4, 0.4], logger=logger)
    logger.finalize("success")
    events = EventAccumulator(str(tmp_path / "events"))
    events.Reload()
    for part, value in zip(
        ("", "_low", "_high"),
        paired_change(0.5 + NOISE[0], 0.4 + NOISE[1], stopping.rule.level),
        strict=False,
    ):
        logged = events.Scalars(f"stopping/change_{MONITOR}{part}")
        assert len(logged) == 2, "one a validation, none at the start"
        assert logged[0].value == pytest.approx(value)
    [text] = events.Tensors("decisions/text_summary")
    assert stopping.message in text.tensor_proto.string_val[0].decode()


# ---- resuming ----


def test_state_survives_a_checkpoint(tmp_path):
    path = tmp_path / "last.ckpt"
    run(tmp_path, [0.5, 0.5, 0.3], [SaveLast(path, 1)])
    resumed, steps = run(
        tmp_path, [0.3, 0.3], [SaveLast(tmp_path / "new.ckpt", 99)], ckpt_path=path, with_start=False
    )
    assert resumed.baseline == values_around(0.5, 0)
    assert (resumed.reason, steps) == ("ineffective", 3), "one validation below was in the checkpoint"


def test_settings_win_over_the_checkpoint(tmp_path):
    path = tmp_path / "last.ckpt"
    run(tmp_path, [0.5, 0.5, 0.3], [SaveLast(path, 1)])
    resumed, _ = run(
        tmp_path,
        [0.3, 0.3],
        [SaveLast(tmp_path / "new.ckpt", 99)],
        ckpt_path=path,
        with_start=False,
        patience=9,
    )
    assert (resumed.rule.patience, resumed.reason) == (9, None)


def test_a_run_that_had_stopped_stays_stopped(tmp_path):
    path = tmp_path / "last.ckpt"
    first, steps = run(tmp_path, [0.5, 0.3, 0.3, 0.3], [SaveLast(path, 1)])
    assert steps == 2
    resumed, steps = run(
        tmp_path, [0.5] * 4, [SaveLast(tmp_path / "new.ckpt", 99)], ckpt_path=path, with_start=False
    )
    assert steps == 2
    assert (resumed.reason, resumed.message) == ("ineffective", first.message)
    assert resumed.decisions == first.decisions


# ---- actions, with real models ----


class Weights(L.Callback):
    """Both models' weights after each optimizer step."""

    def __init__(self) -> None:
        self.seen: dict[int, tuple[torch.Tensor, torch.Tensor]] = {}

    def on_train_batch_end(self, trainer, pl_module, *_args) -> None:
        self.seen[trainer.global_step] = tuple(
            torch.cat([weight.detach().flatten() for weight in model.parameters()])
            for model in (pl_module.retriever, pl_module.reader)
        )


def renamed(mean: float, validation: int, monitor: str) -> QuestionValues:
    made = values_around(mean, validation)
    made.values[monitor] = made.values.pop(MONITOR)
    return made


def train(
    folder,
    means,
    action,
    train_reader=True,
    max_steps=6,
    ckpt_path=None,
    schedule="0-100:1",
    patience=1,
    monitor=MONITOR,
    others=(),
):
    """Tiny models, whose readings are scripted; Adam with weight decay, a validation after every step."""
    indicators, weights = (
        ScriptedMetrics([renamed(mean, i, monitor) for i, mean in enumerate(means)]),
        Weights(),
    )
    stopping = StopOnIndicators(
        indicators, [monitor, AUC], action=action, patience=patience, baseline=renamed(0.5, 99, monitor)
    )
    index = RefreshIndex(schedule, folder / "index", show_progress=False)
    last = SaveLast(folder / "last.ckpt", 1)
    trainer = toy_trainer(
        folder,
        [index, indicators, weights, stopping, *others, last],
        max_steps=max_steps,
        limit_val_batches=1,
        val_check_interval=1,
    )
    module = toy_module(folder, train_reader=train_reader, weight_decay=0.1)
    trainer.fit(module, toy_datamodule(), ckpt_path=ckpt_path, weights_only=True)
    return stopping, weights.seen, trainer, module, index


def changes(seen, which: int) -> list[int]:
    """Steps that changed a model's weights (0 = the retriever, 1 = the reader)."""
    steps = sorted(seen)
    return [
        after
        for before, after in itertools.pairwise(steps)
        if not torch.equal(seen[before][which], seen[after][which])
    ]


def test_a_frozen_retriever_stays_as_it_is_while_the_reader_trains(tmp_path):
    stopping, seen, trainer, module, index = train(
        tmp_path, [0.5, 0.3, 0.5, 0.5, 0.5, 0.5], "freeze_retriever"
    )
    assert trainer.global_step == 6
    assert changes(seen, 0) == [2], "frozen after step 2, for good: not even weight decay moves it"
    assert changes(seen, 1) == [2, 3, 4, 5, 6]
    [decision] = stopping.decisions
    assert (decision.step, decision.action, stopping.reason) == (2, "freeze_retriever", None)
    assert index.refresh_steps == [1, 2], "nothing to refresh afterwards"
    assert not module.retriever_learns


def test_the_reader_first_until_it_has_recovered(tmp_path):
    means = [0.5, 0.3, 0.3, 0.47, 0.55, 0.5, 0.3, 0.3]
    stopping, seen, trainer, module, _ = train(tmp_path, means, "reader_first", max_steps=8)
    made = [(decision.step, decision.action) for decision in stopping.decisions]
    assert made == [(2, "reader_first"), (5, "distil"), (7, "reader_first")]
    assert changes(seen, 0) == [2, 6, 7]
    assert changes(seen, 1) == [2, 3, 4, 5, 6, 7, 8]
    assert not module.retriever_learns
    assert trainer.global_step == 8


def test_validations_on_a_stale_index_are_not_compared(tmp_path):
    """Fresh at every second step: there it is below, fine, below and below; it never is fine in between."""
    means = [0.3, 0.3, 0.3, 0.5, 0.3, 0.3, 0.5, 0.3]
    of_current = {"monitor": "indicator1/spearman_p90"}  # on what is retrieved now, which takes an index
    stopping, _, trainer, _, _ = train(
        tmp_path, means, "stop", max_steps=8, schedule="0-100:2", patience=2, **of_current
    )
    assert (stopping.reason, trainer.global_step) == ("ineffective", 8)
    for name in ("fresh", "stale"):
        (tmp_path / name).mkdir()
    stopping, _, trainer, _, _ = train(tmp_path / "fresh", [0.3] * 6, "stop", **of_current)
    assert trainer.global_step == 1
    stopping, _, trainer, _, _ = train(tmp_path / "stale", [0.3] * 6, "stop", schedule="-1", **of_current)
    assert (stopping.reason, trainer.global_step) == (None, 6)


def test_what_was_not_compared_is_not_written_as_if_it_had_been(tmp_path):
    """On a stale index there is no change, and not that of the validation before."""
    name = "indicator1/spearman_p90"
    written = SaveValidations(tmp_path / "validations.jsonl")
    settings = {"schedule": "0-100:2", "patience": 9, "monitor": name, "others": [written]}
    train(tmp_path, [0.5, 0.4, 0.3, 0.2], "stop", max_steps=4, **settings)
    change, always = (f"stopping/change_{of}" for of in (name, AUC))
    of_steps = {step: metrics.get(change) for step, metrics in written.metrics.items()}
    assert [step for step, value in of_steps.items() if value is not None] == [2, 4]
    assert of_steps[4] == pytest.approx(-0.3, abs=0.03)
    assert not any(name.startswith(f"{change}_") for name in written.metrics[3])
    assert all(always in metrics for metrics in written.metrics.values())


@pytest.mark.parametrize("action", ["stop", "freeze_retriever", "reader_first"])
def test_without_a_reader_to_train_the_run_stops(tmp_path, action):
    stopping, _, trainer, _, _ = train(tmp_path, [0.5, 0.3, 0.3], action, train_reader=False)
    assert (stopping.reason, trainer.global_step) == ("ineffective", 2)
    assert [decision.action for decision in stopping.decisions] == ["stop"]
    assert ("leaves nothing to train" in stopping.message) == (action != "stop")


@pytest.mark.parametrize("resume_at", [2, 3, 5])
def test_a_resumed_run_decides_the_same(tmp_path, resume_at):
    """Killed while the retriever is frozen, or after it learns again."""
    means = [0.5, 0.3, 0.3, 0.55, 0.5, 0.5, 0.5]
    for name in ("whole", "killed"):
        (tmp_path / name).mkdir()
    whole, seen, _, _, _ = train(tmp_path / "whole", means, "reader_first", max_steps=7)
    folder = tmp_path / "killed"
    train(folder, means, "reader_first", max_steps=resume_at)
    resumed, seen_again, _, _, _ = train(
        folder, means[resume_at:], "reader_first", ckpt_path=folder / "last.ckpt", max_steps=7
    )
    assert [(d.step, d.action) for d in resumed.decisions] == [(2, "reader_first"), (4, "distil")]
    assert [(d.step, d.action) for d in whole.decisions] == [(2, "reader_first"), (4, "distil")]
    assert sorted(seen_again) == list(range(resume_at + 1, 8))
    for step, weights in seen_again.items():
        assert all(torch.equal(*pair) for pair in zip(weights, seen[step], strict=True)), step
