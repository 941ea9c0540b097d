"""Temperatures that are derived, against scores worked out here."""

import pytest
import torch

from callbacks.fit_temperature import FitTemperature
from callbacks.refresh_index import RefreshIndex
from callbacks.save_last import SaveLast
from lightning_modules.optimization import LearningRate, LearningRateDecay
from tests.toy_training import LIGHTNING_ADVICE, toy_datamodule, toy_module, toy_trainer

pytestmark = [pytest.mark.filterwarnings(advice) for advice in LIGHTNING_ADVICE]


def index_of(folder) -> RefreshIndex:
    return RefreshIndex("-1", folder / "index", batch_size=8, show_progress=False)


def test_it_fits_the_scores_of_what_the_start_retrieves(tmp_path):
    module, datamodule = toy_module(tmp_path, retrieval_temperature=None, num_passages=4), toy_datamodule()
    trainer = toy_trainer(tmp_path, [index_of(tmp_path), FitTemperature()], limit_val_batches=1.0)
    trainer.validate(module, datamodule, verbose=False)
    spreads = []
    with torch.no_grad():
        for question in datamodule.validation:
            [query] = module.retriever.encode_queries([question.text])
            [found] = module.retrieve([question], 4)
            spreads.append((module.retriever.encode_passages(found) @ query).std(correction=0))
    expected = float(torch.stack(spreads).median()) / 2
    assert module.retrieval_temperature == pytest.approx(expected, rel=0.05)
    derived = module.retrieval_temperature
    trainer.fit(module, datamodule)
    assert module.retrieval_temperature == derived, "the start's, whatever the retriever becomes"


def test_a_resumed_run_keeps_what_was_derived_at_the_start(tmp_path):
    rate = LearningRate(5e-3, decay=LearningRateDecay.CONSTANT)

    def train(max_steps, checkpoint=None):
        module = toy_module(tmp_path, retrieval_temperature=None, retriever_rate=rate)
        callbacks = [index_of(tmp_path), FitTemperature(), SaveLast(tmp_path / "last.ckpt", 2)]
        trainer = toy_trainer(tmp_path, callbacks, max_steps=max_steps)
        trainer.fit(module, toy_datamodule(), ckpt_path=checkpoint, weights_only=True)
        return module

    whole, _, resumed = train(4), train(2), train(4, tmp_path / "last.ckpt")
    assert resumed.retrieval_temperature == whole.retrieval_temperature
    assert all(map(torch.equal, whole.retriever.parameters(), resumed.retriever.parameters()))


def test_a_number_stays_as_it_is(tmp_path):
    module = toy_module(tmp_path, retrieval_temperature=0.3)
    toy_trainer(tmp_path, [index_of(tmp_path), FitTemperature()], limit_val_batches=1.0).validate(
        module, toy_datamodule(), verbose=False
    )
    assert module.retrieval_temperature == 0.3


def test_without_it_the_way_out_is_named(tmp_path):
    module = toy_module(tmp_path, retrieval_temperature=None)
    with pytest.raises(ValueError, match=r"FitTemperature after RefreshIndex, or a number"):
        toy_trainer(tmp_path, [index_of(tmp_path)]).fit(module, toy_datamodule())
    one = toy_module(tmp_path, retrieval_temperature=None, num_passages=1, objective="uniform")
    with pytest.raises(ValueError, match="they are all equal"):
        toy_trainer(tmp_path, [index_of(tmp_path), FitTemperature()]).fit(one, toy_datamodule())
