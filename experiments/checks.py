"""What can be wrong with a configuration, found before anything is loaded or written."""

import json
import math
from collections.abc import Sequence
from dataclasses import Field, fields
from pathlib import Path
from typing import Any, get_args

from callbacks.read_start_candidates import START_CANDIDATES
from callbacks.stop_on_indicators import READER_MONITORS, Action
from datamodules.prompts import MAX_QUESTION_TOKENS, MAX_TITLE_TOKENS, Context
from experiments.build import hardware
from experiments.config import SETTING, ConfigError, ExperimentConfig, Setting, all_fields, trains
from lightning_modules.metrics.measures import RETRIEVAL_HIT, all_measures
from lightning_modules.metrics.paired_change import MIN_PAIRS
from lightning_modules.metrics.question_values import QuestionValues
from lightning_modules.objectives import OBJECTIVES
from lightning_modules.readers.fusion_in_decoder import FusionInDecoderReader

_TEMPLATE_AND_TEXT_TOKENS = 32
"""At least what the words of a prompt's template take, with some text of the passage."""

_FAVOUR_SHORT = ("mean", "first")
"""Passage scores that divide by the tokens of a passage."""


def check_config(config: ExperimentConfig) -> None:
    """Refuses settings that no run can have.

    Raises:
        ConfigError: names the key and what it may be.
    """
    for key, item in all_fields():
        if SETTING in item.metadata:
            _check_setting(key, item, value_of(config, key))
    _check_objective(config)
    _check_rooms(config)
    _check_switches(config)
    if config.stopping.enabled and trains(config):
        _check_stopping(config)
    hardware(config)


def value_of(config: ExperimentConfig, key: str) -> Any:
    """The value of a key such as `trainer.max_steps`."""
    value: Any = config
    for part in key.split("."):
        value = getattr(value, part)
    return value


# ---- each setting by itself ----


def _check_setting(key: str, item: Field[Any], value: Any) -> None:
    """Its choices, bounds and form."""
    if value is None:  # where the type does not say so, loading has refused it
        return
    setting: Setting = item.metadata[SETTING]
    if setting.choices is not None:
        known = setting.choices()
        if value not in known:
            raise ConfigError(f"{key}={value!r} is unknown; choose one of: {', '.join(known)}")
    if not _is_within(setting, value):
        or_null = ", or null" if type(None) in get_args(item.type) else ""
        raise ConfigError(f"{key}={value} must be {_bounds(setting, value)}{or_null}")
    if setting.parse is not None:
        try:
            setting.parse(value)
        except ValueError as error:
            raise ConfigError(f"{key}: {error}") from error


def _is_within(setting: Setting, value: Any) -> bool:
    """Whether a number, or each of a list of at least one number, is finite and within bounds."""
    if isinstance(value, list):
        return not setting.is_bounded or (len(value) > 0 and all(_is_within(setting, item) for item in value))
    if isinstance(value, float) and not math.isfinite(value):
        return False
    return (
        (setting.at_least is None or value >= setting.at_least)
        and (setting.above is None or value > setting.above)
        and (setting.at_most is None or value <= setting.at_most)
        and (setting.below is None or value < setting.below)
    )


def _bounds(setting: Setting, value: Any) -> str:
    """What a value may be, in words."""
    if setting.at_least is not None and setting.at_most is not None:
        text = f"between {setting.at_least} and {setting.at_most}"
    elif setting.above is not None and setting.below is not None:
        text = f"between {setting.above} and {setting.below}, both excluded"
    else:
        bounds = {
            "at least": setting.at_least,
            "above": setting.above,
            "at most": setting.at_most,
            "below": setting.below,
        }
        text = " and ".join(f"{words} {bound}" for words, bound in bounds.items() if bound is not None)
    if isinstance(value, list):
        return f"one or more numbers, each {text}"
    if isinstance(value, float) and not math.isfinite(value):
        return f"{text}, and finite" if text else "finite"
    return text


# ---- what relates several settings ----


def doubts_about(config: ExperimentConfig) -> list[str]:
    """What a run may do but hardly should, a sentence each."""
    score = config.objective.passage_score
    takes_score = "passage_score" in {field.name for field in fields(OBJECTIVES[config.objective.name])}
    teaches = trains(config) and config.training.train_retriever
    if not (teaches and takes_score and score in _FAVOUR_SHORT):
        return []
    return [
        f"objective.passage_score={score} divides attention by the passage's length and so teaches the "
        "retriever to prefer short passages, most of all with reader.context=independent: with mean, 40 "
        "steps took quickstart's Hit Rate@5 from 0.550 to 0.143; python -m experiments.probe shows how much "
        "a teacher follows length, and objective.passage_score=sum is the paper's"
    ]


