"""Which passages validations search, and that training goes on with the index it had."""

import numpy as np
import pytest
import torch
from lightning import Callback

from callbacks.index_builder import encode_in_shares
from callbacks.refresh_index import RefreshIndex
from callbacks.validate_on_part import ValidateOnPart, gold_rows
from datamodules.bm25 import BM25Index
from datamodules.errors import DataError
from datamodules.sealed_files import read_json
from lightning_modules.encoding import encode_passages
from lightning_modules.metrics.measures import BM25
from tests.several_processes import run_script
from tests.toy_training import LIGHTNING_ADVICE, toy_datamodule, toy_module, toy_trainer

pytestmark = pytest.mark.filterwarnings(*LIGHTNING_ADVICE)
K = 5


class Watch(Callback):
    """Notes what is searched in validations and in training steps, and what validations log."""

    def __init__(self) -> None:
        self.validated: list[tuple[int, list[int], bool]] = []
        self.trained: list[int] = []
        self.logged: list[dict[str, float]] = []

    def on_validation_batch_start(self, trainer, pl_module, batch, batch_idx, dataloader_idx=0) -> None:
        index = pl_module.index
        passages = pl_module.knowledge_base.select(index.rows)
        fresh = encode_passages(pl_module.retriever, passages)
        held = index._embeddings.numpy()
        is_fresh = np.allclose(held, fresh, atol=1e-3)  # half precision
        self.validated.append((trainer.global_step, index.rows.tolist(), is_fresh))

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx) -> None:
        self.trained.append(len(pl_module.index))
        assert pl_module.searched_rows is None

    def on_validation_end(self, trainer, pl_module) -> None:
        self.logged.append({name: float(value) for name, value in trainer.callback_metrics.items()})


def parts(folder, num_passages, factory="Flat", **settings):
    module = toy_module(folder, num_passages=K, **settings)
    refresh = RefreshIndex("-1", folder / "index", factory=factory, show_progress=False)
    on_part = ValidateOnPart(num_passages, folder / "rows.json", show_progress=False)
    return module, refresh, on_part


def run(folder, num_passages=12, max_steps=4, **settings):
    module, refresh, on_part = parts(folder, num_passages, **settings)
    watch = Watch()
    trainer = toy_trainer(
        folder, [refresh, on_part, watch], max_steps=max_steps, val_check_interval=2, limit_val_batches=1.0
    )
    datamodule = toy_datamodule()
    trainer.validate(module, datamodule, verbose=False)
    trainer.fit(module, datamodule)
    return module, watch, trainer


def test_each_validation_searches_the_same_passages_encoded_anew(tmp_path):
    module, watch, _ = run(tmp_path)
    steps = sorted({step for step, _, _ in watch.validated})
    assert steps == [0, 2, 4]
    assert all(is_fresh for _, _, is_fresh in watch.validated)
    [rows] = {tuple(rows) for _, rows, _ in watch.validated}
    assert len(rows) == 12
    assert rows == tuple(read_json(tmp_path / "rows.json")["rows"])
    assert set(watch.trained) == {len(module.index)} == {24}
    gold = gold_rows(module, toy_datamodule().validation)
    assert sorted(gold.values()) == [[0], [1], [2], [3]], "the passage that holds the capital"
    assert {row for found in gold.values() for row in found} <= set(rows)


def test_an_error_in_a_validation_gives_the_whole_index_back(tmp_path):
    """After a collapse the test searches all passages, with all of the memory."""

    class Collapse(Callback):
        def on_validation_end(self, trainer, pl_module) -> None:
            raise ArithmeticError

    module, refresh, on_part = parts(tmp_path, 12)
    trainer = toy_trainer(tmp_path, [Collapse(), refresh, on_part], limit_val_batches=1.0)
    with pytest.raises(ArithmeticError):
        trainer.validate(module, toy_datamodule(), verbose=False)
    assert (len(module.index), module.searched_rows, on_part._whole) == (24, None, None)


def test_what_the_whole_index_holds_of_the_present_encoder_is_not_encoded_again(tmp_path, monkeypatch):
    encoded = []

    def counted(trainer, module, rows, *settings):
        encoded.append(len(rows))
        return encode_in_shares(trainer, module, rows, *settings)

    monkeypatch.setattr("callbacks.validate_on_part.encode_in_shares", counted)
    _, watch, _ = run(tmp_path)
    assert {step for step, _, _ in watch.validated} == {0, 2, 4}
    assert encoded == [12, 12], "the start's are there"


