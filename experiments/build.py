"""Configuration -> the objects of a run."""

import dataclasses
import logging
import random
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import torch

from callbacks.progress import progress_bar
from callbacks.refresh_index import RefreshIndex
from datamodules import embedded
from datamodules.batches import Passage, Question, SolvedExample
from datamodules.bm25 import BM25Index
from datamodules.nouns import NounTagger
from datamodules.passage_index import EXACT, why_not_on_gpu
from datamodules.passages import KnowledgeBase, build_knowledge_base, knowledge_base_from_file
from datamodules.qa_datamodule import QuestionDataModule
from datamodules.score_files import ScoredQuestion, read_scores
from datamodules.sealed_files import DamagedFileError
from datamodules.solved_examples import choose_examples
from datamodules.sources import passage_set
from datamodules.vital import VITAL
from experiments.config import (
    FAST,
    FSDP,
    ConfigError,
    ExperimentConfig,
    has_reader,
    naming,
    num_examples,
    trains,
)
from experiments.data_files import (
    data_files,
    data_settings,
    passage_file,
    provide_files,
    read_data_split,
)
from experiments.models import EMBEDDED, is_of_hub, provide_model
from lightning_modules import RetrieverReaderModule
from lightning_modules.calibration import Reference
from lightning_modules.candidates import Candidates
from lightning_modules.head_lists import parse_heads
from lightning_modules.objectives import Given, Objective, make_objective
from lightning_modules.optimization import LearningRate, LearningRateDecay
from lightning_modules.read_once import ReadOnce, why_not_kept
from lightning_modules.readers.base import Reader
from lightning_modules.readers.families import load_reader
from lightning_modules.retrieval import RetrievalModule
from lightning_modules.retriever import Retriever
from lightning_modules.retriever_reader import AnswerChoice

log = logging.getLogger(__name__)

