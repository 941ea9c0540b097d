"""The readers of the study by name: as they come, trained on answers (Step 1), or with weights shuffled."""

import dataclasses
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

from lightning import Callback, LightningModule, Trainer, seed_everything

from datamodules.prompts import Context, PassageOrder
from datamodules.sealed_files import DamagedFileError, whole_folder
from experiments.benchmarks.shuffle_reader import shuffle_weights
from experiments.build import build_reader
from experiments.config import ConfigError
from experiments.study.material import Material
from experiments.study.readings import Reading, head_masks, read_candidates
from lightning_modules import RetrieverReaderModule
from lightning_modules.candidates import CandidateSource
from lightning_modules.optimization import LearningRate
from lightning_modules.readers.base import Reader

log = logging.getLogger(__name__)

INITIAL = "initial"
SECOND = "second"
"""A reader of another family, which the command line names."""
STEP1, SHUFFLED = "step1", "shuffled"
"""Followed by a number: steps of training on answers, share of the weights that change places."""
STEP1_STEPS = (10, 40)
_STEP1_BATCH, _STEP1_PASSAGES, _STEP1_RATE = 4, 2, 2e-5
READ_ALONE = "independent"


class NoSuchSignalError(ValueError):
    """There is nothing to make a teacher of; the cell is left out."""


@dataclasses.dataclass(frozen=True)
class ReadingOf:
    """Which reader reads which candidates, and how.

    Attributes:
        reader: `initial`, `second`, `step1-40`, `shuffled-0.05`.
        shown: `independent`, one prompt a passage; `rank` or `shuffled`, one prompt for all in that order.
        candidates: who found them.
    """

    reader: str = INITIAL
    shown: str = READ_ALONE
    candidates: str = CandidateSource.BOTH.value

    @property
    def name(self) -> str:
        """For files and progress."""
        return f"{self.reader} {self.shown} {self.candidates}"


class Readings:
    """Reads for teachers what they ask for, each once; what was read is kept in the study's folder.

    Args:
        material: of the study.
    """

    def __init__(self, material: Material) -> None:
        self.material = material
        self._readings: dict[ReadingOf, Reading] = {}
        self._loaded: tuple[str, Reader] | None = None

    def __getitem__(self, of: ReadingOf) -> Reading:
        if of not in self._readings:
            path = self.material.folder / "readings" / f"{self._file_name(of)}.npz"
            self._readings[of] = self._kept(path) or self._read_and_keep(of, path)
        return self._readings[of]

    def _file_name(self, of: ReadingOf) -> str:
        name = of.name.replace(" ", "-")
        if of.reader != SECOND:
            return name
        # there may have been another one: a name of the hub is told from others by its owner and its end
        second = _second(self.material)
        is_file = Path(second).suffix == ".gguf" or Path(second).exists()
        return f"{name}-{Path(second).stem if is_file else second.replace('/', '--')}"

    def _kept(self, path: Path) -> Reading | None:
        try:
            return Reading.load(path)
        except FileNotFoundError:
            return None
        except DamagedFileError as error:
            log.warning("%s; reading again", error)
            return None

    def _read_and_keep(self, of: ReadingOf, path: Path) -> Reading:
        reading = self._read(of)
        reading.save(path)
        return reading

    def _read(self, of: ReadingOf) -> Reading:
        material = self.material
        candidates = material.candidates(CandidateSource(of.candidates))
        # published lists of heads are of the reader as it comes; its likes have the same heads
        masks = head_masks(self._reader(of.reader if of.reader == SECOND else INITIAL))
        reader = self._reader(of.reader)
        if of.shown != READ_ALONE:
            order = PassageOrder(of.shown)
            reader = reader.showing(context=Context.CONCATENATED, passage_order=order)
        calibrates = reader.reads_alone and of.reader == INITIAL
        return read_candidates(material, reader, candidates, masks, of.name, calibrates)

    def _reader(self, name: str) -> Reader:
        """The last one is kept in memory."""
        if self._loaded is None or self._loaded[0] != name:
            self._loaded = None
            self._loaded = name, load_reader_of_study(self.material, name)
        return self._loaded[1]


def load_reader_of_study(material: Material, name: str) -> Reader:
    """A reader by its name, frozen, in independent context.

    Raises:
        ConfigError: an unknown name.
        NoSuchSignalError: the second one, which nobody has named.
    """
    kind, _, number = name.partition("-")
    reader_settings = dataclasses.replace(material.config.reader, context=READ_ALONE)
    config = dataclasses.replace(material.config, reader=reader_settings)
    if name == INITIAL:
        reader = build_reader(config)
    elif name == SECOND:
        named = dataclasses.replace(reader_settings, name=_second(material))
        reader = build_reader(dataclasses.replace(config, reader=named))
    elif kind == SHUFFLED:
        reader = build_reader(config)
        shuffle_weights(reader.model, share=float(number))
    elif kind == STEP1:
        reader = build_reader(config, step1_reader(material, int(number)))
    else:
        known = f"{INITIAL}, {SECOND}, {STEP1}-N, {SHUFFLED}-SHARE"
        raise ConfigError(f"reader {name!r} is none of the study's: {known}")
    return reader.eval().requires_grad_(False)


def _second(material: Material) -> str:
    if material.second is None:
        raise NoSuchSignalError("there is no second reader; --second names one")
    return material.second


def step1_reader(material: Material, num_steps: int) -> Path:
    """The folder of a reader that was trained on answers for so many steps; trained when it is not there."""
    folder = material.folder / "readers" / f"{STEP1}-{num_steps}"
    if not (folder / "config.json").is_file():
        _train_reader(material, frozenset({*STEP1_STEPS, num_steps}))
    return folder


class _SaveReader(Callback):
    """Keeps the reader as it is after some numbers of steps."""

    def __init__(self, steps: frozenset[int], save: Callable[[int], None]) -> None:
        self.steps = steps
        self.save = save

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *args: Any) -> None:
        if trainer.global_step in self.steps:
            self.save(trainer.global_step)


def _train_reader(material: Material, steps: frozenset[int]) -> None:
    """Step 1 of the paper: the reader alone learns to answer from the starting retriever's passages."""
    config = dataclasses.replace(
        material.config,
        reader=dataclasses.replace(material.config.reader, context=READ_ALONE, dtype="float32"),
    )
    seed_everything(config.seed, verbose=False)
    module = RetrieverReaderModule(
        material.retriever,
        build_reader(config),
        material.retrieval.knowledge_base,
        train_retriever=False,
        train_reader=True,
        reader_rate=LearningRate(_STEP1_RATE, warmup_steps=3),
        retrieval_temperature=config.objective.retrieval_temperature,
        num_passages=_STEP1_PASSAGES,
        seed=config.seed,
    )
    module.index = material.index

    def save(step: int) -> None:
        with whole_folder(material.folder / "readers" / f"{STEP1}-{step}") as folder:
            module.reader.save(folder)

    log.warning("Step 1: %d steps", max(steps))
    material.train(
        module, material.reader_questions, _STEP1_BATCH, max(steps), config.seed, _SaveReader(steps, save)
    )