def test_hit_rates_are_those_of_a_loop_over_the_part(tmp_path):
    module, refresh, on_part = parts(tmp_path, 10)
    module.bm25 = BM25Index.build(module.knowledge_base)
    trainer = toy_trainer(tmp_path, [refresh, on_part], limit_val_batches=1.0)
    datamodule = toy_datamodule()
    [measured] = trainer.validate(module, datamodule, verbose=False)
    rows = read_json(tmp_path / "rows.json")["rows"]
    passages = module.knowledge_base.select(rows)
    embeddings = torch.from_numpy(encode_passages(module.retriever, passages))
    hits, of_bm25 = [], []
    for question in datamodule.validation:
        with torch.no_grad():
            scores = embeddings @ module.retriever.encode_queries([question.text])[0]
        best = [passages[i] for i in scores.argsort(descending=True)[:K].tolist()]
        hits.append(any(question.answers[0] in passage.text for passage in best))
        _, ranked = module.bm25.search([question.text], 24)
        among = [row for row in ranked[0].tolist() if row in rows][:1]
        of_bm25.append(question.answers[0] in module.knowledge_base[among[0]].text)
    assert measured["validation/hr_at_5"] == pytest.approx(np.mean(hits))
    assert measured[f"validation/{BM25}hr_at_1"] == pytest.approx(np.mean(of_bm25))
    tested = trainer.test(module, datamodule, verbose=False)
    assert module.index is not None
    assert len(module.index) == 24
    assert "test/hr_at_5" in tested[0]


def test_a_resumed_run_goes_on_with_the_passages_of_the_first(tmp_path):
    _, first, _ = run(tmp_path)
    (tmp_path / "index").rename(tmp_path / "gone")
    _, again, _ = run(tmp_path)
    assert again.validated[0][1] == first.validated[0][1]
    for damage in ("[1, 2", "{}", "[]", "[0, 99]"):
        (tmp_path / "rows.json").write_text(damage)
        with pytest.raises(DataError, match=r"rows\.json is damaged.*start the run anew"):
            run(tmp_path)


def test_a_part_that_holds_all_gives_what_the_whole_index_gives(tmp_path):
    _, part, _ = run(tmp_path / "part", num_passages=24)
    module, refresh, _ = parts(tmp_path / "whole", 1)
    refresh.before_validation = True
    logged = Watch()
    logged.on_validation_batch_start = lambda *_args: None
    trainer = toy_trainer(
        tmp_path, [refresh, logged], max_steps=4, val_check_interval=2, limit_val_batches=1.0
    )
    trainer.validate(module, toy_datamodule(), verbose=False)
    trainer.fit(module, toy_datamodule())
    names = ("validation/hr_at_1", "validation/hr_at_5", "validation/passage_words")
    # after the second one the two train on different indices
    for ours, theirs in zip(part.logged[:2], logged.logged[:2], strict=True):
        assert {name: ours[name] for name in names} == {name: theirs[name] for name in names}


SCRIPT = """
import sys
from pathlib import Path
from tests.callbacks.test_validate_on_part import parts
from tests.toy_training import toy_datamodule, toy_trainer

if __name__ == "__main__":
    folder = Path(sys.argv[1])
    # an index that cannot give back what was put into it
    module, refresh, on_part = parts(folder, 11, factory="HNSW8")
    trainer = toy_trainer(folder, [refresh, on_part], devices=2, strategy="ddp", limit_val_batches=1.0)
    [measured] = trainer.validate(module, toy_datamodule(), verbose=False)
    if trainer.is_global_zero:
        (folder / "measured.txt").write_text(repr({k: float(v) for k, v in measured.items()}))
"""


def test_two_processes_encode_a_share_each(tmp_path):
    run_script(tmp_path, SCRIPT)
    measured = eval((tmp_path / "measured.txt").read_text())
    (tmp_path / "one").mkdir()
    module, refresh, on_part = parts(tmp_path / "one", 11)
    trainer = toy_trainer(tmp_path / "one", [refresh, on_part], limit_val_batches=1.0)
    [expected] = trainer.validate(module, toy_datamodule(), verbose=False)
    for name in ("validation/hr_at_1", "validation/hr_at_5", "validation/passage_words"):
        assert measured[name] == pytest.approx(expected[name], abs=1e-5)
    assert read_json(tmp_path / "rows.json") == read_json(tmp_path / "one" / "rows.json")
