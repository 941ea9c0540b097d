"""Distilling from Python: one call, with questions, passages, an objective and metrics of one's own.

What it puts together is there to be put together otherwise: see docs/python.md.
"""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import lightning as L
import torch

from callbacks.fit_temperature import FitTemperature
from callbacks.log_indicators import LogIndicators
from callbacks.log_metrics import LogMetrics, QuestionMetric
from callbacks.progress import StepProgress
from callbacks.refresh_index import RefreshIndex
from callbacks.refresh_schedule import NEVER_AGAIN
from callbacks.save_best import SaveBest
from callbacks.warn_of_temperatures import WarnOfTemperatures
from datamodules.batches import Passage, Question
from datamodules.bm25 import BM25Index
from datamodules.errors import DataError
from datamodules.nouns import EMBEDDED, NounTagger
from datamodules.passages import KnowledgeBase, build_knowledge_base, knowledge_base_from_file
from datamodules.qa_datamodule import QuestionDataModule
from datamodules.questions import hold_out, read_questions
from experiments.build import gpu_precision, gpu_reader_dtype
from lightning_modules import RetrieverReaderModule
from lightning_modules.candidates import Candidates, CandidateSource
from lightning_modules.objectives import Objective, ScoredBy, Signals
from lightning_modules.objectives.scored_by import PassageScore
from lightning_modules.optimization import LearningRate
from lightning_modules.readers.base import Reader
from lightning_modules.readers.families import load_reader
from lightning_modules.retriever import Retriever

log = logging.getLogger(__name__)

_SPLITS = ("train", "validation", "test")
_TESTED = "test/"


@dataclass(frozen=True)
class Distilled:
    """What came of it.

    Attributes:
        retriever: with the weights that were best in validation, or those of the start if none beat it.
        before, after: metrics of the test questions, such as `hr_at_5`, of the start and of these weights.
        best_step: of these weights; None = the start's.
        module: all that was trained, with the weights of that step, to go on with.
    """

    retriever: Retriever
    before: dict[str, float]
    after: dict[str, float]
    best_step: int | None
    module: RetrieverReaderModule


@dataclass(frozen=True)
class Hardware:
    """What a run on a GPU is made of by default, as the command line has it; on a CPU nothing of it.

    Attributes:
        accelerator, precision: Lightning's.
        on_gpu: whether models and exact search are on one.
        reader_dtype: of a reader that is loaded here.
    """

    accelerator: str
    on_gpu: bool = False
    precision: Literal["bf16-mixed", "32-true"] = "32-true"
    reader_dtype: torch.dtype = torch.float32

    @classmethod
    def of(cls, accelerator: str, trains_reader: bool) -> "Hardware":
        """That of an accelerator, for a reader whose weights are trained or not."""
        if accelerator not in ("auto", "gpu", "cuda") or not torch.cuda.is_available():
            return cls(accelerator)
        dtype = torch.float32 if trains_reader else gpu_reader_dtype()
        return cls(accelerator, True, gpu_precision(), dtype)


