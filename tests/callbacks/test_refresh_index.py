"""When the index is rebuilt, when a saved one is loaded, and what a resumed run goes on with."""

import errno
import fcntl
import logging
import os
import shutil
import signal
import socket
import subprocess
import time
from functools import partial
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
import pytest
import torch
from lightning import Callback
from lightning.pytorch.loggers import CSVLogger

import callbacks.index_builder as index_builder
from callbacks.index_builder import IndexBuilder
from callbacks.refresh_index import RefreshIndex
from callbacks.save_last import SaveLast
from callbacks.stop_on_interrupt import RunInterrupted, StopOnInterrupt
from datamodules.durable_files import partial_beside
from datamodules.embedding_matrix import EmbeddingMatrix, MatrixShape
from datamodules.matrix_index import MatrixIndex
from datamodules.passage_index import PassageIndex
from lightning_modules.encoding import embeddings_fingerprint, encode_rows
from lightning_modules.retriever import Retriever
from lightning_modules.retriever_reader import RetrieverReaderModule
from tests.several_processes import run_script
from tests.toy_training import LIGHTNING_ADVICE, toy_datamodule, toy_module, toy_trainer

pytestmark = pytest.mark.filterwarnings(*LIGHTNING_ADVICE)


class Watch(Callback):
    """Notes at each training batch and validation which embeddings the index in use holds."""

    def __init__(self) -> None:
        self.used: list[tuple[int, int, np.ndarray]] = []
        self.fresh: list[np.ndarray] = []
        self.validated: list[tuple[int, bool]] = []

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx) -> None:
        self.used.append((trainer.global_step, batch_idx, embeddings_of(pl_module.index)))
        self.fresh.append(fresh_embeddings(pl_module))

    def on_validation_start(self, trainer, pl_module) -> None:
        is_fresh = np.allclose(embeddings_of(pl_module.index), fresh_embeddings(pl_module), atol=1e-6)
        self.validated.append((trainer.global_step, is_fresh))

    def changes(self) -> list[tuple[int, int]]:
        """(step, batch) of the batches that met another index than the batch before them."""
        return [
            (step, batch)
            for (_, _, before), (step, batch, now) in zip(self.used, self.used[1:], strict=False)
            if not np.array_equal(before, now)
        ]


class KilledError(Exception):
    pass


class KillAt(Callback):
    def __init__(self, step: int) -> None:
        self.step = step

    def on_train_batch_end(self, trainer, *_args) -> None:
        if trainer.global_step == self.step:
            raise KilledError


def embeddings_of(index: PassageIndex) -> np.ndarray:
    return index._index.reconstruct_n(0, len(index))


def fresh_embeddings(module: RetrieverReaderModule) -> np.ndarray:
    return encode_rows(module.retriever, module.knowledge_base, range(len(module.knowledge_base)))


def make_callback(folder: Path, schedule: str = "-1", **settings) -> RefreshIndex:
    return RefreshIndex(schedule, folder / "index", **{"batch_size": 8, "show_progress": False, **settings})


@pytest.fixture
def num_encodings(monkeypatch):
    """Counts how often the knowledge base is encoded by the callback."""
    calls = []

    def encode(*args, **kwargs):
        calls.append(args)
        return encode_rows(*args, **kwargs)

    monkeypatch.setattr(index_builder, "encode_rows", encode)
    return lambda: len(calls)


@pytest.mark.parametrize("accumulate", [1, 2])
def test_refreshes_at_exactly_the_steps_of_the_schedule(tmp_path, accumulate):
    callback, watch = make_callback(tmp_path, "0-4:2,4-8:3"), Watch()
    trainer = toy_trainer(tmp_path, [callback, watch], max_steps=9, accumulate_grad_batches=accumulate)
    trainer.fit(toy_module(tmp_path), toy_datamodule())
    assert len({step for step, _, _ in watch.used}) == 9
    changes = watch.changes()
    assert [step for step, _ in changes] == [2, 4, 7] == callback.refresh_steps
    assert all(batch % accumulate == 0 for _, batch in changes), "changed in the middle of a step"
    assert callback.num_refreshes == 3
    for (step, batch, used), fresh in zip(watch.used, watch.fresh, strict=True):
        if step in (0, 2, 4, 7):
            assert np.allclose(used, fresh, atol=1e-6), f"not of the weights of step {step}, batch {batch}"
        else:
            assert not np.allclose(used, fresh, atol=1e-6)


