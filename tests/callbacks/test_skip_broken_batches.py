"""One broken question costs one step; numbers that stay broken end the run before anything is saved."""

import copy
import dataclasses
import itertools
import logging

import pytest
import torch
from lightning import Callback

from callbacks.refresh_index import RefreshIndex
from callbacks.save_last import SaveLast
from callbacks.skip_broken_batches import BrokenNumbersError, SkipBrokenBatches
from tests.toy_training import LIGHTNING_ADVICE, break_question, toy_datamodule, toy_module, toy_trainer

pytestmark = pytest.mark.filterwarnings(*LIGHTNING_ADVICE)


class Weights(Callback):
    """Those after each optimizer step."""

    def __init__(self) -> None:
        self.after: list[torch.Tensor] = []

    def on_train_batch_end(self, trainer, pl_module, *_args) -> None:
        weights = pl_module.retriever.parameters()
        self.after.append(torch.cat([weight.detach().flatten() for weight in weights]))


class Run:
    """Batches of two out of twelve questions."""

    def __init__(self, folder, others=(), max_in_a_row=10, max_steps=6, every_save=1, **settings) -> None:
        self.skipping, self.weights = SkipBrokenBatches(max_in_a_row), Weights()
        self.last = folder / "last.ckpt"
        index = RefreshIndex("-1", folder / "index", show_progress=False)
        callbacks = [self.skipping, index, *others, self.weights, SaveLast(self.last, every_save)]
        self.trainer = toy_trainer(folder, callbacks, max_steps=max_steps, gradient_clip_val=1.0, **settings)
        self.module = toy_module(folder, generate=False)

    def fit(self, checkpoint=None):
        self.trainer.fit(self.module, toy_datamodule(), ckpt_path=checkpoint, weights_only=True)
        return self


@pytest.mark.parametrize("accumulate", [1, 2])
def test_a_broken_question_costs_its_step_alone(tmp_path, caplog, accumulate):
    run = Run(tmp_path, max_steps=6 // accumulate, accumulate_grad_batches=accumulate)
    break_question(run.module, "q3")
    run.fit()
    [skipped] = run.skipping.skipped
    assert skipped["questions"] == ["q3"]
    step = skipped["step"]
    assert run.trainer.global_step == 6 // accumulate, "it counts as a step"
    after = run.weights.after[accumulate - 1 :: accumulate]
    stays = [torch.equal(*pair) for pair in itertools.pairwise(after)]
    if step > 1:
        assert stays[step - 2]
    assert sum(stays) == (step > 1), "all others learn"
    assert all(bool(weights.isfinite().all()) for weights in after)
    steps = {float(state["step"]) for state in run.trainer.optimizers[0].state.values()}
    assert steps == {6 // accumulate - 1}, "the optimizer has not seen it"
    said = f"step {step} is skipped: its loss or gradient is NaN or infinite; questions: q3"
    assert said in [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]


def test_a_run_without_broken_questions_is_left_as_it_is(tmp_path):
    run = Run(tmp_path).fit()
    assert run.skipping.skipped == []
    plain = toy_trainer(tmp_path, [RefreshIndex("-1", tmp_path / "index", show_progress=False)], max_steps=6)
    plain.gradient_clip_val = 1.0
    module = toy_module(tmp_path, generate=False)
    plain.fit(module, toy_datamodule())
    weights = torch.cat([weight.detach().flatten() for weight in module.retriever.parameters()])
    assert torch.equal(weights, run.weights.after[-1])


@pytest.mark.parametrize("scale", ["raw", "standardised", "minmax"])
def test_a_teacher_that_is_no_number_teaches_nothing(tmp_path, scale):
    """Nor does it look like one that has no preference, whatever is done to its scores."""
    skipping = SkipBrokenBatches(max_in_a_row=10)
    index = RefreshIndex("-1", tmp_path / "index", show_progress=False)
    module = toy_module(tmp_path, scale=scale, generate=False)
    read = module.reader.read_attention
    module.reader.read_attention = lambda batch: dataclasses.replace(
        read(batch), row_scores=read(batch).row_scores * torch.nan
    )
    before = [weight.detach().clone() for weight in module.retriever.parameters()]
    toy_trainer(tmp_path, [skipping, index], max_steps=3).fit(module, toy_datamodule())
    assert len(skipping.skipped) == 3
    assert all(map(torch.equal, before, module.retriever.parameters()))


class BreakGradient(Callback):
    def __init__(self, *steps: int) -> None:
        self.steps = steps

    def on_after_backward(self, trainer, pl_module) -> None:
        if trainer.global_step in self.steps:
            next(p for p in pl_module.retriever.parameters() if p.grad is not None).grad[0] = torch.inf


def test_a_broken_gradient_of_a_loss_that_is_a_number(tmp_path):
    """Nobody knows which question it was: all of the batch are named."""
    run = Run(tmp_path, [BreakGradient(2, 4)], max_in_a_row=1).fit()
    assert [made["step"] for made in run.skipping.skipped] == [3, 5], (
        "one after the other would be one too many"
    )
    assert all(len(made["questions"]) == 2 for made in run.skipping.skipped)


@pytest.mark.parametrize("most", [0, 2])
def test_too_many_in_a_row_end_the_run(tmp_path, most):
    run = Run(tmp_path, [BreakGradient(*range(1, 6))], max_in_a_row=most)
    with pytest.raises(BrokenNumbersError) as error:
        run.fit()
    assert f"in {most + 1} steps in a row, up to step {most + 2}, and max_in_a_row={most}" in str(error.value)
    named = [question for made in run.skipping.skipped for question in made["questions"]]
    assert str(error.value).endswith(f"questions: {', '.join(named)}")
    assert torch.load(run.last, weights_only=True)["global_step"] == most + 1


class BreakWeights(Callback):
    def __init__(self, step: int) -> None:
        self.step = step

    def on_train_batch_end(self, trainer, pl_module, *_args) -> None:
        if trainer.global_step == self.step:
            next(pl_module.retriever.parameters()).data[-1] = torch.nan


@pytest.mark.parametrize("every_save", [1, 100])
def test_broken_weights_are_never_saved(tmp_path, every_save):
    run = Run(tmp_path, [BreakWeights(6)], every_save=every_save)
    with pytest.raises(BrokenNumbersError, match="NaN or infinite after step 6; asked last: questions: q"):
        run.fit()
    if every_save == 1:
        assert torch.load(run.last, weights_only=True)["global_step"] == 5
    else:
        assert not run.last.exists()


def test_broken_weights_are_seen_before_a_validation(tmp_path):
    run = Run(tmp_path, [BreakWeights(2)], every_save=100, limit_val_batches=1, val_check_interval=2)
    with pytest.raises(BrokenNumbersError, match="weights are NaN or infinite after step 2"):
        run.fit()


def test_what_was_skipped_is_in_the_checkpoint(tmp_path):
    run = Run(tmp_path, [BreakGradient(1)], max_steps=2).fit()
    resumed = Run(tmp_path, [BreakGradient(2)], max_in_a_row=1)
    with pytest.raises(BrokenNumbersError, match="in 2 steps in a row, up to step 3"):
        resumed.fit(run.last)
    assert resumed.skipping.skipped[:1] == copy.deepcopy(run.skipping.skipped)


def test_a_bound_that_cannot_be(tmp_path):
    with pytest.raises(ValueError, match="max_in_a_row=-1 must be at least 0"):
        SkipBrokenBatches(-1)