def distil(
    questions: Path | str | Sequence[Question] | Mapping[str, Sequence[Question]],
    passages: Path | str | Sequence[Passage],
    retriever: Retriever | Path | str,
    reader: Reader | Path | str | None = None,
    *,
    objective: Objective | PassageScore | None = None,
    metrics: Mapping[str, QuestionMetric] | None = None,
    folder: Path | str = "distilled",
    max_steps: int = 100,
    validate_every_steps: int = 25,
    batch_size: int = 8,
    learning_rate: float = 2e-5,
    num_passages: int = 4,
    seed: int = 0,
    accelerator: str = "auto",
    noun_model: str = EMBEDDED,
    **settings: Any,
) -> Distilled:
    """Trains a retriever as the experiment `own_data` does, and measures it before and after.

    Args:
        questions: a file, see `read_questions`, or questions, of which a fifth is held out for validation
            and another for the test; or the splits `train`, `validation` and `test`.
        passages: a file, see `read_passages`, or passages.
        retriever: a hub name or folder, or one that is loaded.
        reader: likewise; None where the objective asks none.
        objective: what the retriever learns from; a function of a question and a passage is a score that is
            standardised over the passages of the question; None = the three signals of the reader.
        metrics: further ones by name, each a function that gives a value for every question.
        folder: for the index and the best weights.
        max_steps, validate_every_steps: optimizer steps.
        batch_size: questions a step.
        learning_rate: of the retriever.
        num_passages: K, of BM25 and the untrained retriever by turns.
        seed: of the order of questions.
        accelerator: Lightning's. On a GPU that has bfloat16, training is bf16-mixed, and a frozen reader that
            is loaded here in bfloat16; the index is searched on it.
        noun_model: finds the nouns of validation and test questions that come without, which a reader's
            Indicator 2 looks at, see `NounTagger`; where it cannot be loaded, that is said, and the
            indicator left undefined.
        settings: further ones of `RetrieverReaderModule`.

    Raises:
        ValueError: data or models that cannot be used, or no reader where the objective asks one.
    """
    L.seed_everything(seed, verbose=False)
    folder = Path(folder)
    hardware = Hardware.of(accelerator, bool(settings.get("train_reader")))
    train, validation, test = _split(questions)
    if reader is not None:
        validation, test = _with_nouns(validation, noun_model), _with_nouns(test, noun_model)
    data = QuestionDataModule(train, validation, test, batch_size=batch_size, seed=seed)
    knowledge_base = _knowledge_base(passages, folder)
    module = RetrieverReaderModule(
        retriever if isinstance(retriever, Retriever) else Retriever.load(retriever),
        _reader(reader, hardware.reader_dtype),
        knowledge_base,
        objective=_objective(objective),
        retriever_rate=LearningRate(learning_rate, warmup_steps=min(10, max_steps // 4)),
        num_passages=num_passages,
        seed=seed,
        **{
            "retrieval_temperature": None,  # `FitTemperature` derives it
            "in_batch": True,
            "candidates": Candidates(CandidateSource.BOTH, are_fixed=True),
            "bm25": BM25Index.build(knowledge_base),
            "num_read": 32,
            "generate": False,
            **settings,
        },
    )
    best = SaveBest(
        folder / "checkpoints", f"validation/hr_at_{max(k for k in module.hit_rate_ks if k <= 5)}"
    )
    trainer = _trainer(folder, best, metrics or {}, max_steps, validate_every_steps, hardware, module)
    before = _test(trainer, module, data)
    trainer.validate(module, data, verbose=False)
    start = float(trainer.callback_metrics[best.monitor])
    trained = {name: weight for name, weight in module.named_parameters() if weight.requires_grad}
    # a copy beside the models, which may fill the GPU
    weights = {name: weight.detach().to("cpu", copy=True) for name, weight in trained.items()}
    trainer.fit(module, data, weights_only=True)
    best_step = best.step if best.beats(start) else None
    if best_step is not None:
        assert best.path is not None
        weights = torch.load(best.path, map_location="cpu", weights_only=True)["state_dict"]
    module.load_state_dict(weights, strict=False)  # which leave out what is not trained
    return Distilled(module.retriever, before, _test(trainer, module, data), best_step, module)


def _split(
    questions: Path | str | Sequence[Question] | Mapping[str, Sequence[Question]],
) -> list[Sequence[Question]]:
    if not isinstance(questions, Mapping):
        read = read_questions(questions) if isinstance(questions, Path | str) else questions
        # whatever the seed, so that other seeds are tested on the same
        questions = hold_out(read, _SPLITS[1:], seed=0)
    elif missing := [split for split in _SPLITS if split not in questions]:
        raise ValueError(f"questions: no split {missing[0]!r}; give {', '.join(_SPLITS)}, or one list")
    return [questions[split] for split in _SPLITS]


def _with_nouns(questions: Sequence[Question], model: str) -> Sequence[Question]:
    """Those that have nouns already keep them."""
    without = [question for question in questions if not question.nouns]
    if not without:
        return questions
    try:
        tagged = iter(NounTagger(model).tag(without))
    except (DataError, ImportError) as error:
        log.warning("Indicator 2 is left undefined, since no nouns can be found: %s", error)
        return questions
    return [question if question.nouns else next(tagged) for question in questions]


def _reader(reader: Reader | Path | str | None, dtype: torch.dtype) -> Reader | None:
    if reader is None or isinstance(reader, Reader):
        return reader
    return load_reader(reader, context="independent", dtype=dtype)


def _knowledge_base(passages: Path | str | Sequence[Passage], folder: Path) -> KnowledgeBase:
    if isinstance(passages, Path | str):
        return knowledge_base_from_file(passages, folder / "cache")
    return build_knowledge_base(passages, folder / "passages.arrow")


def _objective(objective: Objective | PassageScore | None) -> Objective:
    if isinstance(objective, Objective):
        return objective
    if objective is None:
        return Signals(scale="standardised", attention_temperature=0.5)
    return ScoredBy(score=objective, scale="standardised", attention_temperature=0.5)


def _trainer(
    folder: Path,
    best: SaveBest,
    metrics: Mapping[str, QuestionMetric],
    max_steps: int,
    validate_every_steps: int,
    hardware: Hardware,
    module: RetrieverReaderModule,
) -> L.Trainer:
    indicators = [] if module.reader is None else [LogIndicators()]
    index = RefreshIndex(NEVER_AGAIN, folder / "index", before_validation=True, use_gpu=hardware.on_gpu)
    return L.Trainer(
        max_steps=max_steps,
        max_epochs=-1,
        val_check_interval=validate_every_steps,
        check_val_every_n_epoch=None,
        num_sanity_val_steps=0,
        callbacks=[
            index,
            FitTemperature(),
            *indicators,
            LogMetrics(metrics),
            WarnOfTemperatures(),
            StepProgress(),
            best,
        ],
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        inference_mode=False,
        accelerator=hardware.accelerator,
        devices=1,
        precision=hardware.precision,
        default_root_dir=folder,
    )


def _test(trainer: L.Trainer, module: RetrieverReaderModule, data: QuestionDataModule) -> dict[str, float]:
    trainer.test(module, data, verbose=False)
    found = trainer.callback_metrics.items()
    return {name.removeprefix(_TESTED): float(v) for name, v in found if name.startswith(_TESTED)}
