"""What the meter reads of frozen and of moving retrievers, and the refreshes that follow from it."""

import numpy as np
import pytest
import torch
from lightning import Callback
from lightning.pytorch.loggers import TensorBoardLogger
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from callbacks.measure_staleness import MeasureStaleness
from callbacks.refresh_index import RefreshIndex
from callbacks.save_last import SaveLast
from lightning_modules.encoding import encode_passages
from lightning_modules.optimization import LearningRate, LearningRateDecay
from tests.several_processes import run_script
from tests.toy_training import LIGHTNING_ADVICE, toy_datamodule, toy_module, toy_trainer

pytestmark = pytest.mark.filterwarnings(*LIGHTNING_ADVICE)


SLOW = LearningRate(1e-4, decay=LearningRateDecay.CONSTANT)


class Watch(Callback):
    """After all others: what the meter read at a step, whether the index was replaced, and by a slow loop."""

    def __init__(self, meter: MeasureStaleness) -> None:
        self.meter = meter
        self.read: dict[int, tuple[float, float]] = {}
        self.expected: dict[int, float] = {}

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx) -> None:
        if self.meter.latest is not None:
            self.read[trainer.global_step] = (self.meter.latest.drift, self.meter.latest.overlap)
            self.expected[trainer.global_step] = slow_overlap(trainer, pl_module)


def slow_overlap(trainer, module) -> float:
    """With all passages as candidates."""
    passages = list(module.knowledge_base)
    fresh = encode_passages(module.retriever, passages)
    overlaps = []
    for question in trainer.datamodule.validation:
        with torch.no_grad():
            query = module.retriever.encode_queries([question.text]).numpy()
        fresh_top = set(np.argsort(-(fresh @ query[0]))[:5].tolist())
        overlaps.append(len(fresh_top & set(module.index.search(query, 5)[1][0].tolist())) / 5)
    return float(np.mean(overlaps))


def fit(folder, schedule="-1", every_steps=1, module_settings=None, callbacks=(), resume=None, **settings):
    """Trains; gives (meter, index callback, watch, module)."""
    meter = MeasureStaleness(every_steps, num_passages=100, batch_size=8)
    index = RefreshIndex(schedule, folder / "index", batch_size=8, show_progress=False, meter=meter)
    watch = Watch(meter)
    trainer = toy_trainer(folder, [meter, index, *callbacks, watch], **{"max_steps": 6, **settings})
    module = toy_module(folder, **(module_settings or {}))
    trainer.fit(module, toy_datamodule(), ckpt_path=resume, weights_only=True)
    return meter, index, watch, module


def test_a_frozen_retriever_never_drifts(tmp_path):
    _, _, watch, _ = fit(tmp_path, module_settings={"train_retriever": False, "train_reader": True})
    assert watch.read == dict.fromkeys(range(6), (0.0, 1.0))


def test_a_moving_one_drifts_more_and_more(tmp_path):
    _, index, watch, _ = fit(tmp_path, max_steps=12)
    drifts = [drift for drift, _ in watch.read.values()]
    assert drifts[0] == 0
    assert drifts == sorted(drifts)
    assert drifts[-1] > 10 * drifts[1] > 0
    overlaps = {step: overlap for step, (_, overlap) in watch.read.items()}
    assert overlaps == pytest.approx(watch.expected), "24 passages are all candidates"
    assert min(overlaps.values()) < 1
    assert index.refresh_steps == []


def test_no_drift_right_after_a_refresh(tmp_path):
    class MeasureAgain(Callback):
        """Behind the refresh."""

        readings: list[tuple[int, float, float]] = []  # noqa: RUF012

        def on_train_batch_start(self, trainer, pl_module, batch, batch_idx) -> None:
            if trainer.global_step in (3, 6):
                assert meter.latest is None, "what was measured of the old index does not hold for the new"
                meter._measure(trainer, pl_module)
                self.readings.append((trainer.global_step, meter.latest.drift, meter.latest.overlap))

    meter = MeasureStaleness(1, num_passages=100, batch_size=8)
    index = RefreshIndex("0-100:3", tmp_path / "index", show_progress=False, meter=meter)
    again = MeasureAgain()
    toy_trainer(tmp_path, [meter, index, again], max_steps=8).fit(toy_module(tmp_path), toy_datamodule())
    assert index.refresh_steps == [3, 6]
    assert again.readings == [(3, 0.0, 1.0), (6, 0.0, 1.0)]