@pytest.mark.parametrize("before_validation", [True, False])
def test_refreshes_before_validation_where_asked_to(tmp_path, before_validation):
    callback, watch = make_callback(tmp_path, "-1", before_validation=before_validation), Watch()
    trainer = toy_trainer(tmp_path, [callback, watch], limit_val_batches=1, val_check_interval=2)
    trainer.fit(toy_module(tmp_path), toy_datamodule())
    assert watch.validated == [(2, before_validation), (4, before_validation)]
    assert callback.refresh_steps == ([2, 4] if before_validation else [])


class Freshness(Callback):
    """What validations are told, at the steps of the run."""

    def __init__(self) -> None:
        self.told: list[tuple[int, bool]] = []

    def on_validation_epoch_end(self, trainer, pl_module) -> None:
        self.told.append((trainer.global_step, pl_module.index_is_fresh))


def test_a_refresh_that_is_due_comes_before_the_validation(tmp_path, num_encodings):
    callback, watch, freshness = make_callback(tmp_path, "0-100:4"), Watch(), Freshness()
    trainer = toy_trainer(
        tmp_path, [callback, watch, freshness], max_steps=8, limit_val_batches=1, val_check_interval=2
    )
    trainer.fit(toy_module(tmp_path), toy_datamodule())
    assert watch.validated == freshness.told == [(2, False), (4, True), (6, False), (8, True)]
    assert callback.refresh_steps == [4, 8]
    assert num_encodings() == 3, "twice for one step"
    assert float(trainer.callback_metrics["validation/index_is_fresh"]) == 1


@pytest.mark.parametrize("trained", ["reader", "queries"])
def test_a_passage_encoder_that_stays_is_always_fresh(tmp_path, trained):
    freshness = Freshness()
    trainer = toy_trainer(
        tmp_path, [make_callback(tmp_path), freshness], limit_val_batches=1, val_check_interval=2
    )
    is_reader = trained == "reader"
    module = toy_module(tmp_path, train_reader=is_reader, train_retriever=not is_reader)
    if not is_reader:
        old = module.retriever
        module.retriever = Retriever(
            old.query_encoder, old.tokenizer, normalize=True, tied=False, train_passage_encoder=False
        )
    trainer.fit(module, toy_datamodule())
    assert freshness.told == [(2, True), (4, True)]


def test_evaluation_alone_builds_an_index(tmp_path):
    callback, watch = make_callback(tmp_path), Watch()
    trainer = toy_trainer(tmp_path, [callback, watch], limit_val_batches=1)
    trainer.validate(toy_module(tmp_path), toy_datamodule(), verbose=False)
    assert watch.validated == [(0, True)]
    assert callback.num_refreshes == 0, "the first index is no refresh"


def test_unchanged_weights_are_not_encoded_again(tmp_path, num_encodings):
    module = toy_module(tmp_path, train_retriever=False, train_reader=True)
    trainer = toy_trainer(
        tmp_path,
        [make_callback(tmp_path, "1", before_validation=True)],
        limit_val_batches=1,
        val_check_interval=2,
    )
    trainer.fit(module, toy_datamodule())
    trainer.test(module, toy_datamodule(), verbose=False)
    assert num_encodings() == 1


def test_an_index_is_loaded_by_another_run_with_the_same_weights(tmp_path, num_encodings):
    def evaluated(module, **settings):
        callback = make_callback(tmp_path, **settings)
        toy_trainer(tmp_path, [callback]).test(module, toy_datamodule(), verbose=False)
        return module

    first = evaluated(toy_module(tmp_path / "a"))
    second = evaluated(toy_module(tmp_path / "b"))
    assert num_encodings() == 1
    assert np.array_equal(embeddings_of(first.index), embeddings_of(second.index))
    evaluated(toy_module(tmp_path / "c"), factory="SQ8")
    assert num_encodings() == 2, "loaded an index of another kind"
    other = toy_module(tmp_path / "d")
    with torch.no_grad():
        next(other.retriever.parameters()).add_(0.01)
    evaluated(other)
    assert num_encodings() == 3, "loaded an index of other weights"


