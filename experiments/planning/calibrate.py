"""Measures how long things take on this machine: a small copy of the run, by the classes that runs use."""

import os
import time
from itertools import islice
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import lightning as L
import numpy as np
import torch
from lightning import Callback, LightningModule, Trainer

from datamodules.batches import Passage
from datamodules.embedding_matrix import EmbeddingMatrix, MatrixShape
from datamodules.hub_models import find_model
from datamodules.matrix_index import MatrixIndex
from datamodules.partial_index import PartialIndex
from datamodules.passage_files import read_passages
from datamodules.passage_index import PassageIndex, SearchIndex
from datamodules.passages import build_knowledge_base
from datamodules.qa_datamodule import QuestionDataModule
from datamodules.quiet_logs import only_errors_of
from datamodules.vital import VITAL
from experiments.build import (
    build_datamodule,
    build_knowledge,
    build_models,
    hardware,
    prepare_training,
    take_examples,
)
from experiments.config import ConfigError, ExperimentConfig, has_reader, trains
from experiments.data_files import data_files, data_settings, passage_file
from experiments.models import hub_models, model_name
from experiments.planning.estimates import estimate_rates
from experiments.planning.plan import with_settings
from experiments.planning.setup import Setup, download_command
from experiments.planning.times import MEASURED, Rates
from experiments.runs import MODELS, RunFolder
from experiments.trainer import make_callbacks, make_trainer
from lightning_modules.encoding import encode_passages
from lightning_modules.objectives import OBJECTIVES
from lightning_modules.objectives.base import LikelihoodObjective
from lightning_modules.retrieval import RetrievalModule
from lightning_modules.retriever_reader import RetrieverReaderModule
from lightning_modules.token_drops import TokenDrops

_PASSAGES = 512
_STEPS = 2
"""Measured, after one that is not."""
_QUESTIONS_FOUND = 32
_ENCODING_S = 2.0
_ROWS = 65_536
"""Of random embeddings that a search is timed over."""
_NEVER = 10**9
_AS_THEY_COME: dict[str, Any] = {"init.reader_from": None, "init.retriever_from": None}
"""Models that were trained take as long."""


def calibrate(setup: Setup) -> Rates:
    """Seconds that a run's parts take here; nothing that it does is kept.

    Args:
        setup: of the run, on this machine.

    Raises:
        ConfigError: a model or a file is not on this machine, or the run has no passages.
        ValueError: as building the run.
    """
    config = setup.config
    _check_is_here(config)
    # what callbacks warn of is the run's to say
    with only_errors_of("callbacks"), TemporaryDirectory() as folder:
        small = _small_copy(config, Path(folder), has_bm25=setup.has_bm25)
        L.seed_everything(config.seed, verbose=False)
        started = time.perf_counter()
        datamodule = build_datamodule(small)
        module = _build(config, small, datamodule, Path(folder))
        if trains(small):
            assert isinstance(module, RetrieverReaderModule), "nothing else is trained"
            prepare_training(small, module.reader)
        load = time.perf_counter() - started
        run = RunFolder(Path(folder) / "run")
        watch, callbacks = _Stopwatch(), make_callbacks(small, run)
        callbacks.others.append(watch)
        trainer = make_trainer(small, run, callbacks, hardware(small))
        found, read, answered = _evaluations(setup, module, datamodule, trainer, watch)
        step, taught = _training(setup, small, module, datamodule, trainer, watch)
        passage = _encoding(setup, module, trainer)
        search, search_part = _searches(setup, Path(folder))
    return Rates(
        load=load,
        passage=passage,
        search=search,
        search_part=search_part,
        step=step,
        taught=taught,
        found=found,
        read=read,
        answered=answered,
        source=MEASURED,
    )


def _check_is_here(config: ExperimentConfig) -> None:
    """Nothing is downloaded to measure it."""
    fetch = f"{download_command(config)} fetches it"
    if config.evaluation.closed_book:
        raise ConfigError("--calibrate times runs that retrieve; set evaluation.closed_book=false")
    if config.objective.scores_from is not None:
        raise ConfigError("--calibrate times runs that read; set objective.scores_from=null")
    for what in reversed(hub_models(with_settings(config, _AS_THEY_COME))):
        name = model_name(config, what)
        if find_model(name) is None:
            raise ConfigError(f"--calibrate: {what}.name={name} is not on this machine; {fetch}")
    missing = [file.path for file in data_files(config, data_settings(config)) if file.is_wanted]
    if missing:
        raise ConfigError(f"--calibrate: {missing[0]} is not on this machine; {fetch}")


