"""Two processes measure and train as one does: no question counts twice, whatever the sampler repeats."""

import contextlib
import json
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from lightning import Callback
from torch.distributed.tensor import DTensor
from torch.utils.data import DataLoader, DistributedSampler

from callbacks import index_builder
from callbacks.alarm_on_collapse import AlarmOnCollapse
from callbacks.log_indicators import LogIndicators
from callbacks.read_start_candidates import ReadStartCandidates
from callbacks.refresh_index import RefreshIndex
from callbacks.save_last import SaveLast
from callbacks.save_predictions import SavePredictions
from callbacks.skip_broken_batches import SkipBrokenBatches
from callbacks.stop_on_interrupt import StopOnInterrupt
from datamodules.bm25 import BM25Index
from datamodules.embedding_matrix import EmbeddingMatrix, MatrixShape
from datamodules.matrix_index import MatrixIndex
from lightning_modules.candidates import Candidates
from lightning_modules.closed_book import ClosedBookModule
from lightning_modules.optimization import LearningRate, LearningRateDecay
from lightning_modules.sharded_index import ShardedIndex
from tests.several_processes import run_script
from tests.tiny_models import tiny_reader_of, toy_knowledge_base, toy_questions
from tests.toy_training import (
    LIGHTNING_ADVICE,
    break_question,
    toy_datamodule,
    toy_module,
    toy_trainer,
)

pytestmark = pytest.mark.filterwarnings(*LIGHTNING_ADVICE)


AS_MATRIX = {"largest_in_memory_bytes": 0}
"""Embeddings in a file, as those of a large knowledge base: two processes search a part each."""


@contextlib.contextmanager
def small_chunks():
    """So that both processes have some of them."""
    shape = index_builder.MatrixShape
    index_builder.MatrixShape = partial(shape, rows_a_chunk=8)
    try:
        yield
    finally:
        index_builder.MatrixShape = shape


@small_chunks()
def evaluate(folder, **settings) -> dict:
    """All that is logged by evaluations of an odd number of questions, and what callbacks counted."""
    indicators = LogIndicators((50, 90))
    alarm, candidates = AlarmOnCollapse(folder / "good.ckpt"), ReadStartCandidates((50, 90))
    index = RefreshIndex("-1", folder / "index", show_progress=False, **AS_MATRIX)
    predictions = SavePredictions(folder / "predictions.jsonl", indicators)
    callbacks = [alarm, index, indicators, candidates, predictions, StopOnInterrupt(folder / "last.ckpt")]
    trainer = toy_trainer(folder, callbacks, limit_val_batches=1.0, **settings)
    process = folder / f"process{trainer.global_rank}"
    process.mkdir()
    # passages with and without answers, so that the teacher can be judged
    bm25 = BM25Index.build(toy_knowledge_base(process))
    module = toy_module(process, num_passages=20, candidates=Candidates("both"), bm25=bm25)
    questions = toy_questions()
    data = toy_datamodule(validation=questions[:5], test=questions[5:10])
    measured = {}

    def keep(name: str) -> None:
        logged = {key: float(value) for key, value in trainer.callback_metrics.items()}
        measured[name] = {key: value for key, value in logged.items() if value == value}

    trainer.validate(module, data, verbose=False)
    keep("validation")
    measured["start"] = alarm.start
    for name, of_callback in (
        ("read", indicators.latest_questions),
        ("hits", indicators.latest_hits),
        ("candidates", candidates.latest_questions),
    ):
        measured[name] = sorted(of_callback.question_ids)
    trainer.test(module, data, verbose=False)
    keep("test")
    for num_read in (1, 3):
        with module.evaluating(num_read=num_read):
            trainer.validate(module, data, verbose=False)
        keep(f"first {num_read}")
    asking = toy_trainer(folder, [], **settings)
    asking.test(ClosedBookModule(module.reader, max_new_tokens=3), data, verbose=False)
    measured["closed book"] = {key: float(value) for key, value in asking.callback_metrics.items()}
    return measured


