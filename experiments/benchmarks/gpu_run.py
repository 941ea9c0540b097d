"""A run of the whole suite on a made-up corpus: models, index, indicators and stopping on one device."""

import math
import random
import statistics
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import lightning as L
import torch
from lightning.pytorch.loggers import TensorBoardLogger
from torch.utils.data import DataLoader

from callbacks.log_indicators import LogIndicators
from callbacks.refresh_index import RefreshIndex
from callbacks.save_last import SaveLast
from callbacks.stop_on_indicators import StopOnIndicators
from datamodules.batches import Passage, Question
from datamodules.matrix_index import MatrixIndex
from datamodules.passages import build_knowledge_base
from datamodules.qa_datamodule import QuestionDataModule
from experiments.benchmarks import made_up
from experiments.benchmarks.comparison import wait_for
from experiments.benchmarks.row import Row
from lightning_modules import RetrieverReaderModule
from lightning_modules.metrics.measures import RETRIEVAL_HIT
from lightning_modules.objectives import ADist
from lightning_modules.optimization import LearningRate

_MONITORS = ("indicator1/spearman_p90", RETRIEVAL_HIT.name)
_NUM_VALIDATION = 16


@dataclass(frozen=True)
class RunSizes:
    """How large it is.

    Attributes:
        reader, retriever: see `made_up.smollm2` and `made_up.bert`.
        num_passages: of the corpus.
        passage_words: of each, from and to.
        num_steps: of the training, with a validation and a refresh each third of them.
        batch_size: questions a step.
    """

    reader: dict[str, int]
    retriever: dict[str, int]
    num_passages: int
    passage_words: tuple[int, int]
    num_steps: int
    batch_size: int


FULL = RunSizes(
    reader={},
    retriever={"num_layers": 3, "dim": 384, "feed_forward": 1536},
    num_passages=5000,
    passage_words=(64, 150),
    num_steps=60,
    batch_size=8,
)
TINY = RunSizes(
    reader={"num_layers": 2, "dim": 32, "num_heads": 4, "num_kv_heads": 2, "feed_forward": 48},
    retriever={"num_layers": 1, "dim": 32, "num_heads": 4, "feed_forward": 48},
    num_passages=60,
    passage_words=(8, 20),
    num_steps=6,
    batch_size=2,
)