def test_refreshes_where_the_overlap_falls_below_the_least(tmp_path):
    """Up to the first refresh the run is that of a run without refreshes; after it the overlap is 1 again."""
    settings = {"max_steps": 20, "module_settings": {"retriever_rate": SLOW}}
    _, _, unrefreshed, _ = fit(tmp_path / "a", **settings)
    overlaps = {step: overlap for step, (_, overlap) in unrefreshed.read.items()}
    least = 0.95
    first = min(step for step, overlap in overlaps.items() if overlap < least)
    assert first > 1, "else the test says nothing"
    _, index, watch, module = fit(tmp_path / "b", f"when_stale:{least}", **settings)
    assert index.refresh_steps[0] == first
    # what is read at a step of a refresh is forgotten with the old index
    assert set(watch.read) == set(range(20)) - set(index.refresh_steps)
    assert all(overlap >= least for _, overlap in watch.read.values())
    assert module.timer.totals_s["staleness"] > 0
    _, never, _, _ = fit(tmp_path / "c", f"when_stale:{min(overlaps.values()) * 0.99:.4f}", **settings)
    assert never.refresh_steps == []


def test_measures_only_when_it_should(tmp_path):
    logger = TensorBoardLogger(tmp_path, name="", version="events")
    meter = MeasureStaleness(3, num_passages=100, batch_size=8)
    index = RefreshIndex("-1", tmp_path / "index", show_progress=False, before_validation=True, meter=meter)
    # batches of 2 out of 12 questions, two a step: three steps an epoch
    trainer = toy_trainer(
        tmp_path,
        [meter, index],
        max_steps=9,
        accumulate_grad_batches=2,
        limit_val_batches=1,
        val_check_interval=8,
        log_every_n_steps=5,
        logger=logger,
    )
    module = toy_module(tmp_path)
    trainer.validate(module, toy_datamodule(), verbose=False)
    trainer.fit(module, toy_datamodule())
    logger.finalize("success")
    events = EventAccumulator(str(tmp_path / "events"))
    events.Reload()
    steps = {event.step: event.value for event in events.Scalars("staleness/drift")}
    assert list(steps) == [0, 3, 4, 6, 8], "validations at 4 and 8"
    assert len(events.Scalars("staleness/overlap_at_5")) == 5, "step 0 once, though twice due"
    assert steps[0] == 0
    assert steps[4] > 0, "before the refresh that is due for the validation"
    assert index.refresh_steps == [4, 8]


def test_the_numbers_of_a_run_do_not_depend_on_it(tmp_path):
    def state(folder, callbacks):
        trainer = toy_trainer(folder, callbacks, max_steps=5)
        module = toy_module(folder)
        module.retriever.query_encoder.config.hidden_dropout_prob = 0.1
        for part in module.retriever.modules():
            if isinstance(part, torch.nn.Dropout):
                part.p = 0.1
        torch.manual_seed(3)
        trainer.fit(module, toy_datamodule())
        return module.state_dict(), torch.get_rng_state()

    def index(folder, **settings):
        return RefreshIndex("0-9:2", folder / "index", show_progress=False, batch_size=8, **settings)

    meter = MeasureStaleness(1, num_passages=10, batch_size=8)
    measured, rng = state(tmp_path / "a", [meter, index(tmp_path / "a", meter=meter)])
    plain, plain_rng = state(tmp_path / "b", [index(tmp_path / "b")])
    assert torch.equal(rng, plain_rng)
    assert all(torch.equal(measured[name], plain[name]) for name in plain)


class KilledError(Exception):
    pass


class KillAt(Callback):
    def __init__(self, step: int) -> None:
        self.step = step

    def on_train_batch_end(self, trainer, *_args) -> None:
        if trainer.global_step == self.step:
            raise KilledError