def _small_copy(config: ExperimentConfig, folder: Path, has_bm25: bool) -> ExperimentConfig:
    """A run of a few steps, without anything that decides or is rare."""
    (folder / "run").mkdir()
    changes: dict[str, Any] = {
        "runs": str(folder),
        **_AS_THEY_COME,
        "trainer.devices": 1,
        "trainer.num_nodes": 1,
        "trainer.strategy": "auto",
        "trainer.max_steps": 1 + _STEPS if trains(config) else 0,
        "trainer.validate_every_steps": _NEVER,
        "trainer.checkpoint_every_steps": _NEVER,
        "trainer.progress_bar": False,
        "index.refresh": "-1",
        "index.factory": "Flat",
        "index.validation_passages": None,
        "evaluation.monitor": None,
        "evaluation.token_view_questions": 0,
        "retrieval.bm25_baseline": has_bm25,
        "stopping.enabled": False,
    }
    return with_settings(config, changes)


def _build(
    config: ExperimentConfig, small: ExperimentConfig, datamodule: QuestionDataModule, folder: Path
) -> RetrievalModule:
    if config.data.passages == VITAL:
        questions = [*datamodule.train, *datamodule.validation, *datamodule.test]
        size = len({question.title for question in questions}) + _PASSAGES
        knowledge_base = build_knowledge(
            with_settings(small, {"data.max_passages": size}), datamodule, folder
        )
    else:
        passages = islice(read_passages(passage_file(config)), _PASSAGES)
        knowledge_base = build_knowledge_base(passages, folder / "passages.arrow")
    examples = take_examples(small, datamodule, knowledge_base) if has_reader(config) else []
    return build_models(small, dict.fromkeys(MODELS), knowledge_base, examples, datamodule.train)


class _Stopwatch(Callback):
    """Seconds of the batches of an evaluation, and of all training batches after the first step's."""

    def __init__(self) -> None:
        self.evaluation_s = self.training_s = self.reading_s = 0.0
        self._started = self._read_before = 0.0

    def on_validation_batch_start(self, *_: Any) -> None:
        self._started = _now()

    def on_validation_batch_end(self, *_: Any) -> None:
        self.evaluation_s += _now() - self._started

    def on_train_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int
    ) -> None:
        if trainer.fit_loop.total_batch_idx == trainer.accumulate_grad_batches:
            assert isinstance(pl_module, RetrievalModule)
            self._started, self._read_before = _now(), pl_module.timer.totals_s["read"]

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        assert isinstance(pl_module, RetrievalModule)
        self.training_s = _now() - self._started
        self.reading_s = pl_module.timer.totals_s["read"] - self._read_before


def _now() -> float:
    """Once the GPU has done what it was given."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter()


def _evaluations(
    setup: Setup,
    module: RetrievalModule,
    datamodule: QuestionDataModule,
    trainer: Trainer,
    watch: _Stopwatch,
) -> tuple[float, float, float]:
    """Seconds of a question that is retrieved for, that is read, and that is answered."""
    questions, batch = datamodule.validation, setup.config.data.evaluation_batch_size
    num_read = 1 if _masks_tokens(setup.config) else batch
    spent: dict[str, float] = {}

    def evaluate(first: int, count: int, read: int) -> float:
        asked = [questions[number % len(questions)] for number in range(first, first + count)]
        datamodule.validation, watch.evaluation_s = asked, 0.0
        before = dict(module.timer.totals_s)
        with module.evaluating(num_read=read):
            trainer.validate(module, datamodule, verbose=False)
        spent.update({part: total - before.get(part, 0.0) for part, total in module.timer.totals_s.items()})
        return watch.evaluation_s / count

    # the first one also builds the index, and finds what is slow when it is first done
    evaluate(0, 1, read=1)
    found = evaluate(0, _QUESTIONS_FOUND, read=0)
    if not setup.has_reader:
        return found, 0.0, 0.0
    whole = evaluate(1, num_read, read=num_read)
    answered = spent.get("generate", 0.0) / num_read
    return found, max(0.0, whole - answered - found), answered


def _masks_tokens(config: ExperimentConfig) -> bool:
    """Whether reading a question takes a pass for each token of its passages, or of its prompts."""
    is_likelihood = issubclass(OBJECTIVES[config.objective.name], LikelihoodObjective)
    return is_likelihood and not TokenDrops(config.evaluation.token_drops).needs_gradient


def _training(
    setup: Setup,
    small: ExperimentConfig,
    module: RetrievalModule,
    datamodule: QuestionDataModule,
    trainer: Trainer,
    watch: _Stopwatch,
) -> tuple[float, float]:
    """Seconds of a step without the teacher's reading, and of that for a question."""
    if not trains(small):
        return 0.0, 0.0
    questions_a_step = small.trainer.accumulate * small.data.batch_size
    datamodule.train = datamodule.train[: questions_a_step * (1 + _STEPS)]
    with module.evaluating(generate=False):
        trainer.fit(module, datamodule, weights_only=True)
    if setup.trains_reader:  # whose own pass is part of the reading
        return watch.training_s / _STEPS, 0.0
    taught = watch.reading_s / (_STEPS * questions_a_step)
    return (watch.training_s - watch.reading_s) / _STEPS, taught