def test_a_stale_index_in_the_right_place_is_not_loaded(tmp_path, num_encodings):
    module = toy_module(tmp_path)
    callback = make_callback(tmp_path)
    place = callback.builder.folder_of(embeddings_fingerprint(module.retriever, module.knowledge_base))
    lies = np.random.default_rng(0).normal(size=(24, module.retriever.dim)).astype(np.float32)
    PassageIndex.build(lies).save(place, "of something else")
    toy_trainer(tmp_path, [callback]).test(module, toy_datamodule(), verbose=False)
    assert num_encodings() == 1
    assert np.allclose(embeddings_of(module.index), fresh_embeddings(module), atol=1e-6)


def test_old_indexes_are_pruned(tmp_path):
    callback = make_callback(tmp_path, "1")
    trainer = toy_trainer(tmp_path, [callback], max_steps=5)
    trainer.fit(toy_module(tmp_path), toy_datamodule())
    assert len(list((tmp_path / "index").iterdir())) == 1


def killed_run(folder: Path) -> tuple[Watch, Path]:
    """Refreshes at steps 0 and 3, saves at step 2, dies after step 4."""
    watch, checkpoint = Watch(), folder / "last.ckpt"
    callbacks = [make_callback(folder, "0-100:3"), watch, SaveLast(checkpoint, 2), KillAt(4)]
    # two checkpoints are due by then: the one of step 2 is kept aside
    callbacks.insert(3, KeepAside(checkpoint, folder / "step2.ckpt"))
    with pytest.raises(KilledError):
        toy_trainer(folder, callbacks, max_steps=6).fit(toy_module(folder), toy_datamodule())
    return watch, folder / "step2.ckpt"


class KeepAside(Callback):
    def __init__(self, source: Path, target: Path) -> None:
        self.source, self.target = source, target

    def on_train_batch_start(self, trainer, *_args) -> None:
        if self.source.is_file() and not self.target.is_file():
            shutil.copy(self.source, self.target)


def resumed_run(folder: Path, checkpoint: Path) -> tuple[Watch, RefreshIndex]:
    watch, callback = Watch(), make_callback(folder, "0-100:3")
    trainer = toy_trainer(folder, [callback, watch, SaveLast(folder / "new.ckpt", 2)], max_steps=6)
    trainer.fit(toy_module(folder / "again"), toy_datamodule(), ckpt_path=checkpoint, weights_only=True)
    return watch, callback


def test_a_resumed_run_uses_the_index_of_its_checkpoint(tmp_path):
    before, checkpoint = killed_run(tmp_path)
    assert len(list((tmp_path / "index").iterdir())) == 2, "the newer index lies beside the checkpoint's"
    after, callback = resumed_run(tmp_path, checkpoint)
    step, _, used = after.used[0]
    assert step == 2
    assert np.array_equal(used, before.used[0][2]), "not the index that the checkpoint was trained with"
    assert not np.allclose(used, after.fresh[0], atol=1e-6), "a fresh one"
    assert [step for step, _ in after.changes()] == [3]
    assert callback.refresh_steps == [3]


def test_a_resumed_run_without_its_index_warns_and_builds_one(tmp_path, caplog):
    _, checkpoint = killed_run(tmp_path)
    shutil.rmtree(tmp_path / "index")
    with caplog.at_level(logging.WARNING, logger="callbacks.refresh_index"):
        after, _ = resumed_run(tmp_path, checkpoint)
    assert "index that the checkpoint was trained with is gone" in caplog.text
    assert np.allclose(after.used[0][2], after.fresh[0], atol=1e-6)


TWO_PROCESSES = """
import sys, warnings
from pathlib import Path
from callbacks import index_builder
from callbacks.refresh_index import RefreshIndex
from datamodules.passage_index import UnusableEmbeddingsError
from tests.toy_training import toy_datamodule, toy_module, toy_trainer

if __name__ == "__main__":
    folder = Path(sys.argv[1])
    callback = RefreshIndex("0-100:2", folder / "index", show_progress=False, batch_size=8)
    trainer = toy_trainer(folder, [callback], devices=2, strategy="ddp", max_steps=3)
    module = toy_module(folder / f"process{trainer.global_rank}")
    trainer.fit(module, toy_datamodule())
    assert callback.refresh_steps == [2], callback.refresh_steps
    trainer.test(toy_module(folder / f"again{trainer.global_rank}"), toy_datamodule(), verbose=False)
    shape = index_builder.MatrixShape
    index_builder.MatrixShape = lambda *of: shape(*of, rows_a_chunk=8)
    limit = {"largest_in_memory_bytes": 0}
    matrix = RefreshIndex("-1", folder / "matrix", show_progress=False, batch_size=8, **limit)
    trainer = toy_trainer(folder, [matrix], devices=2, strategy="ddp")
    trainer.test(toy_module(folder / f"large{trainer.global_rank}"), toy_datamodule(), verbose=False)
    encode, rank = index_builder.encode_rows, trainer.global_rank
    index_builder.encode_rows = lambda *of: encode(*of) * (1 - rank)
    zeros = RefreshIndex("-1", folder / "zeros", show_progress=False, batch_size=8, **limit)
    try:
        toy_trainer(folder, [zeros], devices=2, strategy="ddp").test(
            toy_module(folder / f"zeros{rank}"), toy_datamodule(), verbose=False
        )
    except UnusableEmbeddingsError as error:
        (folder / f"refused{rank}").write_text(str(error))
"""