class Losses(Callback):
    """What is logged in each step; dies in one where told to."""

    def __init__(self, dies_at: int | None = None) -> None:
        self.dies_at = dies_at
        self.logged: list[dict[str, float]] = []

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx) -> None:
        # not a number: -1
        losses = {k: float(v.nan_to_num(-1.0)) for k, v in trainer.callback_metrics.items() if "loss" in k}
        self.logged.append(losses)
        if trainer.global_step == self.dies_at:
            raise KilledError


class KilledError(Exception):
    pass


class HoldBack(Callback):
    """The retriever does not learn in some steps, and stays as it is."""

    def __init__(self, first: int, end: int) -> None:
        self.first, self.end = first, end
        self.weights: list[torch.Tensor] = []

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx) -> None:
        pl_module.retriever_learns = not self.first <= trainer.global_step < self.end
        self.weights = [weight.clone() for weight in pl_module.retriever.parameters()]

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx) -> None:
        stays = all(map(torch.equal, self.weights, pl_module.retriever.parameters()))
        assert stays is not pl_module.retriever_learns


TRAININGS = {
    "both models, several batches a step": {"train_reader": True, "accumulate": 2, "batch_size": 2},
    "the batch's other passages, of an uneven batch": {"in_batch": True, "batch_size": 4, "num_train": 7},
    "fixed candidates, each passage alone": {
        "reader": "independent",
        "objective": "signals",
        "candidates": Candidates(are_fixed=True),
        "batch_size": 3,
    },
    "an index that two share": {"index": AS_MATRIX, "batch_size": 2},
    "a question that breaks": {"breaks": "q3", "batch_size": 2, "train_reader": True},
    "both models, a batch in parts": {"auto_batch": True, "batch_size": 2, "train_reader": True},
    "a retriever that is held back for two steps": {"holds": (1, 3), "batch_size": 2, "train_reader": True},
    "a reader that two share": {"shard_reader": True, "batch_size": 2},
    "both models, the reader Fusion-in-Decoder": {
        "reader": "fusion_in_decoder",
        "train_reader": True,
        # Adam makes whole steps of gradients that are next to nothing, whatever sign rounding gives them
        "reader_rate": LearningRate(1e-5, decay=LearningRateDecay.CONSTANT),
        "batch_size": 2,
    },
    "a reader that two share, of an uneven batch": {
        "shard_reader": True,
        "objective": "pdist",
        "reader": "independent",
        "batch_size": 4,
        "num_train": 7,
    },
}
NUM_PROCESSES = 2


@small_chunks()
def train(folder: Path, name: str, processes: int) -> dict:
    """Losses of each step, validations, and the scores that the index gives at the end."""
    settings = {**TRAININGS[name]}
    batch_size = settings.pop("batch_size") * NUM_PROCESSES // processes
    questions = toy_questions()[: settings.pop("num_train", 12)]
    data = toy_datamodule(train=questions, validation=toy_questions()[:5], batch_size=batch_size)
    of_index = {"show_progress": False, **settings.pop("index", {})}
    losses, index = Losses(), RefreshIndex("0-100:2", folder / "index", **of_index)
    skipping, breaks = SkipBrokenBatches(), settings.pop("breaks", None)
    holding = [HoldBack(*settings.pop("holds"))] if "holds" in settings else []
    trainer = toy_trainer(
        folder,
        [skipping, index, LogIndicators((50, 90)), losses, *holding],
        limit_val_batches=1.0,
        accumulate_grad_batches=settings.pop("accumulate", 1),
        gradient_clip_val=1.0,
        **several(processes),
    )
    (folder / f"process{trainer.global_rank}").mkdir(exist_ok=True, parents=True)
    settings["reader"] = tiny_reader_of(settings.get("reader", "concatenated"))
    module = toy_module(folder / f"process{trainer.global_rank}", **settings)
    if breaks is not None:
        break_question(module, breaks)
    if module.parts is not None:  # as if no more had fitted
        module.parts.num_questions = 1
    trainer.fit(module, data)
    trainer.validate(module, data, verbose=False)
    validated = {key: float(value) for key, value in trainer.callback_metrics.items() if value == value}
    with torch.no_grad():
        queries = module.retriever.eval().encode_queries([question.text for question in questions])
    scores, _ = module.index.search(queries.numpy(), 5)
    if module.shard_reader and processes > 1:
        shared = [weight for weight in module.reader.parameters() if isinstance(weight, DTensor)]
        held = sum(weight.to_local().numel() for weight in shared)
        assert 0 < held <= 0.6 * sum(weight.numel() for weight in shared), "each holds its part"
    assert bool(skipping.skipped) == (breaks is not None)
    assert all(made["questions"] == [breaks] for made in skipping.skipped)
    found = {"losses": losses.logged, "validation": validated, "scores": scores.tolist()}
    return {**found, "skipped": skipping.skipped}