def monitors_of(config: ExperimentConfig) -> tuple[str, ...]:
    """`stopping.monitors`, or where it is null what can become worse in the run.

    A frozen reader cannot, and the Hit Rate of a fixed retriever cannot change.
    """
    if config.stopping.monitors is not None:
        return tuple(config.stopping.monitors)
    of_reader = READER_MONITORS if config.training.train_reader else ()
    return (*of_reader, RETRIEVAL_HIT.name) if config.training.train_retriever else of_reader


def _check_objective(config: ExperimentConfig) -> None:
    """The objective has passages enough, and attention heads are chosen only where attention teaches."""
    name, num_passages = config.objective.name, config.training.num_passages
    objective = OBJECTIVES[name]
    if num_passages < objective.fewest_passages:
        raise ConfigError(
            f"objective.name={name} compares passages: training.num_passages must be at least "
            f"{objective.fewest_passages}"
        )
    if config.reader.attention_heads is not None and not objective.uses_attention:
        attentive = " or ".join(known for known, other in OBJECTIVES.items() if other.uses_attention)
        raise ConfigError(
            "reader.attention_heads says whose attention teaches, but "
            f"objective.name={name} looks at no attention; set objective.name={attentive} or "
            "reader.attention_heads=null"
        )


def _check_rooms(config: ExperimentConfig) -> None:
    """Enough room for passages in the prompts, and for the best ones among those that are re-ranked."""
    reader, num_passages = config.reader, config.training.num_passages
    num_questions = 1.0
    if reader.context == Context.CONCATENATED and reader.family != FusionInDecoderReader.family:
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
    _check_monitors(config)
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


def _check_monitors(config: ExperimentConfig) -> None:
    """Refuses no monitors at all, and those of a reader that is not trained."""
    monitors = monitors_of(config)
    if not monitors:
        raise ConfigError("stopping.monitors is empty: name metrics, or set stopping.enabled=false")
    evaluation = config.evaluation
    measures = all_measures(evaluation.percentiles, evaluation.hit_rate_ks)
    of_reader = {measure.name for measure in measures if measure.of_read is not None}
    watched = [name for name in monitors if name.removeprefix(START_CANDIDATES) in of_reader]
    if watched and not config.training.train_reader:
        raise ConfigError(
            f"stopping.monitors names {watched[0]}, but the reader is frozen (training.train_reader=false) "
            "and cannot become a worse teacher: that metric follows what the retriever finds, and falls as "
            "it gets better; use stopping.monitors=[retrieval/hit], or null for the default"
        )


# ---- a baseline for stopping ----


def read_baseline(path: Path, monitors: Sequence[str]) -> QuestionValues:
    """The `instances` of a probe, or of an earlier run's `start.json`.

    What a probe measured was measured on the start's passages: its `teacher/auc` also is the
    `start_candidates/teacher/auc` of a run.

    Raises:
        ConfigError: no such file, not of this form, or without enough values of a monitor.
    """
    try:
        instances = QuestionValues.from_json(json.loads(path.read_text())["instances"])
        is_whole = all(len(values) == len(instances.question_ids) for values in instances.values.values())
    except OSError as error:
        raise ConfigError(f"stopping.baseline: cannot read {path} ({error.strerror})") from error
    except (ValueError, KeyError, TypeError, AttributeError):
        is_whole = False
    if not is_whole:
        raise ConfigError(
            f"stopping.baseline: {path} does not hold instances (question_ids, and values with a number or "
            "null for each); give a probe's JSON, or the start.json of a run that trained"
        )
    for name in monitors:
        if name not in instances.values and name.removeprefix(START_CANDIDATES) in instances.values:
            instances.values[name] = instances.values[name.removeprefix(START_CANDIDATES)]
        count = sum(not math.isnan(value) for value in instances.values.get(name, []))
        if count < MIN_PAIRS:
            raise ConfigError(
                f"stopping.baseline: {path} has {name} of {count} questions, at least {MIN_PAIRS} are "
                "needed; read more questions for it, or leave the metric out of stopping.monitors"
            )
    return instances


def check_overlap(path: Path, baseline: QuestionValues, measured: QuestionValues) -> None:
    """Refuses a baseline of other questions than the run's validations read.

    Raises:
        ConfigError: fewer than `MIN_PAIRS` questions are in both.
    """
    num_shared = len(set(baseline.question_ids) & set(measured.question_ids))
    if num_shared < MIN_PAIRS:
        raise ConfigError(
            f"stopping.baseline: only {num_shared} of the questions in {path} are among those that this "
            f"run's validations read, at least {MIN_PAIRS} are needed; take it from the same validation "
            "questions, read more of them (evaluation.num_read), or set stopping.baseline=null"
        )
