"""What can be wrong with a configuration, found before anything is loaded or written."""

import math
from pathlib import Path

from callbacks.refresh_schedule import parse_refresh
from callbacks.stop_on_indicators import Action
from datamodules.answer_matching import AnswerMatch
from datamodules.prompts import MAX_QUESTION_TOKENS, MAX_TITLE_TOKENS, Context, PassageOrder, TokenScope
from datamodules.sources import QuestionSource
from experiments.baseline import read_baseline
from experiments.build import hardware
from experiments.config import ConfigError, ExperimentConfig, trains
from experiments.monitors import check_monitors, monitors_of
from lightning_modules.attention_heads import AttentionHeads
from lightning_modules.metrics.indicators import AttentionNormalization
from lightning_modules.objectives import Constants, Objective
from lightning_modules.optimization import LearningRateDecay
from lightning_modules.readers.reader import ReaderFamily, TokenEmbeddings
from lightning_modules.scores import AttentionDistribution, PassageScore
from lightning_modules.token_drops import TokenDrops

_CHOICES = {
    "data.source": QuestionSource,
    "reader.family": ReaderFamily,
    "reader.context": Context,
    "reader.token_scope": TokenScope,
    "reader.passage_order": PassageOrder,
    "objective.name": Objective,
    "objective.passage_score": PassageScore,
    "objective.attention_distribution": AttentionDistribution,
    "objective.constants": Constants,
    "training.decay": LearningRateDecay,
    "stopping.action": Action,
    "evaluation.answer_match": AnswerMatch,
    "evaluation.attention_normalization": AttentionNormalization,
    "evaluation.token_embeddings": TokenEmbeddings,
    "evaluation.token_drops": TokenDrops,
}

_AT_LEAST_ONE = (
    "data.batch_size",
    "data.evaluation_batch_size",
    "reader.max_new_tokens",
    "training.num_passages",
    "trainer.accumulate",
    "trainer.devices",
    "trainer.validate_every_steps",
    "trainer.checkpoint_every_steps",
    "trainer.log_every_steps",
    "index.batch_size",
    "stopping.patience",
)

_TEMPLATE_AND_TEXT_TOKENS = 32
"""At least what the words of a prompt's template take, with some text of the passage."""

_POSITIVE = (
    "objective.attention_temperature",
    "objective.reader_temperature",
    "objective.retrieval_temperature",
)

_FAVOURS_SHORT = (PassageScore.MEAN, PassageScore.FIRST)
"""Both divide by the tokens of a passage."""

_SHARES = ("collapse.hit_rate_drop", "collapse.effective_rank_ratio", "collapse.duplicate_rise")


def check_config(config: ExperimentConfig) -> None:
    """Refuses settings that no run can have.

    Raises:
        ConfigError: names the key and what it may be.
    """
    for key, choices in _CHOICES.items():
        value = _value(config, key)
        known = [member.value for member in choices]
        if value not in known:
            raise ConfigError(f"{key}={value!r} is unknown; choose one of: {', '.join(known)}")
    for key in _AT_LEAST_ONE:
        if _value(config, key) < 1:
            raise ConfigError(f"{key}={_value(config, key)} must be at least 1")
    for key in _POSITIVE:
        if not _value(config, key) > 0:
            raise ConfigError(f"{key}={_value(config, key)} must be above 0")
    if any(k < 1 for k in config.evaluation.hit_rate_ks) or not config.evaluation.hit_rate_ks:
        raise ConfigError(f"evaluation.hit_rate_ks={config.evaluation.hit_rate_ks} must be numbers from 1 on")
    if config.objective.name == Objective.LOOP and config.training.num_passages < 2:
        raise ConfigError(
            "objective.name=loop leaves one passage out: training.num_passages must be at least 2"
        )
    _check_rooms(config)
    _check_switches(config)
    try:
        parse_refresh(config.index.refresh)
    except ValueError as error:
        raise ConfigError(f"index.refresh: {error}") from error
    every_steps = config.index.staleness_every_steps
    if every_steps is not None and every_steps < 1:
        raise ConfigError(
            f"index.staleness_every_steps={every_steps} must be at least 1, or null = at validations only"
        )
    if config.evaluation.token_view_questions < 0:
        raise ConfigError(
            f"evaluation.token_view_questions={config.evaluation.token_view_questions} must be at least 0"
        )
    for key in _SHARES:
        if not 0 <= _value(config, key) <= 1:
            raise ConfigError(f"{key}={_value(config, key)} must be between 0 and 1")
    if config.stopping.enabled and trains(config):
        _check_stopping(config)
    if config.reader.attention_heads is not None:
        _check_attention_heads(config)
    hardware(config)