MAX_PASSAGES_OF_BASELINE = 1_000_000
"""BM25 over more of them is built only where it is asked for: it takes long, and memory."""


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
    if not data.train_answers:
        train = [dataclasses.replace(question, answers=(), canonical_answer="") for question in train]
    validation, test = (
        tagger.tag(read_data_split(config, split, getattr(data, f"max_{split}")))
        for split in ("validation", "test")
    )
    for split, questions in (("validation", validation), ("test", test)):
        if not any(question.answers for question in questions):
            log.warning(
                "data.%s: no question has an answer, so the reader reads none of them: the Hit Rate goes by "
                "the passages judged relevant, and there are no indicators, EM and F1",
                split,
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

    A slice holds the gold passages of all questions (found by title, or judged relevant) and fills up with
    other passages, in order, so that training and held-out questions can all be answered from it.

    Raises:
        ConfigError: a slice too small for them, or no passage that is judged relevant is there.
    """
    knowledge_base = _build_knowledge(config, datamodule, folder)
    for split in ("train", "validation", "test"):
        judged = {id for question in getattr(datamodule, split) for id in question.positives}
        missing = judged - knowledge_base.rows_of(judged).keys()
        if judged and missing == judged:
            raise ConfigError(
                f"data.{split}: none of the {len(judged)} passages judged relevant is in data.passages, "
                f"whose ids are such as {knowledge_base[0].id!r}, not {min(judged)!r}; give the passages "
                "of the same set"
            )
        if missing:
            log.warning(
                "data.%s: %d of the %d passages judged relevant are not in data.passages (such as %r)",
                *(split, len(missing), len(judged), min(missing)),
            )
    return knowledge_base


def _build_knowledge(config: ExperimentConfig, datamodule: QuestionDataModule, folder: Path) -> KnowledgeBase:
    data = config.data
    if data.max_passages is None and data.passages != VITAL:
        return _knowledge_base_from_file(config)
    is_whole = data.max_passages is None
    path = cache_folder(config) / "vital.arrow" if is_whole else folder / "knowledge_base.arrow"
    if path.is_file():  # made by another run, before an interruption, or by another process of this run
        try:
            return KnowledgeBase(path)
        except DamagedFileError as error:
            log.warning("%s", error)
    passages = _read_passages(config)
    if data.max_passages is not None:
        questions = [*datamodule.train, *datamodule.validation, *datamodule.test]
        passages = _slice(passages, questions, data.max_passages)
    return build_knowledge_base(passages, path, source=VITAL if is_whole else data.passages)


def _slice(passages: Iterable[Passage], questions: Sequence[Question], size: int) -> Iterator[Passage]:
    wanted = {question.title for question in questions if question.title and not question.positives}
    judged = {id for question in questions for id in question.positives}
    others_left = size - len(wanted) - len(judged)
    if others_left < 0:
        raise ConfigError(
            f"data.max_passages={size} is less than the {len(wanted) + len(judged)} gold passages of the "
            "questions; raise it, or lower data.max_train, data.max_validation and data.max_test"
        )
    for passage in passages:
        if passage.title in wanted or passage.id in judged:
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
        if source is None and is_of_hub(settings.name):
            provide_model(config, "retriever")
        return Retriever.load(
            name,
            num_layers=num_layers,
            dropout=settings.dropout,
            tied=settings.tied,
            normalize=settings.normalize,
            pooling=settings.pooling,
            query_prompt=settings.query_prompt,
            passage_prompt=settings.passage_prompt,
            train_passage_encoder=settings.train_passage_encoder,
            max_query_tokens=settings.max_query_tokens,
            max_passage_tokens=settings.max_passage_tokens,
            num_at_once=settings.num_at_once,
        )


def take_examples(
    config: ExperimentConfig, datamodule: QuestionDataModule, knowledge_base: KnowledgeBase
) -> list[SolvedExample]:
    """The solved examples that the reader is shown, which are training questions no longer.

    Args:
        config: of the experiment.
        datamodule: whose training questions they are taken from; other splits keep theirs.
        knowledge_base: of the experiment, with the passages of all questions.

    Raises:
        DataError: too few training questions can be one, or none is left to train on.
    """
    with naming("reader"):
        examples = choose_examples(
            datamodule.train,
            knowledge_base,
            num_examples(config),
            asked=[*datamodule.validation, *datamodule.test],
        )
    datamodule.leave_out([example.question for example in examples])
    return examples


def build_reader(
    config: ExperimentConfig, source: Path | None = None, examples: Sequence[SolvedExample] = ()
) -> Reader:
    """The reader, from `source` (an earlier run's) where given.

    Args:
        config: of the experiment.
        source: folder of its weights; None = what the configuration names.
        examples: that it is shown before each prompt, see `take_examples`.

    Raises:
        ModelError: not to be loaded, or of another family than `reader.family` says.
        ValueError: the model lacks a head of `reader.attention_heads`, no list is of it, it is of a family
            that is shown no examples, or the template is not for it.
    """
    settings = config.reader
    name: str | Path = settings.name
    if source is not None:
        name = source
    elif settings.name == EMBEDDED:
        name = embedded.reader_gguf()
    heads = None if settings.attention_heads is None else parse_heads(settings.attention_heads)
    where = {"name": "reader.name" if source is None else "init.reader_from"}
    with naming("reader", examples="reader.num_examples", **where):
        if source is None and is_of_hub(settings.name):
            provide_model(config, "reader")
        reader = load_reader(
            name,
            settings.family,
            attention_heads=heads,
            dtype=reader_dtype(config),
            context=settings.context,
            passage_order=settings.passage_order,
            max_tokens_per_passage=settings.max_tokens_per_passage,
            max_answer_tokens=settings.max_new_tokens,
            examples=examples,
            template=settings.template,
        )
        reader.prompts.check_room(config.training.num_passages)
        return reader


def reader_dtype(config: ExperimentConfig) -> torch.dtype:
    """Of the reader's weights: those that are trained are float32."""
    wanted = config.reader.dtype
    if wanted != "auto":
        return {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}[wanted]
    if trains_reader_weights(config):
        return torch.float32
    if hardware(config)["accelerator"] == "gpu":
        return gpu_reader_dtype()
    return torch.bfloat16 if _cpu_multiplies_bfloat16() else torch.float32


def gpu_precision() -> Literal["bf16-mixed", "32-true"]:
    """Of training on a GPU, where nothing else is asked for; emulated bfloat16 is slower than float32."""
    return "bf16-mixed" if torch.cuda.is_bf16_supported(including_emulation=False) else "32-true"


def gpu_reader_dtype() -> torch.dtype:
    """Of the weights of a frozen reader on a GPU, likewise."""
    is_fast = torch.cuda.is_bf16_supported(including_emulation=False)
    return torch.bfloat16 if is_fast else torch.float32


def trains_reader_weights(config: ExperimentConfig) -> bool:
    """Whether the reader's own weights change, and not just LoRA matrices beside them."""
    return config.training.train_reader and config.reader.lora_rank is None


def prepare_training(config: ExperimentConfig, reader: Reader) -> None:
    """Makes a reader that is trained learn as the configuration says.

    Raises:
        ModelError: the package for LoRA is missing, or the model cannot recompute activations.
    """
    if not config.training.train_reader:
        return
    settings = config.reader
    with naming("reader"):
        if settings.lora_rank is not None:
            reader.add_adapters(settings.lora_rank, settings.lora_alpha)
        if settings.gradient_checkpointing:
            reader.recompute_activations()


def _cpu_multiplies_bfloat16() -> bool:
    # torch says so in private functions alone; without them float32 is never wrong
    checks = (getattr(torch.cpu, f"_is_{name}_supported", None) for name in ("avx512_bf16", "amx_tile"))
    return torch.backends.mkldnn.is_available() and any(check() for check in checks if check is not None)


def take_scores(
    config: ExperimentConfig, datamodule: QuestionDataModule, knowledge_base: KnowledgeBase
) -> list[ScoredQuestion]:
    """The scores of `objective.scores_from`, whose questions become the training questions.

    Args:
        config: of the experiment.
        datamodule: whose training questions are meant where the file names them by id.
        knowledge_base: whose passages are meant likewise.

    Raises:
        DataError: a file that cannot be read, or no question with as many candidates as a step takes.
    """
    if config.objective.scores_from is None:
        return []
    scored = read_scores(config.objective.scores_from, datamodule.train, knowledge_base)
    num_passages = config.training.num_passages
    fitting = [one for one in scored if len(one.passages) >= num_passages][: config.data.max_train]
    num_short = sum(len(one.passages) < num_passages for one in scored)
    if not fitting:
        raise ConfigError(
            f"objective.scores_from={config.objective.scores_from}: no question has "
            f"training.num_passages={num_passages} candidates; set that to "
            f"{max(len(one.passages) for one in scored)}, the most that one has"
        )
    if num_short:
        log.warning(
            "warning: %d of %d questions in %s have fewer than training.num_passages=%d candidates and are "
            "left out",
            num_short,
            len(scored),
            config.objective.scores_from,
            num_passages,
        )
    datamodule.train = [one.question for one in fitting]
    return fitting


def build_objective(
    config: ExperimentConfig, train: Sequence[Question] = (), given: Sequence[ScoredQuestion] = ()
) -> Objective:
    """What the retriever learns from: of the reader, or the scores in its place.

    Args:
        config: of the experiment.
        train: training questions, of which some serve to calibrate by.
        given: the scores.
    """
    if config.objective.scores_from is not None:
        return Given(
            constants=config.objective.constants,
            attention_temperature=config.objective.attention_temperature,
            scale=config.objective.scale,
            scored={one.question.id: one for one in given},
        )
    settings = dataclasses.asdict(config.objective)
    del settings["scores_from"]
    del settings["calibration"]["num_unrelated"]
    if settings["calibration"]["reference"] == Reference.UNRELATED:
        settings["calibration"]["unrelated"] = unrelated_questions(config, train)
    with naming("objective.calibration", unrelated="data.train"):
        return make_objective(settings.pop("name"), token_scope=config.reader.token_scope, **settings)


def unrelated_questions(config: ExperimentConfig, train: Sequence[Question]) -> list[tuple[str, str]]:
    """The training questions, with their own answers, that attention may be calibrated by.

    One more than each question is compared with, since one of them may be the question itself. They do not
    depend on the seed: what a passage gets whatever is asked is read once for runs of all seeds.
    """
    answered = {question.text: question.answers[0] for question in train if question.answers}
    num = min(config.objective.calibration.num_unrelated + 1, len(answered))
    return random.Random(0).sample(list(answered.items()), num)


def build_module(
    config: ExperimentConfig,
    retriever: Retriever,
    reader: Reader | None,
    knowledge_base: KnowledgeBase,
    train: Sequence[Question] = (),
    given: Sequence[ScoredQuestion] = (),
    run: str | None = None,
) -> RetrievalModule:
    """Both models in the module that trains them; without a reader one that learns from scores, or retrieves.

    Args:
        config: of the experiment.
        retriever, reader, knowledge_base: that it is made of.
        train: training questions, as for `build_objective`.
        given: scores that are learnt from in place of a reader.
        run: that it is of, as for `ReadOnce`.
    """
    training, evaluation = config.training, config.evaluation
    decay = LearningRateDecay(training.decay)
    if training.num_passages > len(knowledge_base):
        raise ConfigError(
            f"training.num_passages={training.num_passages}, but there are only {len(knowledge_base)} "
            "passages"
        )
    settings = config.retrieval
    with naming("retrieval"):
        candidates = Candidates(
            settings.candidates, settings.choice, settings.num_from_each, settings.are_fixed
        )
        candidates.num_to_find(training.num_passages, len(knowledge_base))
    of_retrieval: dict[str, Any] = {
        "candidates": candidates,
        "bm25": _build_bm25(config, candidates, knowledge_base),
        "num_passages": training.num_passages,
        "rerank_from": config.retriever.rerank_from,
        "answer_match": evaluation.answer_match,
        "hit_rate_ks": evaluation.hit_rate_ks,
        "num_read": evaluation.num_read,
    }
    if config.evaluation.retrieve_only:
        return RetrievalModule(retriever, knowledge_base, **of_retrieval)
    objective = build_objective(config, train, given)
    _check_answers(config, objective, train)
    # an objective can refuse how it is shown the passages, and a model cannot always be sharded
    with naming("reader", shard_reader="trainer.strategy"):
        return RetrieverReaderModule(
            retriever,
            reader,
            knowledge_base,
            **of_retrieval,
            train_retriever=training.train_retriever,
            train_reader=training.train_reader,
            retriever_rate=LearningRate(training.retriever_lr, training.retriever_warmup_steps, decay),
            reader_rate=LearningRate(training.reader_lr, training.reader_warmup_steps, decay),
            objective=objective,
            retrieval_temperature=config.objective.retrieval_temperature,
            in_batch=config.objective.in_batch,
            auto_batch=config.trainer.auto_batch and trains(config),
            max_new_tokens=config.reader.max_new_tokens,
            token_embeddings=evaluation.token_embeddings,
            attention_normalization=evaluation.attention_normalization,
            token_drops=evaluation.token_drops,
            read_once=None if reader is None else _build_read_once(config, reader, run),
            answer_choice=training.answer_choice,
            shard_reader=config.trainer.strategy == FSDP,
            weight_decay=training.weight_decay,
            seed=config.seed,
        )


def _check_answers(config: ExperimentConfig, objective: Objective, train: Sequence[Question]) -> None:
    """Refuses training questions without answers, or canonical ones, where what is trained needs them."""
    _check_canonical_answers(config, train)
    without = [question for question in train if not question.answers]
    if not without or not trains(config):
        return
    if config.training.train_reader:
        what = "training.train_reader=true trains the reader on them: set it to false"
    elif config.training.train_retriever and objective.needs_answers:
        what = (
            f"{' '.join([objective.name, *objective.details])} needs them: set objective.name=signals with "
            "objective.signals.answer=0 objective.signals.likelihood=0, so that the question's rows teach"
        )
    else:
        return
    raise ConfigError(
        f"data.train: {len(without)} of {len(train)} questions have no answer (the first is "
        f"{without[0].text!r}), but {what}; or give answers"
    )


def _check_canonical_answers(config: ExperimentConfig, train: Sequence[Question]) -> None:
    choice = AnswerChoice.CANONICAL
    without = [question for question in train if question.answers and not question.canonical_answer]
    if trains(config) and config.training.answer_choice == choice and without:
        raise ConfigError(
            f"training.answer_choice={choice}, but {len(without)} of {len(train)} training questions name no "
            f"canonical answer (the first is {without[0].text!r}): TriviaQA's do with data.source=hub, and "
            'JSONL files as "target"; DPR\'s files and NQ have none. Or set training.answer_choice=sampled'
        )


def _build_read_once(config: ExperimentConfig, reader: Reader, run: str | None) -> ReadOnce | None:
    """What keeps the reader's outputs, where they are the same whenever and beside whatever it reads."""
    settings = config.reader
    if not settings.read_once or config.training.train_reader:
        return None
    reason = why_nothing_is_kept(config, reader)
    if reason is not None:
        log.info("nothing that the reader gives is kept (reader.read_once=true): %s", reason)
        return None
    max_bytes = int(settings.read_once_gb * 2**30)
    return ReadOnce(reader, cache_folder(config) / "reader_outputs", max_bytes, run=run)


def why_nothing_is_kept(config: ExperimentConfig, reader: Reader) -> str | None:
    """Why a frozen reader reads a pair each time anew although `reader.read_once` asks otherwise.

    Args:
        config: of the experiment.
        reader: as it is shown the passages.

    Returns:
        The reason; None where outputs are kept, nobody asked for it, or the reader is trained.
    """
    if not config.reader.read_once or config.training.train_reader:
        return None
    if config.trainer.strategy == FSDP:
        return "trainer.strategy=fsdp shards it, and whose outputs are kept is told by whole weights"
    reason = why_not_kept(reader, token_embeddings=config.evaluation.token_embeddings)
    return None if reason is None else reason.replace("token_embeddings=", "evaluation.token_embeddings=")


def _build_bm25(
    config: ExperimentConfig, candidates: Candidates, knowledge_base: KnowledgeBase
) -> BM25Index | None:
    """BM25 over the knowledge base, where candidates come from it or it is measured as the baseline."""
    is_measured = config.retrieval.bm25_baseline
    if is_measured is None:
        is_measured = len(knowledge_base) <= MAX_PASSAGES_OF_BASELINE
    if not (is_measured or candidates.uses_bm25):
        return None
    with progress_bar(
        len(knowledge_base), "Indexing for BM25", "passages", config.trainer.progress_bar
    ) as bar:
        return BM25Index.cached(knowledge_base, cache_folder(config) / "bm25", bar.update)


Weights = Mapping[str, Path | None]
"""Folders that the `reader` and the `retriever` are loaded from; None = what the configuration names."""


def build(
    config: ExperimentConfig, folder: Path, weights: Weights, reads_train: bool = False
) -> tuple[QuestionDataModule, RetrievalModule]:
    """Questions and models of an experiment: the one way from a configuration to what every command works on.

    Args:
        config: of the experiment.
        folder: of the run, or any other: where a slice of the knowledge base is kept.
        weights: where the models come from.
        reads_train: whether to read the training questions even where nothing is trained.

    Raises:
        ValueError: a setting, a file or a model that cannot be used.
    """
    datamodule = build_datamodule(config, reads_train)
    # which may depend on all questions, and so comes before some are taken out
    knowledge_base = build_knowledge(config, datamodule, folder)
    examples = take_examples(config, datamodule, knowledge_base) if has_reader(config) else []
    given = take_scores(config, datamodule, knowledge_base)
    module = build_models(config, weights, knowledge_base, examples, datamodule.train, given, run=folder.name)
    return datamodule, module


def build_models(
    config: ExperimentConfig,
    weights: Weights,
    knowledge_base: KnowledgeBase,
    examples: Sequence[SolvedExample] = (),
    train: Sequence[Question] = (),
    given: Sequence[ScoredQuestion] = (),
    run: str | None = None,
) -> RetrievalModule:
    """The models of `build`, with their knowledge base, what the reader is shown and calibrated by, and the
    scores in its place."""
    retriever = build_retriever(config, weights["retriever"])
    reader = build_reader(config, weights["reader"], examples) if has_reader(config) else None
    return build_module(config, retriever, reader, knowledge_base, train, given, run)


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
        use_gpu=searches_on_gpu(config),
        batch_size=settings.batch_size,
        show_progress=config.trainer.progress_bar,
        **{"start_folder": cache_folder(config) / "index", **others},
    )


def searches_on_gpu(config: ExperimentConfig) -> bool:
    """Whether a run searches on a GPU; an exact index needs torch alone for it, others a FAISS that can.

    Raises:
        ConfigError: `index.gpu` asks for what cannot be.
    """
    wanted, on_gpu = config.index.gpu, hardware(config)["accelerator"] == "gpu"
    if wanted and not on_gpu:
        raise ConfigError("index.gpu=true, but the run is on the CPU; set it to false or null")
    reason = None if config.index.factory == EXACT else why_not_on_gpu()
    if wanted and reason is not None:
        raise ConfigError(
            f"index.gpu=true, but {reason}; or set index.gpu=false, or index.factory={EXACT}, which torch "
            "searches"
        )
    return would_search_on_gpu(config, on_gpu, can_faiss=reason is None)


def would_search_on_gpu(config: ExperimentConfig, on_gpu: bool, can_faiss: bool = False) -> bool:
    """Whether a run would search on a GPU, on some machine.

    Args:
        config: of the run.
        on_gpu: whether its models would be on one.
        can_faiss: whether FAISS can search there, which an index that is not exact needs.
    """
    if config.index.gpu is not None:
        return config.index.gpu
    return on_gpu and (config.index.factory == EXACT or can_faiss)


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
    if precision in ("auto", FAST):
        is_fast = precision == FAST and not on_gpu and _cpu_multiplies_bfloat16()
        precision = gpu_precision() if on_gpu else "bf16-mixed" if is_fast else "32-true"
    return {
        "accelerator": "gpu" if on_gpu else "cpu",
        "devices": settings.devices,
        "precision": precision,
    }