def test_two_processes_build_the_index_of_one(tmp_path, num_encodings):
    """Ends with an index of the initial weights, which this process loads and compares."""
    run_script(tmp_path, TWO_PROCESSES)
    # the second has made zeros of its rows, and the first does not wait for them
    one, two = ((tmp_path / f"refused{rank}").read_text() for rank in range(2))
    assert one == two
    assert "zero" in one
    module = toy_module(tmp_path / "one")
    toy_trainer(tmp_path, [make_callback(tmp_path)]).test(module, toy_datamodule(), verbose=False)
    assert num_encodings() == 0, "the fingerprint differs between processes"
    assert np.allclose(embeddings_of(module.index), fresh_embeddings(module), atol=1e-6)
    [place] = (tmp_path / "matrix").iterdir()
    fingerprint = embeddings_fingerprint(module.retriever, module.knowledge_base)
    matrix = EmbeddingMatrix.open(place, fingerprint).as_array()
    assert np.allclose(matrix, fresh_embeddings(module), atol=1e-3), "a large one, in a file"


def test_the_start_is_shared_between_runs(tmp_path, monkeypatch):
    built = []
    build = PassageIndex.build.__func__
    monkeypatch.setattr(
        PassageIndex, "build", classmethod(lambda cls, *a, **k: built.append(1) or build(cls, *a, **k))
    )
    shared = tmp_path / "shared"
    for run in ("one", "two"):
        index = RefreshIndex("-1", tmp_path / run / "index", start_folder=shared, show_progress=False)
        module = toy_module(tmp_path)
        toy_trainer(tmp_path, [index], max_steps=2).fit(module, toy_datamodule())
        assert module.index is not None
        assert not index.builder.folder.exists()
    assert len(built) == 1
    assert [folder.name[0] for folder in shared.iterdir()] != ["."]


# ---- matrices: as knowledge bases of more than 2 GiB have them ----


