"""What can be wrong with a configuration, found before anything is loaded or written."""

import math

from callbacks.refresh_schedule import RefreshSchedule
from datamodules.answer_matching import AnswerMatch
from datamodules.prompts import MAX_QUESTION_TOKENS, MAX_TITLE_TOKENS, Context, PassageOrder, TokenScope
from experiments.build import hardware, trains
from experiments.config import ConfigError, ExperimentConfig
from lightning_modules.metrics.indicators import AttentionNormalization
from lightning_modules.objectives import Constants, Objective
from lightning_modules.optimization import LearningRateDecay
from lightning_modules.readers.reader import ReaderFamily, TokenEmbeddings
from lightning_modules.scores import AttentionDistribution, PassageScore

_CHOICES = {
    "reader.family": ReaderFamily,
    "reader.context": Context,
    "reader.token_scope": TokenScope,
    "reader.passage_order": PassageOrder,
    "objective.name": Objective,
    "objective.passage_score": PassageScore,
    "objective.attention_distribution": AttentionDistribution,
    "objective.constants": Constants,
    "training.decay": LearningRateDecay,
    "evaluation.answer_match": AnswerMatch,
    "evaluation.attention_normalization": AttentionNormalization,
    "evaluation.token_embeddings": TokenEmbeddings,
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
)

_TEMPLATE_AND_TEXT_TOKENS = 32
"""At least what the words of a prompt's template take, with some text of the passage."""

_POSITIVE = ("objective.attention_temperature", "objective.retrieval_temperature")


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
        RefreshSchedule(config.index.refresh)
    except ValueError as error:
        raise ConfigError(f"index.refresh: {error}") from error
    hardware(config)


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
    """Measuring a part by itself is for runs that train nothing; each process has something to read."""
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
    for key in ("evaluation.num_read", "evaluation.num_read_test"):
        # a process that reads nothing has nothing to log, and the others would wait for it
        if _value(config, key) is not None and 0 < _value(config, key) < config.trainer.devices:
            raise ConfigError(f"{key}={_value(config, key)} must be 0 or at least trainer.devices")


def _value(config: ExperimentConfig, key: str) -> float:
    value: object = config
    for part in key.split("."):
        value = getattr(value, part)
    return value  # type: ignore[return-value]