def several(processes: int) -> dict:
    return {"devices": processes, "strategy": "ddp"} if processes > 1 else {}


def train_with_dropout(folder: Path, dies_at: int | None = None, resume: bool = False) -> list:
    """Losses of each step, and the weights at the end; each process drops out other numbers.

    They share the reader, which a resumed run must shard anew.
    """
    losses = Losses(dies_at)
    checkpoint = folder / "last.ckpt"
    callbacks = [RefreshIndex("-1", folder / "index", show_progress=False), SaveLast(checkpoint, 1), losses]
    trainer = toy_trainer(folder, callbacks, max_steps=5, **several(NUM_PROCESSES))
    torch.manual_seed(trainer.global_rank)
    module = toy_module(folder / f"process{trainer.global_rank}", shard_reader=True)
    for part in module.retriever.modules():
        if isinstance(part, torch.nn.Dropout):
            part.p = 0.3
    # saved in the step before the one that it dies in
    trainer.callbacks.sort(key=lambda callback: callback is not losses)
    with contextlib.suppress(KilledError):
        trainer.fit(module, toy_datamodule(), ckpt_path=checkpoint if resume else None, weights_only=True)
    weights = torch.cat([weight.flatten() for weight in module.retriever.state_dict().values()])
    return [[step["train/loss"] for step in losses.logged], weights.tolist()]


CHUNKS = {"four chunks": 16, "one chunk": 50}
ASKED = {"both": [3, 2], "the first": [3, 0], "the second": [0, 2], "none": [0, 0]}
"""Queries of each process."""


def whole_numbers(count: int, seed: int) -> np.ndarray:
    """Vectors whose scores are exact, and often tie."""
    return np.random.default_rng(seed).integers(1, 4, (count, 6)).astype(np.float32)


def written_matrix(folder: Path, rows_a_chunk: int) -> EmbeddingMatrix:
    shape = MatrixShape("abc", num_passages=50, dim=6, rows_a_chunk=rows_a_chunk)
    matrix = EmbeddingMatrix.begin(folder, shape)
    for number, rows in enumerate(shape.chunks):
        matrix.write(number, whole_numbers(50, seed=0)[rows.start : rows.stop])
    return matrix


def queries_of(rank: int, count: int) -> np.ndarray:
    return whole_numbers(3, seed=1 + rank)[:count]


def search_together(folder: Path, rank: int) -> dict:
    """What a process finds for its own queries, and what it is told of another's that are not numbers."""
    found = {}
    trainer = SimpleNamespace(world_size=NUM_PROCESSES, global_rank=rank)
    for name in CHUNKS:
        index = ShardedIndex(trainer, EmbeddingMatrix.open(folder / name, "abc"))
        found[name] = {
            asked: [part.tolist() for part in index.search(queries_of(rank, numbers[rank]), 7)]
            for asked, numbers in ASKED.items()
        }
    queries = np.full((1, 6), np.nan, dtype=np.float32) if rank == 1 else queries_of(rank, 1)
    try:
        index.search(queries, 7)
    except ValueError as error:
        found["refused"] = str(error)
    return found


TWO_PROCESSES = """
import json, sys
from pathlib import Path
from tests.lightning_modules.test_two_processes import (
    TRAININGS, evaluate, search_together, several, train, train_with_dropout,
)
import torch
import torch.distributed

if __name__ == "__main__":
    folder = Path(sys.argv[1])
    measured = {"evaluated": evaluate(folder, **several(2))}
    for number, name in enumerate(TRAININGS):
        measured[name] = train(folder / f"train{number}", name, 2)
    rank = torch.distributed.get_rank()
    measured["searched"] = search_together(folder, rank)
    for name in ("whole", "killed"):
        (folder / name / f"process{rank}").mkdir(parents=True)
    measured["uninterrupted"] = train_with_dropout(folder / "whole")
    measured["before"] = train_with_dropout(folder / "killed", dies_at=3)
    torch.manual_seed(9)
    measured["resumed"] = train_with_dropout(folder / "killed", resume=True)
    (folder / f"measured{rank}.json").write_text(json.dumps(measured))
"""


