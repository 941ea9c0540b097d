"""Tiny models that collapse or stay healthy, in a real Trainer."""

import pytest
import torch
from lightning import Callback

from callbacks.alarm_on_collapse import AlarmOnCollapse, CollapseError
from callbacks.refresh_index import RefreshIndex
from callbacks.save_last import SaveLast
from tests.toy_training import LIGHTNING_ADVICE, toy_datamodule, toy_module, toy_trainer

pytestmark = pytest.mark.filterwarnings(*LIGHTNING_ADVICE)


class Steps(Callback):
    def __init__(self) -> None:
        self.done = 0

    def on_train_batch_end(self, trainer, pl_module, *_args) -> None:
        self.done = trainer.global_step


class Run:
    """Six steps, a validation after every second, or as many as there are before an alarm."""

    def __init__(
        self, folder, others=(), max_steps=6, every=2, every_save=1, start=None, is_fresh=True, **settings
    ):
        self.alarm = AlarmOnCollapse(folder / "last_good.ckpt", **settings)
        if start is not None:
            self.alarm.start = start
        self.steps = Steps()
        self.last = folder / "last.ckpt"
        index = RefreshIndex("-1", folder / "index", show_progress=False, before_validation=is_fresh)
        callbacks = [self.alarm, index, *others, self.steps, SaveLast(self.last, every_save)]
        self.trainer = toy_trainer(
            folder, callbacks, max_steps=max_steps, limit_val_batches=1.0, val_check_interval=every
        )
        self.module = toy_module(folder, generate=False)
        self.data = toy_datamodule(batch_size=4)

    def validate(self):
        self.trainer.validate(self.module, self.data, verbose=False)
        return self

    def fit(self):
        self.trainer.fit(self.module, self.data, weights_only=True)
        return self

    def saved_weights(self) -> dict[str, torch.Tensor]:
        return torch.load(self.last, weights_only=True)["state_dict"]


def test_a_healthy_run_ends_without_alarm(tmp_path):
    run = Run(tmp_path).validate()
    assert run.alarm.start.keys() == {"effective_rank", "near_duplicates", "hit_rate"}
    assert run.alarm.start["effective_rank"] > 5
    run.fit()
    assert run.steps.done == 6
    assert not run.alarm.last_good.exists(), "not needed any more"
    assert float(run.trainer.callback_metrics["embeddings/effective_rank"]) > 5
    assert float(run.trainer.callback_metrics["embeddings/near_duplicates"]) < 0.2


def test_embeddings_that_collapse_end_the_run(tmp_path):
    """A huge learning rate sends them all in one direction; the weights before that are kept."""

    class Explode(Callback):
        def on_before_optimizer_step(self, trainer, pl_module, optimizer) -> None:
            if trainer.global_step >= 2:
                optimizer.param_groups[0]["lr"] = 3.0

    run = Run(tmp_path, [Explode()]).validate()
    with pytest.raises(CollapseError, match="of the passages' embeddings"):
        run.fit()
    assert run.steps.done == 4, "the first validation after it"
    good = torch.load(run.alarm.last_good, weights_only=True)
    assert good["global_step"] == 2
    assert run.alarm._measure(run.trainer, run.module).effective_rank < 2
    run.module.load_state_dict(good["state_dict"], strict=False)
    assert run.alarm._measure(run.trainer, run.module).effective_rank > 4


def test_a_crash_of_the_hit_rate_ends_the_run(tmp_path):
    """The start's is replaced: of four questions not even a total loss would be beyond chance."""
    start = {"effective_rank": 1.0, "near_duplicates": 0.5, "hit_rate": 1.0}
    run = Run(tmp_path, start=start)
    run.alarm._check_hit_rate(run.trainer, 4, 4, 5)
    run.alarm._check_hit_rate(run.trainer, 0, 4, 5)
    run.alarm._check_hit_rate(run.trainer, 60, 100, 5)
    with pytest.raises(CollapseError, match=r"Hit Rate@5 fell from the start's 1\.000 to 0\.300"):
        run.alarm._check_hit_rate(run.trainer, 30, 100, 5)


@pytest.mark.parametrize("is_fresh", [True, False])
def test_the_hit_rate_on_a_stale_index_is_not_compared(tmp_path, is_fresh, monkeypatch):
    start = {"effective_rank": 1.0, "near_duplicates": 0.5, "hit_rate": 1.0}
    run = Run(tmp_path, start=start, is_fresh=is_fresh)
    compared = []
    monkeypatch.setattr(run.alarm, "_check_hit_rate", lambda *args: compared.append(run.steps.done))
    run.fit()
    assert compared == ([2, 4, 6] if is_fresh else [])


def test_hits_are_counted_as_the_validation_counts_them(tmp_path):
    run = Run(tmp_path).validate()
    assert run.alarm.start["hit_rate"] == pytest.approx(
        float(run.trainer.callback_metrics["validation/hr_at_5"])
    )


def test_the_start_is_in_the_checkpoint(tmp_path):
    run = Run(tmp_path).validate().fit()
    state = torch.load(run.last, weights_only=True)["callbacks"]["AlarmOnCollapse"]
    again = AlarmOnCollapse(tmp_path / "last_good.ckpt")
    again.load_state_dict(state)
    assert again.start == run.alarm.start
    assert again.start