def doubts_about(config: ExperimentConfig) -> list[str]:
    """What a run may do but hardly should, a sentence each."""
    score = config.objective.passage_score
    learns_from_attention = config.objective.name == Objective.ADIST and config.training.train_retriever
    if not (trains(config) and learns_from_attention and score in _FAVOURS_SHORT):
        return []
    return [
        f"objective.passage_score={score} divides attention by the passage's length and so teaches the "
        "retriever to prefer short passages, most of all with reader.context=independent: with mean, 40 "
        "steps took quickstart's Hit Rate@5 from 0.550 to 0.143; python -m experiments.probe shows how much "
        "a teacher follows length, and objective.passage_score=sum is the paper's"
    ]


def _check_attention_heads(config: ExperimentConfig) -> None:
    try:
        AttentionHeads.parse(str(config.reader.attention_heads))
    except ValueError as error:
        raise ConfigError(f"reader.attention_heads: {error}") from error
    if config.objective.name != Objective.ADIST:
        raise ConfigError(
            "reader.attention_heads says whose attention teaches, but "
            f"objective.name={config.objective.name} looks at no attention; set objective.name=adist or "
            "reader.attention_heads=null"
        )


def _check_rooms(config: ExperimentConfig) -> None:
    """Enough room for passages in the prompts, and for the best ones among those that are re-ranked."""
    reader, num_passages = config.reader, config.training.num_passages
    num_questions = 1.0
    if reader.context == Context.CONCATENATED and reader.family != ReaderFamily.FUSION_IN_DECODER:
        num_questions = max(num_questions, 2 / num_passages)  # a prompt asks first and last
    needed = math.ceil(num_questions * MAX_QUESTION_TOKENS) + MAX_TITLE_TOKENS + _TEMPLATE_AND_TEXT_TOKENS
    if reader.max_tokens_per_passage < needed:
        raise ConfigError(
            f"reader.max_tokens_per_passage={reader.max_tokens_per_passage} leaves a passage no room beside "
            f"a long question and title; it must be at least {needed}"
        )
    largest = max(num_passages, *config.evaluation.hit_rate_ks)
    rerank_from = config.retriever.rerank_from
    if rerank_from is not None and rerank_from < largest:
        raise ConfigError(
            f"retriever.rerank_from={rerank_from} must be at least {largest}, the largest of "
            "training.num_passages and evaluation.hit_rate_ks: the passages are chosen from so many"
        )


def _check_switches(config: ExperimentConfig) -> None:
    """Measuring a part by itself is for runs that train nothing."""
    wanted = [name for name in ("closed_book", "retrieve_only") if getattr(config.evaluation, name)]
    if len(wanted) == 2:
        raise ConfigError(
            "evaluation.closed_book leaves retrieval out and evaluation.retrieve_only all else; choose one"
        )
    if wanted and trains(config):
        raise ConfigError(
            f"evaluation.{wanted[0]}=true measures a part by itself, but training needs both; set "
            "trainer.max_steps=0"
        )


def _check_stopping(config: ExperimentConfig) -> None:
    settings, training = config.stopping, config.training
    check_monitors(config)
    if not settings.margin >= 0:
        raise ConfigError(f"stopping.margin={settings.margin} must not be negative")
    if settings.num_validations is not None and settings.num_validations < 1:
        raise ConfigError(f"stopping.num_validations={settings.num_validations} must be at least 1")
    if not 0 < settings.false_stop_rate < 0.5:
        raise ConfigError(f"stopping.false_stop_rate={settings.false_stop_rate} must be between 0 and 0.5")
    if settings.action == Action.READER_FIRST and not (training.train_reader and training.train_retriever):
        raise ConfigError(
            "stopping.action=reader_first needs a run that trains both models; set "
            "training.train_reader=true and training.train_retriever=true, or another action"
        )
    if settings.action == Action.FREEZE_RETRIEVER and not training.train_retriever:
        raise ConfigError(
            "stopping.action=freeze_retriever needs a run that trains the retriever; set "
            "training.train_retriever=true or stopping.action=stop"
        )
    if settings.action != Action.STOP and config.trainer.devices > 1:
        # DistributedDataParallel waits for the gradients of all that it was told to train
        raise ConfigError(
            f"stopping.action={settings.action} needs trainer.devices=1; on several devices only stop works"
        )
    if settings.baseline is not None:
        read_baseline(Path(settings.baseline), monitors_of(config))


def _value(config: ExperimentConfig, key: str) -> float:
    value: object = config
    for part in key.split("."):
        value = getattr(value, part)
    return value  # type: ignore[return-value]
