"""Configuration -> the objects of a run."""

import dataclasses
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from callbacks.progress import progress_bar
from callbacks.refresh_index import RefreshIndex
from datamodules import embedded
from datamodules.batches import Passage, Question
from datamodules.nouns import NounTagger
from datamodules.passage_index import gpu_search_is_possible
from datamodules.passages import KnowledgeBase, build_knowledge_base, knowledge_base_from_file
from datamodules.qa_datamodule import QuestionDataModule
from datamodules.sources import passage_set
from datamodules.vital import VITAL
from experiments.config import ConfigError, ExperimentConfig, naming
from experiments.data_files import (
    data_files,
    data_settings,
    passage_file,
    provide_files,
    read_data_split,
)
from lightning_modules import RetrieverReaderModule
from lightning_modules.attention_heads import AttentionHeads
from lightning_modules.objectives import Objective, make_objective
from lightning_modules.optimization import LearningRate, LearningRateDecay
from lightning_modules.readers.base import Reader
from lightning_modules.readers.families import load_reader
from lightning_modules.retrieval import RetrievalModule
from lightning_modules.retriever import Retriever

EMBEDDED = "embedded"


def build_datamodule(config: ExperimentConfig, reads_train: bool = False) -> QuestionDataModule:
    """The three splits, with the nouns of the questions that indicators may look at.

    Args:
        config: of the experiment.
        reads_train: whether to read the training questions even where nothing is trained.

    Raises:
        DataError: a file is missing or broken.
    """
    data = config.data
    settings = data_settings(config, reads_train)
    provide_files(config, data_files(config, settings))
    tagger = NounTagger(data.noun_model)
    train = read_data_split(config, "train", data.max_train) if "train" in settings else []
    validation, test = (
        tagger.tag(read_data_split(config, split, getattr(data, f"max_{split}")))
        for split in ("validation", "test")
    )
    with naming("data"):
        return QuestionDataModule(
            train=train,
            validation=validation,
            test=test,
            batch_size=data.batch_size,
            evaluation_batch_size=data.evaluation_batch_size,
            seed=config.seed,
        )


def build_knowledge(config: ExperimentConfig, datamodule: QuestionDataModule, folder: Path) -> KnowledgeBase:
    """The knowledge base, or a slice of it in the run's folder.

    A slice holds the gold passages of all questions (found by title) and fills up with other passages, in
    order, so that training and held-out questions can all be answered from it.
    """
    data = config.data
    if data.max_passages is None and data.passages != VITAL:
        return _knowledge_base_from_file(config)
    passages = _read_passages(config)
    path = folder / "knowledge_base.arrow"
    if data.max_passages is None:
        path = cache_folder(config) / "vital.arrow"
        return KnowledgeBase(path) if path.is_file() else build_knowledge_base(passages, path, source=VITAL)
    if path.is_file():  # made before an interruption, or by another process of this run
        return KnowledgeBase(path)
    questions = [*datamodule.train, *datamodule.validation, *datamodule.test]
    return build_knowledge_base(_slice(passages, questions, data.max_passages), path, source=data.passages)


def _slice(passages: Iterable[Passage], questions: Sequence[Question], size: int) -> Iterator[Passage]:
    wanted = {question.title for question in questions if question.title}
    others_left = size - len(wanted)
    if others_left < 0:
        raise ConfigError(
            f"data.max_passages={size} is less than the {len(wanted)} gold passages of the questions; raise "
            "it, or lower data.max_train, data.max_validation and data.max_test"
        )
    for passage in passages:
        if passage.title in wanted:
            yield passage
        elif others_left > 0:
            others_left -= 1
            yield passage


def _read_passages(config: ExperimentConfig) -> Iterable[Passage]:
    if config.data.passages == VITAL:
        return embedded.read_vital_passages()
    return _knowledge_base_from_file(config)


def _knowledge_base_from_file(config: ExperimentConfig) -> KnowledgeBase:
    path = passage_file(config)
    published = passage_set(path) if config.data.verify_sizes else None
    with progress_bar(None, f"Reading {path.name}", "passages", config.trainer.progress_bar) as bar:
        return knowledge_base_from_file(
            path, cache_folder(config), progress=lambda n: bar.update(n - bar.n), published=published
        )


def cache_folder(config: ExperimentConfig) -> Path:
    """What runs share: knowledge bases, and indices of starting checkpoints."""
    return Path(config.runs) / "cache"


def build_retriever(config: ExperimentConfig, source: Path | None = None) -> Retriever:
    """The retriever, from `source` (an earlier run's) where given.

    Raises:
        ModelError: not to be loaded.
        ValueError: settings that a retriever cannot have.
    """
    settings = config.retriever
    name: str | Path = settings.name
    num_layers = settings.num_layers
    if source is not None:
        name, num_layers = source, None
    elif settings.name == EMBEDDED:
        name = embedded.retriever_folder()
    with naming("retriever", name="retriever.name" if source is None else "init.retriever_from"):
        return Retriever.load(
            name,
            num_layers=num_layers,
            dropout=settings.dropout,
            tied=settings.tied,
            normalize=settings.normalize,
            train_passage_encoder=settings.train_passage_encoder,
            max_query_tokens=settings.max_query_tokens,
            max_passage_tokens=settings.max_passage_tokens,
        )