def test_a_resumed_run_decides_the_same(tmp_path):
    schedule, settings = "when_stale:0.95", {"max_steps": 16, "every_steps": 2}
    _, whole, reference, _ = fit(tmp_path / "whole", schedule, **settings)
    assert len(whole.refresh_steps) > 1
    kill = whole.refresh_steps[0] + 3
    checkpoint = tmp_path / "cut" / "last.ckpt"
    with pytest.raises(KilledError):
        fit(tmp_path / "cut", schedule, callbacks=[SaveLast(checkpoint, 2), KillAt(kill)], **settings)
    saved = torch.load(checkpoint, weights_only=True)["global_step"]
    assert saved % 2 == 0, "the first thing the resumed run does is to measure"
    (tmp_path / "cut" / "toy.arrow").unlink()
    _, resumed, watch, _ = fit(
        tmp_path / "cut", schedule, callbacks=[SaveLast(checkpoint, 99)], resume=checkpoint, **settings
    )
    assert resumed.refresh_steps == whole.refresh_steps
    assert watch.read == {step: read for step, read in reference.read.items() if step >= saved}


def test_a_checkpoint_of_a_run_without_meter(tmp_path):
    checkpoint = tmp_path / "last.ckpt"
    index = RefreshIndex("-1", tmp_path / "index", show_progress=False)
    toy_trainer(tmp_path, [index, SaveLast(checkpoint, 2)], max_steps=2).fit(
        toy_module(tmp_path), toy_datamodule()
    )
    _, _, watch, _ = fit(tmp_path, resume=checkpoint, callbacks=[SaveLast(checkpoint, 9)], max_steps=4)
    assert watch.read == {}, "nothing was kept of that index, so there is nothing to compare with"


def test_few_encodings(tmp_path, monkeypatch):
    import callbacks.measure_staleness as measure_staleness

    counts = []

    def count(retriever, passages, batch_size):
        counts.append(len(passages))
        return encode_passages(retriever, passages, batch_size)

    monkeypatch.setattr(measure_staleness, "encode_passages", count)
    meter = MeasureStaleness(num_passages=28, num_questions=3)
    index = RefreshIndex("-1", tmp_path / "index", show_progress=False, meter=meter)
    trainer = toy_trainer(tmp_path, [meter, index], limit_val_batches=1)
    module = toy_module(tmp_path)
    trainer.validate(module, toy_datamodule(), verbose=False)
    kept, sample, others = counts
    assert kept == sample == 28 // 4
    assert 0 < others <= 28 - sample
    assert meter.latest.overlap == 1


def test_an_approximate_index_that_is_never_good_enough_says_so(tmp_path, caplog):
    meter = MeasureStaleness(1, num_passages=100)
    index = RefreshIndex(
        "when_stale:1", tmp_path / "index", factory="PQ1x4", show_progress=False, meter=meter
    )
    trainer = toy_trainer(tmp_path, [meter, index], max_steps=1)
    trainer.fit(toy_module(tmp_path), toy_datamodule())
    assert meter.latest.drift == 0
    assert meter.latest.overlap < 1
    assert "even a fresh index 'PQ1x4' is stale, because it is approximate" in caplog.text


def test_when_stale_needs_a_meter(tmp_path):
    with pytest.raises(ValueError, match="'when_stale' needs a meter"):
        RefreshIndex("when_stale", tmp_path)


TWO_PROCESSES = """
import sys
from pathlib import Path
from callbacks.measure_staleness import MeasureStaleness
from callbacks.refresh_index import RefreshIndex
from tests.toy_training import toy_datamodule, toy_module, toy_trainer

if __name__ == "__main__":
    folder = Path(sys.argv[1])
    meter = MeasureStaleness(1, num_passages=100)
    index = RefreshIndex("when_stale:1", folder / "index", show_progress=False, meter=meter)
    trainer = toy_trainer(folder, [meter, index], devices=2, strategy="ddp", max_steps=4)
    trainer.fit(toy_module(folder / f"process{trainer.global_rank}"), toy_datamodule())
    assert trainer.world_size == 2
    (folder / f"decided{trainer.global_rank}").write_text(f"{index.refresh_steps} {meter.latest}")
"""


def test_two_processes_decide_alike(tmp_path):
    run_script(tmp_path, TWO_PROCESSES)
    first, second = ((tmp_path / f"decided{rank}").read_text() for rank in range(2))
    assert first == second
    assert not first.startswith("[]"), "nothing was refreshed"
