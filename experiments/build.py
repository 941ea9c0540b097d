"""Configuration -> the objects of a run."""

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import torch

from callbacks.progress import progress_bar
from callbacks.refresh_index import RefreshIndex
from datamodules import embedded
from datamodules.batches import Passage, Question
from datamodules.fusion_prompts import FusionPromptBuilder
from datamodules.nouns import NounTagger
from datamodules.passage_index import gpu_search_is_possible
from datamodules.passages import KnowledgeBase, build_knowledge_base, knowledge_base_from_file
from datamodules.prompts import PromptBuilder
from datamodules.qa_datamodule import QuestionDataModule
from datamodules.sources import passage_set
from datamodules.vital import VITAL
from experiments.config import ConfigError, ExperimentConfig
from experiments.data_files import (
    data_files,
    data_settings,
    passage_file,
    provide_files,
    read_data_split,
)
from lightning_modules import RetrieverReaderModule
from lightning_modules.attention_heads import AttentionHeads
from lightning_modules.loading import is_encoder_decoder, load_causal_lm, load_encoder, load_seq2seq
from lightning_modules.optimization import LearningRate, LearningRateDecay
from lightning_modules.readers.decoder_only import DecoderOnlyReader
from lightning_modules.readers.fusion_in_decoder import FusionInDecoderReader
from lightning_modules.readers.reader import Reader, ReaderFamily
from lightning_modules.retriever import PASSAGE_ENCODER, Retriever
from lightning_modules.teacher import Teacher

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
    return QuestionDataModule(
        train=train,
        validation=tagger.tag(read_data_split(config, "validation", data.max_validation)),
        test=tagger.tag(read_data_split(config, "test", data.max_test)),
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
    """The retriever, from `source` (an earlier run's) where given."""
    settings = config.retriever
    name: str | Path = settings.name
    if source is not None:
        name, num_layers = source, None
    else:
        name = embedded.retriever_folder() if settings.name == EMBEDDED else settings.name
        num_layers = settings.num_layers
    encoder, tokenizer = load_encoder(name, num_layers, settings.dropout)
    retriever = Retriever(
        encoder,
        tokenizer,
        normalize=settings.normalize,
        tied=settings.tied,
        train_passage_encoder=settings.train_passage_encoder,
        max_query_tokens=settings.max_query_tokens,
        max_passage_tokens=settings.max_passage_tokens,
    )
    if source is not None and (source / PASSAGE_ENCODER).is_dir():
        if settings.tied:
            raise ConfigError(
                f"init.retriever_from: {source} holds two encoders, one for queries and one for passages; "
                "set retriever.tied=false"
            )
        passage_encoder, _ = load_encoder(source / PASSAGE_ENCODER, dropout=settings.dropout)
        retriever.passage_encoder.load_state_dict(passage_encoder.state_dict())
    return retriever


def build_reader(config: ExperimentConfig, source: Path | None = None) -> Reader:
    """The reader, from `source` (an earlier run's) where given.

    Raises:
        ModelError: not to be had, or of another family than `reader.family` says.
        ValueError: the model lacks a head of `reader.attention_heads`.
    """
    settings = config.reader
    name: str | Path = settings.name
    if source is not None:
        name = source
    elif settings.name == EMBEDDED:
        name = embedded.reader_gguf()
    heads = None if settings.attention_heads is None else AttentionHeads.parse(settings.attention_heads)
    family = ReaderFamily(settings.family)
    if family is ReaderFamily.AUTO:
        fuses = is_encoder_decoder(name)
        family = ReaderFamily.FUSION_IN_DECODER if fuses else ReaderFamily.DECODER_ONLY
    if family is ReaderFamily.FUSION_IN_DECODER:
        model, tokenizer = load_seq2seq(name)
        return FusionInDecoderReader(
            model,
            FusionPromptBuilder(
                tokenizer,
                token_scope=settings.token_scope,
                max_tokens_per_passage=settings.max_tokens_per_passage,
                max_answer_tokens=settings.max_new_tokens,
            ),
            heads,
        )
    model, tokenizer = load_causal_lm(name)
    prompts = PromptBuilder(
        tokenizer,
        context=settings.context,
        token_scope=settings.token_scope,
        passage_order=settings.passage_order,
        max_tokens_per_passage=settings.max_tokens_per_passage,
        max_answer_tokens=settings.max_new_tokens,
    )
    return DecoderOnlyReader(model, prompts, heads)


def build_teacher(config: ExperimentConfig) -> Teacher:
    """What of the reader the retriever learns from."""
    objective = config.objective
    return Teacher(
        objective.name,
        objective.passage_score,
        objective.attention_distribution,
        objective.attention_temperature,
        objective.reader_temperature,
        objective.constants,
    )


def build_module(
    config: ExperimentConfig, retriever: Retriever, reader: Reader | None, knowledge_base: KnowledgeBase
) -> RetrieverReaderModule:
    """Both models in the module that trains them; one without a reader only retrieves."""
    training, objective, evaluation = config.training, config.objective, config.evaluation
    decay = LearningRateDecay(training.decay)
    if training.num_passages > len(knowledge_base):
        raise ConfigError(
            f"training.num_passages={training.num_passages}, but there are only {len(knowledge_base)} "
            "passages"
        )
    return RetrieverReaderModule(
        retriever,
        reader,
        knowledge_base,
        train_retriever=training.train_retriever and reader is not None,
        train_reader=training.train_reader and reader is not None,
        retriever_rate=LearningRate(training.retriever_lr, training.retriever_warmup_steps, decay),
        reader_rate=LearningRate(training.reader_lr, training.reader_warmup_steps, decay),
        num_passages=training.num_passages,
        rerank_from=config.retriever.rerank_from,
        teacher=build_teacher(config),
        retrieval_temperature=objective.retrieval_temperature,
        answer_match=evaluation.answer_match,
        hit_rate_ks=evaluation.hit_rate_ks,
        num_read=evaluation.num_read,
        max_new_tokens=config.reader.max_new_tokens,
        token_embeddings=evaluation.token_embeddings,
        token_drops=evaluation.token_drops,
        weight_decay=training.weight_decay,
        seed=config.seed,
    )


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
    if settings.accelerator not in ("auto", "cpu", "gpu"):
        raise ConfigError(f"trainer.accelerator={settings.accelerator!r} is unknown; use auto, cpu or gpu")
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
