"""What can be wrong with a configuration, found before anything is loaded or written."""

from callbacks.refresh_schedule import RefreshSchedule
from datamodules.answer_matching import AnswerMatch
from datamodules.prompts import Context, PassageOrder, TokenScope
from experiments.build import hardware
from experiments.config import ConfigError, ExperimentConfig
from lightning_modules.attention_heads import AttentionHeads
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
    "reader.max_tokens_per_passage",
    "reader.max_new_tokens",
    "training.num_passages",
    "trainer.accumulate",
    "trainer.devices",
    "trainer.validate_every_steps",
    "trainer.checkpoint_every_steps",
    "trainer.log_every_steps",
    "index.batch_size",
)

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
    try:
        RefreshSchedule(config.index.refresh)
    except ValueError as error:
        raise ConfigError(f"index.refresh: {error}") from error
    if config.reader.attention_heads is not None:
        try:
            AttentionHeads.parse(config.reader.attention_heads)
        except ValueError as error:
            raise ConfigError(f"reader.attention_heads: {error}") from error
    hardware(config)


def _value(config: ExperimentConfig, key: str) -> float:
    value: object = config
    for part in key.split("."):
        value = getattr(value, part)
    return value  # type: ignore[return-value]