def _encoding(setup: Setup, module: RetrievalModule, trainer: Trainer) -> float:
    """Seconds of a passage, in the trainer's precision."""
    # batches hold passages of like length, as they do in a run
    passages = sorted(module.knowledge_base, key=lambda passage: len(passage.title) + len(passage.text))
    size = min(setup.config.index.batch_size, _PASSAGES)
    batches = [passages[start : start + size] for start in range(0, len(passages), size)]
    middle = batches[len(batches) // 2]
    module.to(trainer.strategy.root_device)
    with trainer.precision_plugin.forward_context():
        _time_encoding(module, [middle[:8]])  # finds what is slow when it is first done
        count = _ENCODING_S / _time_encoding(module, [middle[:16]]) / size
        return _time_encoding(module, batches[:: max(1, len(batches) // max(3, round(count)))])


def _time_encoding(module: RetrievalModule, batches: list[list[Passage]]) -> float:
    started = _now()
    for batch in batches:
        encode_passages(module.retriever, batch, batch_size=len(batch))
    return (_now() - started) / sum(map(len, batches))


def _searches(setup: Setup, folder: Path) -> tuple[float, float]:
    """Seconds of a search in the whole index, and in the part that validations search."""
    part = min(setup.num_in_part, _ROWS)
    of_part, device = 0.0, "cuda" if setup.searches_on_gpu else "cpu"
    if part:
        halves = _random_rows(part, setup.dim).astype(np.float16)
        index: SearchIndex = PartialIndex(halves, np.arange(part), device)
        of_part = _time_search(setup, index) * setup.num_in_part / part
    if not setup.is_exact:  # too large to be made for this
        return estimate_rates(setup).search, of_part
    rows = min(setup.num_passages or 1, _ROWS)
    random = _random_rows(rows, setup.dim)
    file = None
    if setup.writes_matrix:
        matrix = EmbeddingMatrix.begin(folder / "matrix", MatrixShape("random", rows, setup.dim))
        for number, chunk in enumerate(matrix.shape.chunks):
            matrix.write(number, random[chunk.start : chunk.stop])
        index = MatrixIndex(matrix, device)
        file = None if setup.searches_on_gpu else matrix.file
    else:
        index = PassageIndex.build(random)
    return _time_search(setup, index, file) * (setup.num_passages or 1) / rows, of_part


def _random_rows(count: int, dim: int) -> np.ndarray:
    return np.random.default_rng(0).standard_normal((count, dim), dtype=np.float32)


def _time_search(setup: Setup, index: SearchIndex, file: Path | None = None) -> float:
    """Seconds of a search; of a file from the disk, since a whole one need not fit into the memory."""
    queries = _random_rows(setup.config.data.evaluation_batch_size, setup.dim)
    k = min(20, len(index))
    index.search(queries, k)
    seconds = 0.0
    for _ in range(3):
        if file is not None:
            _take_out_of_memory(file)
        started = _now()
        index.search(queries, k)
        seconds += _now() - started
    return seconds / 3


def _take_out_of_memory(file: Path) -> None:
    if not hasattr(os, "posix_fadvise"):  # not on macOS
        return
    with file.open("rb+") as opened:
        os.fsync(opened.fileno())  # what is not on the disk yet stays
        os.posix_fadvise(opened.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