def train(device: torch.device, sizes: RunSizes, folder: Path) -> Iterator[Row]:
    """Trains, and says what came of it.

    Args:
        device: of everything.
        sizes: of the run.
        folder: an empty one, for the index and the curves.

    Raises:
        ValueError: a step is missing, a number is none, or a part is on another device than the models.
    """
    module, questions = _module(device, sizes, folder)
    index = RefreshIndex(
        f"0-{sizes.num_steps}:{sizes.num_steps // 3}", folder / "index", use_gpu=True, show_progress=False
    )
    indicators = LogIndicators()
    # the margin is never reached: it is to decide, and to go on
    stopping = StopOnIndicators(indicators, _MONITORS, margin=2.0, num_validations=3)
    clock, places, change = _Clock(), _Places(indicators), _LastChange(_MONITORS[1])
    last = SaveLast(folder / "last.ckpt", every_n_steps=sizes.num_steps // 3)
    trainer = _trainer(device, sizes, folder, [index, indicators, stopping, change, clock, places, last])
    validation, training = questions[:_NUM_VALIDATION], questions[_NUM_VALIDATION:]
    datamodule = _Questions(training, validation, validation, sizes.batch_size, sizes.batch_size)
    trainer.validate(module, datamodule=datamodule, verbose=False, weights_only=True)
    before = _numbers(trainer)
    trainer.fit(module, datamodule=datamodule, weights_only=True)
    after = _numbers(trainer)
    yield Row("steps", float(trainer.global_step))
    yield Row("a step, median", 1000 * statistics.median(clock.took_s), "ms")
    yield Row("index refreshed at steps", ", ".join(map(str, index.refresh_steps)))
    for name in ("validation/hr_at_5", "validation/kl", *_MONITORS[:1], "teacher/auc"):
        if name in before:
            yield Row(f"{name}, before", before[name])
            yield Row(f"{name}, after", after[name])
    yield Row("a change that the stopping rule has seen", change.value)
    _check(device, sizes, trainer, places.found)


def _module(
    device: torch.device, sizes: RunSizes, folder: Path
) -> tuple[RetrieverReaderModule, list[Question]]:
    vocabulary = {"vocabulary": made_up.VOCABULARY}
    reader = made_up.decoder_only(made_up.smollm2(device, torch.bfloat16, **{**sizes.reader, **vocabulary}))
    encoder = made_up.bert(torch.device("cpu"), torch.float32, **{**sizes.retriever, **vocabulary})
    passages = made_up.made_up_passages(sizes.num_passages, sizes.passage_words)
    module = RetrieverReaderModule(
        made_up.retriever(encoder),
        reader,
        build_knowledge_base(passages, folder / "passages.arrow"),
        objective=ADist(attention_temperature=0.2),
        retriever_rate=LearningRate(1e-4),
        retrieval_temperature=0.05,
        max_new_tokens=4,
    )
    return module, _questions(passages, _NUM_VALIDATION + sizes.batch_size * sizes.num_steps)


class _Questions(QuestionDataModule):
    """With a plain loader in the place of torchdata's, which can be resumed and may not be there."""

    def train_dataloader(self) -> DataLoader:
        dataset: Any = self.train
        return DataLoader(dataset, self.batch_size, collate_fn=list)


def _questions(passages: list[Passage], count: int) -> list[Question]:
    """Each asks with words of a passage for one to three words of it."""
    generator = random.Random(3)
    questions = []
    for number in range(count):
        words = passages[number % len(passages)].text.split()
        asked = generator.choices(words, k=generator.randint(4, 10))
        start = generator.randrange(len(words) - 2)
        answer = " ".join(words[start : start + generator.randint(1, 3)])
        questions.append(Question(f"q{number}", " ".join(asked), (answer,), nouns=((0, len(asked[0])),)))
    return questions


class _Clock(L.Callback):
    """Seconds of every step, until the device has done it."""

    def __init__(self) -> None:
        self.took_s: list[float] = []
        self._started = 0.0

    def on_train_batch_start(self, trainer: L.Trainer, *_: Any) -> None:
        wait_for(trainer.strategy.root_device)
        self._started = time.perf_counter()

    def on_train_batch_end(self, trainer: L.Trainer, *_: Any) -> None:
        wait_for(trainer.strategy.root_device)
        self.took_s.append(time.perf_counter() - self._started)


class _LastChange(L.Callback):
    """Of a monitor since the start, at the last validation that could be compared with it."""

    def __init__(self, monitor: str) -> None:
        self.value = math.nan
        self._name = f"stopping/change_{monitor}"

    def on_validation_end(self, trainer: L.Trainer, *_: Any) -> None:
        value = float(trainer.callback_metrics.get(self._name, math.nan))
        if not math.isnan(value):  # as it is on a stale index
            self.value = value


class _Places(L.Callback):
    """Where everything is at the end of the training: right after it, Lightning moves the models to the CPU.

    Args:
        indicators: whose metric is one of the things.
    """

    def __init__(self, indicators: LogIndicators) -> None:
        self.found: dict[str, torch.device] = {}
        self._indicators = indicators

    def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        assert isinstance(pl_module, RetrieverReaderModule)
        assert isinstance(pl_module.index, MatrixIndex), "validations have searched it"
        self.found = {
            "reader": pl_module.reader.device,
            "retriever": next(pl_module.retriever.parameters()).device,
            "index": pl_module.index.device,
            "indicators": self._indicators.meter.metric.device,
        }


def _trainer(device: torch.device, sizes: RunSizes, folder: Path, callbacks: list[L.Callback]) -> L.Trainer:
    every = sizes.num_steps // 3
    return L.Trainer(
        accelerator="gpu" if device.type == "cuda" else "cpu",
        devices=1,
        precision="bf16-mixed",
        max_steps=sizes.num_steps,
        val_check_interval=every,
        check_val_every_n_epoch=None,
        num_sanity_val_steps=0,
        log_every_n_steps=1,
        logger=TensorBoardLogger(folder, name=None),
        callbacks=callbacks,
        enable_progress_bar=False,
        enable_model_summary=False,
        use_distributed_sampler=False,
        inference_mode=False,
        default_root_dir=folder,
    )


def _numbers(trainer: L.Trainer) -> dict[str, float]:
    return {name: float(value) for name, value in trainer.callback_metrics.items()}


def _check(
    device: torch.device, sizes: RunSizes, trainer: L.Trainer, places: Mapping[str, torch.device]
) -> None:
    if trainer.global_step != sizes.num_steps:
        raise ValueError(f"{trainer.global_step} steps were made, not {sizes.num_steps}")
    loss = float(trainer.callback_metrics["train/loss"])
    if not loss == loss:
        raise ValueError("the loss is not a number")
    elsewhere = [f"{name} on {place}" for name, place in places.items() if place.type != device.type]
    if elsewhere:
        raise ValueError(f"not on {device.type}: {', '.join(elsewhere)}")