@pytest.fixture(scope="module")
def of_two(tmp_path_factory) -> tuple[Path, dict]:
    """What two processes measured, all in one go: starting them is what takes time."""
    folder = tmp_path_factory.mktemp("two")
    for name, rows_a_chunk in CHUNKS.items():
        written_matrix(folder / name, rows_a_chunk)
    run_script(folder, TWO_PROCESSES)
    first, second = (json.loads((folder / f"measured{rank}.json").read_text()) for rank in range(2))
    for name in TRAININGS:
        assert first[name] == second[name], "both have one index, and log the means over both"
    return folder, first


def close_to(measured):
    return pytest.approx(measured, rel=1e-5, abs=1e-5)


def test_two_processes_measure_what_one_does(tmp_path, of_two):
    folder, measured_by_two = of_two
    one, two = evaluate(tmp_path), measured_by_two["evaluated"]
    assert one.keys() == two.keys()
    for name, measured in one.items():
        assert two[name] == (measured if isinstance(measured, list) else close_to(measured)), name
    assert one["hits"] == [f"q{i}" for i in range(5)]
    assert one["validation"].keys() >= {"validation/passage_words", "validation/kl", "validation/em"}
    lines = [
        json.loads(line)["id"]
        for path in folder.glob("predictions.jsonl*")
        for line in path.read_text().splitlines()
    ]
    assert sorted(lines) == [f"q{i}" for i in range(5, 10)]


@pytest.mark.parametrize("rank", range(NUM_PROCESSES))
def test_two_processes_find_what_one_does_in_a_matrix(tmp_path, of_two, rank):
    found = json.loads((of_two[0] / f"measured{rank}.json").read_text())["searched"]
    for name, rows_a_chunk in CHUNKS.items():
        index = MatrixIndex(written_matrix(tmp_path / name, rows_a_chunk))
        for asked, numbers in ASKED.items():
            expected = index.search(queries_of(rank, numbers[rank]), 7)
            assert found[name][asked] == [part.tolist() for part in expected], (name, asked)
    assert found["refused"] == "the queries' embeddings hold NaN or infinity: has the retriever diverged?"


@pytest.mark.parametrize("name", TRAININGS)
def test_two_processes_train_as_one_does(tmp_path, of_two, name):
    one, two = train(tmp_path, name, processes=1), of_two[1][name]
    assert len(one["losses"]) == len(two["losses"]) >= 4
    for expected, found in zip(one["losses"], two["losses"], strict=True):
        assert found == close_to(expected)
    assert one["losses"][0] != close_to(one["losses"][-1]), "it learns"
    assert two["skipped"] == one["skipped"]
    assert two["validation"] == close_to(one["validation"])
    for expected, found in zip(one["scores"], two["scores"], strict=True):
        assert found == pytest.approx(expected, rel=1e-4, abs=1e-4)


def test_a_resumed_run_of_two_processes_is_that_of_an_uninterrupted_one(of_two):
    """Each process goes on with its own random numbers."""
    losses, weights = of_two[1]["uninterrupted"]
    assert len(losses) == 5
    before, _ = of_two[1]["before"]
    after, resumed = of_two[1]["resumed"]
    assert before[:2] + after == losses
    assert resumed == weights


def test_a_trainer_that_deals_the_questions_out_again_is_refused(tmp_path):
    module = toy_module(tmp_path)
    data = toy_datamodule()
    data.train_dataloader = lambda: DataLoader(  # as Lightning makes it, unless told otherwise
        data.train, sampler=DistributedSampler(data.train, 2, 0), collate_fn=list
    )
    index = RefreshIndex("-1", tmp_path / "index", show_progress=False)
    with pytest.raises(ValueError, match="use_distributed_sampler=False"):
        toy_trainer(tmp_path, [index]).fit(module, data)