def test_what_killed_runs_left_in_the_shared_folder_is_removed(tmp_path, caplog):
    """What a running process writes stays, and what another machine or a run to be resumed may go on with.

    An earlier process may have had the number of this one.
    """
    ended = subprocess.Popen(["true"])
    ended.wait()
    host, old = socket.gethostname().replace(".", "-"), time.time() - 8 * 86400
    stay = {partial_beside(tmp_path / "0a").name: old, ".0b.other-host.1.0b.partial": time.time()}
    stay |= {"00aa.partial": time.time(), "11bb.partial": old, "22cc": old}
    go = {f".0c.{host}.{ended.pid}.0c.partial": time.time(), ".0d.other-host.1.0d.partial": old}
    go |= {f".0e.{host}.{os.getpid()}.0e.partial": time.time(), "33dd.partial": old}
    for name, age in {**stay, **go}.items():
        (tmp_path / name).mkdir()
        (tmp_path / name / "rows").touch()
        os.utime(tmp_path / name / "rows", (age, age))
        os.utime(tmp_path / name, (age, age))
    caplog.set_level(logging.INFO)
    with (tmp_path / "11bb.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # a run that is encoding slowly
        IndexBuilder(tmp_path / "own", tmp_path).prune_shared()
    assert {path.name for path in tmp_path.iterdir() if path.is_dir()} == stay.keys()
    assert "33dd.partial, which a killed run has left behind a week ago, is removed" in caplog.text


def test_the_end_of_a_run_leaves_no_half_built_index(tmp_path):
    index = RefreshIndex("-1", tmp_path / "index", show_progress=False)
    trainer, module = toy_trainer(tmp_path, [index], limit_test_batches=1), toy_module(tmp_path)
    trainer.test(module, toy_datamodule(), verbose=False)
    for name in ("00aa.partial", "00aa.embeddings"):
        (tmp_path / "index" / name).mkdir()
    trainer.test(module, toy_datamodule(), verbose=False)
    assert [path.name for path in (tmp_path / "index").iterdir()] == [index._fingerprint[:16]]


def no_locks(*_args: object) -> None:
    raise OSError(errno.EOPNOTSUPP, "Operation not supported")


@pytest.fixture
def nothing_fits(monkeypatch):
    monkeypatch.setattr(IndexBuilder, "_is_large", lambda self, module: True)
    monkeypatch.setattr(index_builder, "MatrixShape", partial(MatrixShape, rows_a_chunk=8))


def after_a_test(folder: Path, callback: RefreshIndex) -> RetrieverReaderModule:
    module = toy_module(folder)
    toy_trainer(folder, [callback]).test(module, toy_datamodule(), verbose=False)
    return module


def test_a_large_knowledge_base_is_searched_in_its_file(tmp_path, nothing_fits):
    module = after_a_test(tmp_path, make_callback(tmp_path))
    assert isinstance(module.index, MatrixIndex)
    found = np.concatenate([block.astype(np.float32) for _, block in module.index.matrix.blocks()])
    assert np.allclose(found, fresh_embeddings(module), atol=1e-3)
    assert [path.suffix for path in (tmp_path / "index").iterdir()] == [""], "parts are left behind"


def test_a_refresh_lets_go_of_the_old_matrix_before_it_encodes(tmp_path, nothing_fits, monkeypatch):
    held = []
    encode = IndexBuilder._encode_matrix

    def watched(self, trainer, module, fingerprint, place):
        held.append(module.index)
        return encode(self, trainer, module, fingerprint, place)

    monkeypatch.setattr(IndexBuilder, "_encode_matrix", watched)
    callback = make_callback(tmp_path, "0-100:2")
    toy_trainer(tmp_path, [callback], max_steps=3).fit(toy_module(tmp_path), toy_datamodule())
    assert held == [None, None]
    assert len(list((tmp_path / "index").iterdir())) == 1, "the old one takes disk"


def test_no_more_than_two_indices_take_disk(tmp_path, nothing_fits, monkeypatch):
    """The one that is being made, and that of the last checkpoint: of no index, of step 1, of step 3."""
    kept = []
    encode = IndexBuilder._encode_matrix

    def watched(self, *arguments):
        kept.append(len([*self.folder.iterdir()]) if self.folder.is_dir() else 0)
        return encode(self, *arguments)

    monkeypatch.setattr(IndexBuilder, "_encode_matrix", watched)
    callback = make_callback(tmp_path, "1")
    save = SaveLast(tmp_path / "last.ckpt", 2)
    toy_trainer(tmp_path, [callback, save], max_steps=5).fit(toy_module(tmp_path), toy_datamodule())
    assert callback.refresh_steps == [1, 2, 3, 4]
    assert kept == [0, 0, 1, 1, 1]


def test_an_encoding_that_was_killed_goes_on(tmp_path, nothing_fits, monkeypatch):
    counted = []

    def dies(*args, **kwargs):
        if len(counted) == 2:
            raise KilledError
        counted.append(args[2])
        return encode_rows(*args, **kwargs)

    monkeypatch.setattr(index_builder, "encode_rows", dies)
    with pytest.raises(KilledError):
        after_a_test(tmp_path, make_callback(tmp_path))
    monkeypatch.setattr(
        index_builder, "encode_rows", lambda *a, **k: counted.append(a[2]) or encode_rows(*a, **k)
    )
    module = after_a_test(tmp_path, make_callback(tmp_path))
    assert counted == [range(8), range(8, 16), range(16, 24)], "encoded twice"
    assert np.allclose(module.index.matrix.as_array(), fresh_embeddings(module), atol=1e-3)


def dies_after(monkeypatch, num_chunks: int) -> list[range]:
    """The rows that are encoded until the next chunk kills."""
    encoded: list[range] = []

    def encode(*args, **kwargs):
        if len(encoded) == num_chunks:
            raise KilledError
        encoded.append(args[2])
        return encode_rows(*args, **kwargs)

    monkeypatch.setattr(index_builder, "encode_rows", encode)
    return encoded


def test_the_encoding_of_the_final_test_goes_on_where_it_was_killed(tmp_path, nothing_fits, monkeypatch):
    """All steps are done when the run is resumed, and the retriever is not that of the start."""
    checkpoint = tmp_path / "last.ckpt"

    def train_and_test(**resumed: Any) -> RetrieverReaderModule:
        callback = make_callback(tmp_path, start_folder=tmp_path / "shared")
        trainer = toy_trainer(tmp_path, [callback, SaveLast(checkpoint, 2)], max_steps=2)
        module = toy_module(tmp_path)
        trainer.fit(module, toy_datamodule(), **resumed)
        trainer.test(module, toy_datamodule(), verbose=False)
        return module

    dies_after(monkeypatch, 3 + 2)
    with pytest.raises(KilledError):
        train_and_test()
    encoded = dies_after(monkeypatch, 3)
    module = train_and_test(ckpt_path=checkpoint, weights_only=True)
    assert encoded == [range(16, 24)]
    assert np.allclose(module.index.matrix.as_array(), fresh_embeddings(module), atol=1e-3)
    assert module.index.matrix.folder.parent == tmp_path / "index"
    assert len([path for path in (tmp_path / "shared").iterdir() if path.is_dir()]) == 1, "the start's"


def test_an_index_that_was_killed_while_faiss_made_it_is_not_encoded_again(tmp_path, monkeypatch):
    monkeypatch.setattr(index_builder, "MatrixShape", partial(MatrixShape, rows_a_chunk=8))
    settings = {"factory": "PQ4x4", "largest_in_memory_bytes": 0}
    build = PassageIndex.build

    def dies(*args: Any, **kwargs: Any) -> NoReturn:
        raise KilledError

    monkeypatch.setattr(PassageIndex, "build", dies)
    with pytest.raises(KilledError):
        after_a_test(tmp_path, make_callback(tmp_path, **settings))
    monkeypatch.setattr(PassageIndex, "build", build)
    encoded = dies_after(monkeypatch, 0)
    module = after_a_test(tmp_path, make_callback(tmp_path, **settings))
    assert encoded == []
    assert len(module.index) == len(module.knowledge_base)


def test_an_approximate_index_and_an_exact_one_do_not_take_each_others_place(tmp_path, monkeypatch):
    """Nor are the same passages encoded for both."""
    monkeypatch.setattr(index_builder, "MatrixShape", partial(MatrixShape, rows_a_chunk=8))
    encoded = dies_after(monkeypatch, 3)
    for turn, factory in enumerate(("Flat", "PQ4x4", "Flat", "PQ4x4")):
        settings = {"factory": factory, "largest_in_memory_bytes": 0, "start_folder": tmp_path / "shared"}
        module = after_a_test(tmp_path / str(turn), make_callback(tmp_path / str(turn), **settings))
        assert module.index.factory == factory
    assert len(encoded) == 3, "the three parts of one encoding"
    fingerprint = embeddings_fingerprint(module.retriever, module.knowledge_base)[:16]
    folders = {path.name for path in (tmp_path / "shared").iterdir() if path.is_dir()}
    assert folders == {fingerprint, f"{fingerprint}-PQ4x4"}


@pytest.mark.parametrize("number", [signal.SIGUSR1, signal.SIGINT])
def test_a_signal_ends_an_encoding_between_its_parts(tmp_path, nothing_fits, monkeypatch, number):
    """A refresh may take an hour, and a scheduler waits for minutes."""
    encoded = []

    def encode(*args, **kwargs):
        encoded.append(args[2])
        os.kill(os.getpid(), number)
        return encode_rows(*args, **kwargs)

    monkeypatch.setattr(index_builder, "encode_rows", encode)
    callback, on_signal = make_callback(tmp_path, "0-100:1"), StopOnInterrupt(tmp_path / "last.ckpt")
    with pytest.raises(RunInterrupted) as interrupted:
        toy_trainer(tmp_path, [on_signal, callback]).test(toy_module(tmp_path), toy_datamodule())
    assert interrupted.value.by_scheduler == (number == signal.SIGUSR1)
    assert encoded == [range(8)]


def test_a_damaged_matrix_is_encoded_again(tmp_path, nothing_fits, caplog):
    first = after_a_test(tmp_path, make_callback(tmp_path))
    (first.index.matrix.folder / "embeddings.f16").write_bytes(b"short")
    with caplog.at_level(logging.WARNING, logger="callbacks.index_builder"):
        module = after_a_test(tmp_path, make_callback(tmp_path))
    assert "is not whole" in caplog.text
    assert "encoding all passages again" in caplog.text
    assert np.allclose(module.index.matrix.as_array(), fresh_embeddings(module), atol=1e-3)


def test_a_shared_matrix_that_another_run_is_writing_is_left_to_it(tmp_path, nothing_fits, caplog):
    shared = tmp_path / "shared"
    shared.mkdir()
    module = toy_module(tmp_path)
    fingerprint = embeddings_fingerprint(module.retriever, module.knowledge_base)
    with (shared / f"{fingerprint[:16]}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        with caplog.at_level(logging.WARNING, logger="callbacks.index_builder"):
            own = after_a_test(tmp_path, make_callback(tmp_path, start_folder=shared))
    assert "another run is encoding the same passages" in caplog.text
    assert own.index.matrix.folder.parent == tmp_path / "index"
    second = after_a_test(tmp_path, make_callback(tmp_path / "second", start_folder=shared))
    assert second.index.matrix.folder.parent == shared


def test_where_a_shared_disk_has_no_locks_each_run_encodes_for_itself(
    tmp_path, nothing_fits, caplog, monkeypatch
):
    monkeypatch.setattr(fcntl, "flock", no_locks)
    shared = tmp_path / "shared"
    with caplog.at_level(logging.WARNING, logger="callbacks.index_builder"):
        own = after_a_test(tmp_path, make_callback(tmp_path, start_folder=shared))
    assert f"the file system of {shared} has no locks; this run encodes them for itself" in caplog.text
    assert own.index.matrix.folder.parent == tmp_path / "index"


def test_a_part_whose_record_a_shared_disk_has_lost_is_encoded_again(tmp_path, nothing_fits, monkeypatch):
    lost, write = [], EmbeddingMatrix.write

    def losing(self, chunk, embeddings):
        if chunk == 1 and not lost:
            lost.append(chunk)
        else:
            write(self, chunk, embeddings)

    monkeypatch.setattr(EmbeddingMatrix, "write", losing)
    module = after_a_test(tmp_path, make_callback(tmp_path))
    assert lost == [1]
    assert np.allclose(module.index.matrix.as_array(), fresh_embeddings(module), atol=1e-3)


def test_a_shared_matrix_that_another_run_has_just_finished_is_taken(
    tmp_path, nothing_fits, num_encodings, monkeypatch
):
    shared = tmp_path / "shared"
    first = after_a_test(tmp_path, make_callback(tmp_path, start_folder=shared))
    made = num_encodings()
    assert made
    # as if it had come to its end after this run has looked
    monkeypatch.setattr(index_builder.IndexBuilder, "load", lambda *_: None)
    second = after_a_test(tmp_path, make_callback(tmp_path / "second", start_folder=shared))
    assert num_encodings() == made
    assert second.index.matrix.folder == first.index.matrix.folder


@pytest.mark.parametrize("is_large", [True, False])
def test_an_approximate_index_says_what_it_misses(tmp_path, is_large):
    limit = {"largest_in_memory_bytes": 0} if is_large else {}
    logged = {}

    class Logger(CSVLogger):
        def log_metrics(self, metrics, step=None):
            logged.update(metrics)

    callback = make_callback(tmp_path, factory="PQ4x4", **limit)
    trainer = toy_trainer(tmp_path, [callback], logger=Logger(tmp_path))
    module = toy_module(tmp_path)
    trainer.test(module, toy_datamodule(), verbose=False)
    questions = [question.text for question in toy_datamodule().validation]
    with torch.no_grad():
        queries = module.retriever.encode_queries(questions)
    exact = (queries @ torch.from_numpy(fresh_embeddings(module)).T).topk(5).indices.tolist()
    found = module.index.search(queries.numpy(), 5)[1].tolist()
    recalls = [len(set(a) & set(b)) / 5 for a, b in zip(exact, found, strict=True)]
    assert logged["index/recall_at_5"] == pytest.approx(np.mean(recalls), abs=1e-6)
    assert np.mean(recalls) < 1
    assert not list((tmp_path / "index").glob("*.embeddings")), "the matrix is needed no more"