def build_reader(config: ExperimentConfig, source: Path | None = None) -> Reader:
    """The reader, from `source` (an earlier run's) where given.

    Raises:
        ModelError: not to be loaded, or of another family than `reader.family` says.
        ValueError: the model lacks a head of `reader.attention_heads`.
    """
    settings = config.reader
    name: str | Path = settings.name
    if source is not None:
        name = source
    elif settings.name == EMBEDDED:
        name = embedded.reader_gguf()
    heads = None if settings.attention_heads is None else AttentionHeads.parse(settings.attention_heads)
    with naming("reader", name="reader.name" if source is None else "init.reader_from"):
        return load_reader(
            name,
            settings.family,
            attention_heads=heads,
            context=settings.context,
            passage_order=settings.passage_order,
            max_tokens_per_passage=settings.max_tokens_per_passage,
            max_answer_tokens=settings.max_new_tokens,
        )


def build_objective(config: ExperimentConfig) -> Objective:
    """What of the reader the retriever learns from."""
    settings = dataclasses.asdict(config.objective)
    return make_objective(settings.pop("name"), token_scope=config.reader.token_scope, **settings)


def build_module(
    config: ExperimentConfig, retriever: Retriever, reader: Reader | None, knowledge_base: KnowledgeBase
) -> RetrievalModule:
    """Both models in the module that trains them; without a reader one that only retrieves."""
    training, evaluation = config.training, config.evaluation
    decay = LearningRateDecay(training.decay)
    if training.num_passages > len(knowledge_base):
        raise ConfigError(
            f"training.num_passages={training.num_passages}, but there are only {len(knowledge_base)} "
            "passages"
        )
    of_retrieval: dict[str, Any] = {
        "num_passages": training.num_passages,
        "rerank_from": config.retriever.rerank_from,
        "answer_match": evaluation.answer_match,
        "hit_rate_ks": evaluation.hit_rate_ks,
        "num_read": evaluation.num_read,
    }
    if reader is None:
        return RetrievalModule(retriever, knowledge_base, **of_retrieval)
    with naming("reader"):  # an objective can refuse how it is shown the passages
        return RetrieverReaderModule(
            retriever,
            reader,
            knowledge_base,
            **of_retrieval,
            train_retriever=training.train_retriever,
            train_reader=training.train_reader,
            retriever_rate=LearningRate(training.retriever_lr, training.retriever_warmup_steps, decay),
            reader_rate=LearningRate(training.reader_lr, training.reader_warmup_steps, decay),
            objective=build_objective(config),
            retrieval_temperature=config.objective.retrieval_temperature,
            max_new_tokens=config.reader.max_new_tokens,
            token_embeddings=evaluation.token_embeddings,
            attention_normalization=evaluation.attention_normalization,
            token_drops=evaluation.token_drops,
            weight_decay=training.weight_decay,
            seed=config.seed,
        )


Weights = Mapping[str, Path | None]
"""Folders that the `reader` and the `retriever` are loaded from; None = what the configuration names."""


def build(
    config: ExperimentConfig, folder: Path, weights: Weights, reads_train: bool = False
) -> tuple[QuestionDataModule, RetrievalModule]:
    """Questions and models of an experiment: the one way from a configuration to what every command works on.

    Args:
        config: of the experiment.
        folder: where a slice of the knowledge base is kept.
        weights: where the models come from.
        reads_train: whether to read the training questions even where nothing is trained.

    Raises:
        ValueError: a setting, a file or a model that cannot be used.
    """
    datamodule = build_datamodule(config, reads_train)
    return datamodule, build_models(config, folder, weights, datamodule)


def build_models(
    config: ExperimentConfig, folder: Path, weights: Weights, datamodule: QuestionDataModule
) -> RetrievalModule:
    """The models of `build`, with their knowledge base, which may depend on all questions."""
    knowledge_base = build_knowledge(config, datamodule, folder)
    retriever = build_retriever(config, weights["retriever"])
    reader = None if config.evaluation.retrieve_only else build_reader(config, weights["reader"])
    return build_module(config, retriever, reader, knowledge_base)


def build_refresh(config: ExperimentConfig, folder: Path, schedule: str, **others: Any) -> RefreshIndex:
    """The callback that keeps the index, as the configuration says.

    Args:
        config: of the run.
        folder: of its indices.
        schedule: when it is made anew.
        others: further arguments of `RefreshIndex`; the start's index is shared between runs unless they
            name another `start_folder`.
    """
    settings = config.index
    return RefreshIndex(
        schedule,
        folder,
        factory=settings.factory,
        use_gpu=gpu_search_is_possible() if settings.gpu is None else settings.gpu,
        batch_size=settings.batch_size,
        show_progress=config.trainer.progress_bar,
        **{"start_folder": cache_folder(config) / "index", **others},
    )


def hardware(config: ExperimentConfig) -> dict[str, Any]:
    """Trainer arguments for the accelerator and precision.

    Raises:
        ConfigError: a GPU is asked for and absent, or an accelerator is unknown.
    """
    settings = config.trainer
    has_gpu = torch.cuda.is_available()
    if settings.accelerator == "gpu" and not has_gpu:
        raise ConfigError(
            "trainer.accelerator=gpu, but torch sees no GPU here; use trainer.accelerator=cpu, or install "
            "the driver and a CUDA build of torch"
        )
    on_gpu = has_gpu and settings.accelerator != "cpu"
    if on_gpu and settings.devices > torch.cuda.device_count():
        raise ConfigError(
            f"trainer.devices={settings.devices}, but torch sees {torch.cuda.device_count()} GPU(s) here; "
            "ask for no more"
        )
    precision = settings.precision
    if precision == "auto":
        precision = "bf16-mixed" if on_gpu and torch.cuda.is_bf16_supported() else "32-true"
    return {
        "accelerator": "gpu" if on_gpu else "cpu",
        "devices": settings.devices,
        "precision": precision,
    }
