"""A resumed run does what the uninterrupted one does next, the validation that was due included."""

import pytest
import torch
from lightning import Callback

from callbacks.refresh_index import RefreshIndex
from callbacks.save_last import SaveLast
from experiments.config import load_config
from experiments.runs import create_run
from experiments.trainer import make_callbacks
from tests.toy_training import LIGHTNING_ADVICE, toy_datamodule, toy_module, toy_trainer

pytestmark = pytest.mark.filterwarnings(*LIGHTNING_ADVICE)


class KilledError(Exception):
    pass


class Events(Callback):
    """Notes batches and validations; dies where told to."""

    def __init__(self, dies_at: tuple[str, int] | None = None) -> None:
        self.dies_at = dies_at
        self.seen: list[tuple] = []

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx) -> None:
        self.seen.append((trainer.global_step, tuple(q.id for q in batch), float(torch.rand(1))))
        self._die("batch", trainer)

    def on_validation_epoch_end(self, trainer, pl_module) -> None:
        self._die("validation", trainer)
        self.seen.append((trainer.global_step, "validation"))

    def _die(self, where, trainer) -> None:
        if self.dies_at == (where, trainer.global_step):
            raise KilledError


def train(folder, dies_at=None, every=1, accumulate=1, resume=False, also_after=None):
    events, path = Events(dies_at), folder / "last.ckpt"
    # the noted random numbers are drawn after SaveLast has restored their state
    last = SaveLast(path, every, also_after)
    index = RefreshIndex("-1", folder / "index", show_progress=False, before_validation=True)
    trainer = toy_trainer(
        folder,
        [index, last, events],
        max_steps=7,
        limit_val_batches=1,
        val_check_interval=2 * accumulate,
        accumulate_grad_batches=accumulate,
    )
    # `Checkpoint`s come last, but random numbers must be the same afterwards: note them after it
    trainer.callbacks.sort(key=lambda callback: callback is events)
    module = toy_module(folder)
    datamodule = toy_datamodule(batch_size=4)
    checkpoint = path if resume else None
    if dies_at is None:
        trainer.fit(module, datamodule, ckpt_path=checkpoint, weights_only=True)
    else:
        with pytest.raises(KilledError):
            trainer.fit(module, datamodule, ckpt_path=checkpoint, weights_only=True)
    weights = torch.cat([weight.flatten() for weight in module.retriever.state_dict().values()])
    return events.seen, weights


@pytest.mark.parametrize("accumulate", [1, 2])
@pytest.mark.parametrize("dies_at", [("batch", 2), ("batch", 3), ("validation", 4), ("batch", 6)])
def test_goes_on_as_if_uninterrupted(tmp_path, dies_at, accumulate):
    """Epochs are of three batches, so that these are steps within an epoch and at its ends."""
    if accumulate == 2 and dies_at == ("validation", 4):
        # the last batch of an epoch ends a step by itself, so validations come at the steps 2 and 5
        dies_at = ("validation", 5)
    (tmp_path / "whole").mkdir()
    (tmp_path / "killed").mkdir()
    torch.manual_seed(0)
    whole, weights = train(tmp_path / "whole", accumulate=accumulate)
    torch.manual_seed(0)
    train(tmp_path / "killed", dies_at, accumulate=accumulate)
    torch.manual_seed(1)
    resumed, resumed_weights = train(tmp_path / "killed", accumulate=accumulate, resume=True)
    assert resumed
    assert resumed == whole[-len(resumed) :]
    assert torch.equal(resumed_weights, weights)


def test_no_checkpoint_before_its_validation(tmp_path):
    train(tmp_path, ("validation", 2), every=2)
    assert not (tmp_path / "last.ckpt").exists()
    train(tmp_path, ("validation", 4), every=2)
    assert torch.load(tmp_path / "last.ckpt", weights_only=True)["global_step"] == 2


def test_saves_every_so_many_steps(tmp_path):
    train(tmp_path, ("batch", 5), every=3)
    assert torch.load(tmp_path / "last.ckpt", weights_only=True)["global_step"] == 3


def test_saves_before_the_index_is_encoded_anew(tmp_path):
    train(tmp_path, ("batch", 5), every=4, also_after={5}.__contains__)
    assert torch.load(tmp_path / "last.ckpt", weights_only=True)["global_step"] == 5


@pytest.mark.parametrize(
    ("setting", "saved_after"),
    [
        ("index.refresh=0-9:3", [3, 6]),
        ("index.refresh=when_stale", []),
        ("training.train_retriever=false", []),
    ],
)
def test_a_run_saves_before_the_refreshes_of_its_schedule(tmp_path, setting, saved_after):
    settings = [f"runs={tmp_path}", "training.train_reader=true", "index.refresh=0-9:3", setting]
    config = load_config("offshelf_vital", settings)
    last = make_callbacks(config, create_run(config)).last
    assert [step for step in range(1, 20) if last.also_after and last.also_after(step)] == saved_after
