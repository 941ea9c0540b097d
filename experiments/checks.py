"""What can be wrong with a configuration, found before anything is loaded or written."""

import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import fields
from importlib import metadata
from pathlib import Path
from typing import Any, assert_never

from callbacks.decisions import Action
from callbacks.read_start_candidates import START_CANDIDATES
from callbacks.stop_on_indicators import READER_MONITORS
from callbacks.threshold import Rule, Threshold, paper_thresholds
from datamodules.passage_index import EXACT, FAISS_PACKAGES, require_faiss, why_not_on_gpu
from datamodules.prompts import MAX_QUESTION_TOKENS, MAX_TITLE_TOKENS, Context
from datamodules.questions import HELD_OUT
from datamodules.sealed_files import DamagedFileError, read_json
from datamodules.vital import VITAL
from experiments.build import hardware, searches_on_gpu, trains_reader_weights
from experiments.config import (
    FSDP,
    PAPER_SCALE,
    SCALES_LOSS,
    ConfigError,
    DataConfig,
    ExperimentConfig,
    naming,
    num_examples,
    read_config,
    trains,
    trains_retriever,
)
from experiments.data_files import question_origin
from experiments.each_setting import check_each_setting, value_of
from experiments.models import model_name, models_without_commit
from experiments.processes import num_processes
from experiments.runs import RunFolder
from lightning_modules.adapters import check_peft_is_there
from lightning_modules.metrics.measures import RETRIEVAL_HIT, Measure, all_measures
from lightning_modules.metrics.paired_change import MIN_PAIRS
from lightning_modules.metrics.question_values import QuestionValues
from lightning_modules.objectives import OBJECTIVES
from lightning_modules.objectives.base import Cost, check_prompt_total
from lightning_modules.readers.fusion_in_decoder import FusionInDecoderReader
from lightning_modules.token_drops import TokenDrops

_TEMPLATE_AND_TEXT_TOKENS = 32
"""At least what the words of a prompt's template take, with some text of the passage."""

PROBE = "probe"
"""What a probe's JSON says it is."""

_FAVOUR_SHORT = ("mean", "first")
"""Passage scores that divide by the tokens of a passage."""


def check_config(config: ExperimentConfig) -> None:
    """Refuses settings that no run can have, and hardware that is not here.

    Raises:
        ConfigError: names the key and what it may be.
        MissingFaissError: there is no FAISS to search with.
    """
    check_settings(config)
    if not searches_on_gpu(config):  # else an exact index needs torch alone, and another has asked for it
        require_faiss()


def check_settings(config: ExperimentConfig) -> None:
    """Refuses settings that no run can have, on whatever machine.

    Raises:
        ConfigError: names the key and what it may be.
    """
    check_each_setting(config)
    _check_objective(config)
    _check_rooms(config)
    _check_examples(config)
    _check_switches(config)
    _check_reader_training(config)
    _check_sharding(config)
    check_auto_batch(config)
    if config.stopping.enabled and trains(config):
        _check_stopping(config)


# ---- what relates several settings ----


def doubts_about(config: ExperimentConfig) -> list[str]:
    """What a run may do but hardly should, a sentence each."""
    return [
        *_doubts_about_data(config),
        *_doubts_about_models(config),
        *_doubts_about_heads(config),
        *_doubts_about_processes(config),
        *_doubts_about_faiss(config),
        *_doubts_about_length(config),
        *_doubts_about_rule(config),
    ]


def _doubts_about_data(config: ExperimentConfig) -> list[str]:
    """Questions of one's own over the embedded passages, or the other way round."""
    data = config.data
    named = {f"data.{key}": getattr(data, key) for key in ("train", "validation", "test", "passages")}
    embedded = " and ".join(key for key, name in named.items() if name == VITAL)
    own = " and ".join(f"{key}={name}" for key, name in named.items() if name not in (VITAL, HELD_OUT))
    if not (embedded and own):
        return []
    return [f"{embedded} is the embedded Vital QA (the default) beside {own}: do they belong together?"]


def _doubts_about_models(config: ExperimentConfig) -> list[str]:
    """Numbers that stand beside the paper's are of models that stay what they are."""
    if config.scale != PAPER_SCALE:
        return []
    return [
        f"{what}.name={model_name(config, what)} names no commit: it is the newest one at its first "
        "download, and another machine may get another; summary.json says which it was, and "
        f"{what}.name=OWNER/NAME@COMMIT keeps it"
        for what in models_without_commit(config)
    ]


def _doubts_about_heads(config: ExperimentConfig) -> list[str]:
    """Heads are chosen, and what else the reader says of the passages teaches."""
    name, heads = config.objective.name, config.reader.attention_heads
    objective = OBJECTIVES[name]
    if heads is None or objective.uses_attention or not objective.uses_reader:
        return []
    attentive = " or ".join(known for known, other in OBJECTIVES.items() if other.uses_attention)
    return [
        f"reader.attention_heads={heads} says only whose attention the indicators measure: "
        f"objective.name={name} looks at no attention ({attentive} do)"
    ]


def _doubts_about_processes(config: ExperimentConfig) -> list[str]:
    """More processes on a machine than it has cores."""
    cores, devices = os.cpu_count() or 1, config.trainer.devices
    if hardware(config)["accelerator"] != "cpu" or devices <= cores:
        return []
    return [
        f"trainer.devices={devices} starts {devices} processes, and this machine has {cores} cores: they "
        f"will wait for each other; trainer.devices={cores} is the most that can help"
    ]


def _doubts_about_faiss(config: ExperimentConfig) -> list[str]:
    """Two builds where there should be one, and searches on the CPU beside an idle GPU."""
    doubts = []
    if all(_is_installed(package) for package in FAISS_PACKAGES):
        doubts.append(
            f"{' and '.join(FAISS_PACKAGES)} are both installed, and whichever came second has overwritten "
            f"the other: pip uninstall {' '.join(FAISS_PACKAGES)}, then pip install -e '.[cpu]' or '.[gpu]'"
        )
    is_left_open = config.index.gpu is None and hardware(config)["accelerator"] == "gpu"
    if is_left_open and not searches_on_gpu(config):
        doubts.append(
            f"the searches of index.factory={config.index.factory} are on the CPU, though there is a GPU: "
            f"{why_not_on_gpu()}; index.factory={EXACT} is searched there by torch, and index.gpu=false "
            "means the CPU"
        )
    return doubts


def _is_installed(package: str) -> bool:
    return bool(list(metadata.distributions(name=package)))


def _doubts_about_length(config: ExperimentConfig) -> list[str]:
    score = config.objective.passage_score
    takes_score = "passage_score" in {field.name for field in fields(OBJECTIVES[config.objective.name])}
    if not (trains_retriever(config) and takes_score and score in _FAVOUR_SHORT):
        return []
    return [
        f"objective.passage_score={score} divides attention by the passage's length and so teaches the "
        "retriever to prefer short passages, most of all with reader.context=independent: with mean, 40 "
        "steps took slice_vital's Hit Rate@5 from 0.550 to 0.143; python -m experiments.probe shows how much "
        "a teacher follows length, and objective.passage_score=sum is the paper's"
    ]


def _doubts_about_rule(config: ExperimentConfig) -> list[str]:
    """What the paper's tables say of the paper's rules (`experiments/benchmarks/paper_rules.py`)."""
    stopping = config.stopping
    if not (trains(config) and stopping.enabled and stopping.rule == Rule.PAPER):
        return []
    at_p95 = (
        "at p95 Indicator 2's Spearman ends at 0.225 in the best NQ run, below 0.3 and below the 0.260 of a "
        "ruined run (evaluation.percentiles=[90] leaves p95 out); "
        if 95 in config.evaluation.percentiles
        else ""
    )
    return [
        f"stopping.rule=paper: the paper's own tables contradict its rules: {at_p95}Indicator 2's attention "
        "fell in the best NQ run, and every initial checkpoint begins below a Spearman of 0.3; means are "
        "compared without regard to noise; python -m experiments.benchmarks.paper_rules prints all of it, "
        "and stopping.rule=paired compares question by question"
    ]


def monitors_of(config: ExperimentConfig) -> tuple[str, ...]:
    """`stopping.monitors`, or where it is null what can become worse in the run; none with `rule=paper`.

    A frozen reader cannot, and the Hit Rate of a fixed retriever cannot change.
    """
    if config.stopping.rule == Rule.PAPER:
        return ()
    if config.stopping.monitors is not None:
        return tuple(config.stopping.monitors)
    of_reader = READER_MONITORS if config.training.train_reader else ()
    return (*of_reader, RETRIEVAL_HIT.name) if config.training.train_retriever else of_reader


def thresholds_of(config: ExperimentConfig) -> tuple[Threshold, ...]:
    """The paper's, with `stopping.rule=paper`, and `stopping.thresholds`, in the order in which they act.

    Those that name no patience or action have that of `stopping`.
    """
    settings = config.stopping
    patience, action = settings.patience, settings.action
    own = [Threshold.parse(text, patience, action) for text in settings.thresholds]
    match Rule(settings.rule):
        case Rule.PAIRED:
            thresholds = own
        case Rule.PAPER:
            thresholds = [*paper_thresholds(config.evaluation.percentiles, patience, action), *own]
        case never:
            assert_never(never)
    return tuple(dict.fromkeys(thresholds))


def _check_objective(config: ExperimentConfig) -> None:
    """The objective has the passages that it needs and no others."""
    name, num_passages = config.objective.name, config.training.num_passages
    objective = OBJECTIVES[name]
    if num_passages < objective.fewest_passages:
        raise ConfigError(
            f"objective.name={name} compares passages: training.num_passages must be at least "
            f"{objective.fewest_passages}"
        )
    _check_scores(config)
    if config.objective.in_batch and not objective.takes_others and config.objective.scores_from is None:
        raise ConfigError(
            "objective.in_batch=true puts other questions' passages beside a question's own, and "
            f"objective.name={name} is about its own alone; set objective.in_batch=false, or take another "
            "objective"
        )
    check_token_scores(config)


def check_token_scores(config: ExperimentConfig) -> None:
    """The whole prompt has scores where its sum is asked for.

    Raises:
        ConfigError: passages' tokens alone are scored.
    """
    evaluation = config.evaluation
    try:
        with naming("evaluation"):
            check_prompt_total(
                OBJECTIVES[config.objective.name], evaluation.attention_normalization, evaluation.token_drops
            )
    except ValueError as error:
        raise ConfigError(str(error)) from error


def _check_scores(config: ExperimentConfig) -> None:
    """Nothing else needs the reader whose place scores from a file take."""
    if config.objective.scores_from is None:
        return
    for key in ("training.train_reader", "evaluation.closed_book"):
        if value_of(config, key):
            raise ConfigError(
                f"{key}=true needs the reader, whose place objective.scores_from takes; set one of them to "
                "false or null"
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
    part = config.index.validation_passages
    if part is not None and part < largest:
        raise ConfigError(
            f"index.validation_passages={part} must be at least {largest}, the largest of "
            "training.num_passages and evaluation.hit_rate_ks: validations find so many among them"
        )


def _check_reader_training(config: ExperimentConfig) -> None:
    """Weights that are trained have bits enough; a frozen reader has no settings of training."""
    reader = config.reader
    is_short = reader.dtype not in ("auto", "float32")
    if is_short and trains(config) and trains_reader_weights(config):
        raise ConfigError(
            f"reader.dtype={reader.dtype} is for frozen weights: small updates are lost in so few bits; set "
            "reader.dtype=float32 (trainer.precision still speeds up its passes), reader.lora_rank=16 to "
            "train LoRA matrices beside frozen weights, or training.train_reader=false"
        )
    if reader.lora_alpha is not None and reader.lora_rank is None:
        raise ConfigError(
            f"reader.lora_alpha={reader.lora_alpha:g} scales LoRA matrices, and there are none; set "
            "reader.lora_rank to a number such as 16, or reader.lora_alpha=null"
        )
    if config.training.train_reader:
        if reader.lora_rank is not None:
            with naming("reader"):
                check_peft_is_there()
        return
    if reader.lora_rank is not None:
        raise ConfigError(
            f"reader.lora_rank={reader.lora_rank} is how a reader is trained, and this one is frozen; set "
            "training.train_reader=true, or reader.lora_rank=null"
        )
    if reader.gradient_checkpointing:
        raise ConfigError(
            "reader.gradient_checkpointing=true saves memory where a reader is trained, and this one is "
            "frozen; set training.train_reader=true, or reader.gradient_checkpointing=false"
        )


def _check_sharding(config: ExperimentConfig) -> None:
    """Several processes share a reader that is only read with."""
    if config.trainer.strategy != FSDP:
        return
    otherwise = "or trainer.strategy=ddp, which keeps the whole reader on each device"
    objective, drops = config.objective.name, TokenDrops(config.evaluation.token_drops)
    refusals = {
        "it is one process": (num_processes(config) == 1, f"set trainer.devices to more than 1, {otherwise}"),
        "a reader that is trained cannot be": (
            config.training.train_reader,
            f"set training.train_reader=false, {otherwise}: reader.lora_rank, reader.dtype=bfloat16 and "
            "reader.gradient_checkpointing=true make training it smaller",
        ),
        f"objective.name={objective} needs a gradient through the reader": (
            OBJECTIVES[objective].cost is Cost.BACKWARD,
            f"take another objective, {otherwise}",
        ),
        f"evaluation.token_drops={drops} needs a gradient through the reader": (
            drops.needs_gradient,
            f"set evaluation.token_drops=masked, {otherwise}",
        ),
        f"reader.family={config.reader.family} cannot be": (
            config.reader.family == FusionInDecoderReader.family,
            f"take a decoder-only reader, {otherwise}",
        ),
        "a closed-book run cannot": (config.evaluation.closed_book, f"measure in one process, {otherwise}"),
    }
    for what, (is_so, way_out) in refusals.items():
        if is_so:
            raise ConfigError(
                f"trainer.strategy=fsdp shards a frozen reader over several processes, but {what}; {way_out}"
            )


def check_auto_batch(config: ExperimentConfig) -> None:
    """Refuses to compute a batch in parts where its questions have to do with each other.

    Raises:
        ConfigError: says which settings do so.
    """
    refusal = why_not_in_parts(config)
    if config.trainer.auto_batch and refusal is not None:
        raise ConfigError(f"trainer.auto_batch=true computes a batch in parts, but {refusal}")


def why_not_in_parts(config: ExperimentConfig) -> str | None:
    """Why a batch cannot be computed in parts, to the same result, and what to set; None = it can."""
    objective = config.objective
    if objective.in_batch and trains(config):
        return (
            "objective.in_batch=true compares all its questions; set retriever.num_at_once (such as 16), "
            "which saves memory there, or objective.in_batch=false"
        )
    if config.trainer.strategy == FSDP:
        return (
            "trainer.strategy=fsdp has all processes read together; set trainer.strategy=ddp, or a smaller "
            "data.batch_size with trainer.accumulate"
        )
    if config.trainer.precision == SCALES_LOSS and trains(config):
        return (
            f"trainer.precision={SCALES_LOSS} scales the loss of a whole batch, without which the gradients "
            "of parts become 0 where they are small; set trainer.precision=bf16-mixed (or 32-true)"
        )
    teaches = trains_retriever(config) and objective.scores_from is None
    if teaches and not OBJECTIVES[objective.name].averages_over_questions(objective.constants):
        return (
            f"objective.name={objective.name} with objective.constants={objective.constants} averages over "
            "the tokens of all its answers; set objective.constants=plain, or retriever.num_at_once (such as "
            "16), which saves memory too"
        )
    return None


def _check_examples(config: ExperimentConfig) -> None:
    """Solved examples are for decoder-only readers; what `auto` means is known when the reader is loaded."""
    reader = config.reader
    num_shown = num_examples(config)
    if num_shown and reader.family == FusionInDecoderReader.family:
        raise ConfigError(
            f"reader.num_examples={num_shown}: solved examples can be shown to decoder-only readers alone, "
            f"and reader.family={reader.family} encodes each passage by itself; set reader.num_examples=0"
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
    settings = config.stopping
    _check_monitors(config)
    _check_action(config, Action(settings.action), f"stopping.action={settings.action}")
    _check_thresholds(config)
    if settings.baseline is not None:
        read_baseline(Path(settings.baseline), monitors_of(config), config.data)


def _check_action(config: ExperimentConfig, action: Action, key: str) -> None:
    """Refuses an action that the run cannot take; `key` says where it was asked for."""
    training = config.training
    if action is Action.READER_FIRST and not (training.train_reader and training.train_retriever):
        raise ConfigError(
            f"{key} needs a run that trains both models; set training.train_reader=true and "
            "training.train_retriever=true, or another action"
        )
    if action is Action.FREEZE_RETRIEVER and not training.train_retriever:
        raise ConfigError(
            f"{key} needs a run that trains the retriever; set training.train_retriever=true, or the action "
            "stop"
        )
    if action is not Action.STOP and num_processes(config) > 1:
        # DistributedDataParallel waits for the gradients of all that it was told to train
        raise ConfigError(
            f"{key} needs trainer.devices=1 and trainer.num_nodes=1; on several devices only stop works"
        )


def _check_monitors(config: ExperimentConfig) -> None:
    """Refuses no monitors at all, and those of a reader that is not trained."""
    settings, monitors = config.stopping, monitors_of(config)
    if not monitors:
        for key in ("monitors", "target", "baseline"):
            if getattr(settings, key) not in (None, []):
                raise ConfigError(
                    f"stopping.{key} is for the comparison with the start, which this run does not make: set "
                    f"stopping.{key}=null, or stopping.rule=paired with monitors"
                )
        if not thresholds_of(config):
            raise ConfigError(
                "stopping.monitors is empty: name metrics, give stopping.thresholds, or set "
                "stopping.enabled=false"
            )
    watched = [name for name in monitors if _is_of_reader(name, config)]
    if watched and not config.training.train_reader:
        raise ConfigError(
            f"stopping.monitors names {watched[0]}, but the reader is frozen (training.train_reader=false) "
            "and cannot become a worse teacher: that metric follows what the retriever finds, and falls as "
            "it gets better; use stopping.monitors=[retrieval/hit], or null for the default"
        )


def _check_thresholds(config: ExperimentConfig) -> None:
    """Refuses bounds on a reader that is not trained, and actions that cannot be taken or cannot help."""
    for threshold in thresholds_of(config):
        key = f"stopping.thresholds: {str(threshold)!r}"
        if _is_of_reader(threshold.metric, config) and not config.training.train_reader:
            asked_by = "rule=paper" if config.stopping.rule == Rule.PAPER else "thresholds"
            raise ConfigError(
                f"stopping.{asked_by} names {threshold.metric}, but the reader is frozen "
                "(training.train_reader=false) and cannot become a worse teacher: that metric follows what "
                "the retriever finds, and falls as it gets better; bound that, such as 'validation/hr_at_5 "
                ">= start', and judge a frozen reader before the run: python -m experiments.probe"
            )
        _check_action(config, threshold.action, key)
        if threshold.action is Action.READER_FIRST and not _can_reader_change(threshold.metric, config):
            raise ConfigError(
                f"{key} waits for a metric of the retriever, which stays as it is while the reader is "
                "trained alone; write 'then stop' or 'then freeze_retriever'"
            )


def _is_of_reader(name: str, config: ExperimentConfig) -> bool:
    """Whether a metric is of questions that were read, whichever passages were read for them."""
    measured = name.removeprefix(START_CANDIDATES).removesuffix("_std")
    return any(measured == measure.name for measure in _measures(config) if measure.of_read is not None)


def _can_reader_change(name: str, config: ExperimentConfig) -> bool:
    """Whether a metric moves while the retriever stays as it is, as far as the table of measures knows."""
    of_retriever = {measure.in_validation for measure in _measures(config) if measure.of_retrieved}
    return name not in of_retriever and not name.startswith("embeddings/")


def _measures(config: ExperimentConfig) -> tuple[Measure, ...]:
    return all_measures(config.evaluation.percentiles, config.evaluation.hit_rate_ks)


# ---- a baseline for stopping ----


def read_baseline(path: Path, monitors: Sequence[str], data: DataConfig) -> QuestionValues:
    """The `instances` of a probe, or of an earlier run's `start.json`.

    What a probe measured was measured on the start's passages: its `teacher/auc` also is the
    `start_candidates/teacher/auc` of a run. A `start.json` is known by the configuration beside it; one that
    was copied away from its run is taken for what it is said to be.

    Args:
        path: of the file.
        monitors: metrics that are compared.
        data: of the run that compares.

    Raises:
        ConfigError: no such file, not of this form, of other questions than the run's validations, or without
            enough values of a monitor.
    """
    origin: tuple[str, ...] | None = None
    try:
        content = read_json(path)
        instances = QuestionValues.from_json(content["instances"])
        origin = _origin_of_probe(content) if content.get("kind") == PROBE else _origin_of_start(path)
        is_whole = all(len(values) == len(instances.question_ids) for values in instances.values.values())
    except OSError as error:
        raise ConfigError(f"stopping.baseline: cannot read {path} ({error.strerror})") from error
    except DamagedFileError as error:
        if isinstance(error.__cause__, OSError):
            raise ConfigError(f"stopping.baseline: {error}") from error
        is_whole = False
    except ConfigError as error:
        raise ConfigError(f"stopping.baseline: {error}") from error
    except (ValueError, KeyError, TypeError, AttributeError, OverflowError, RuntimeError):
        is_whole = False
    if not is_whole:
        raise ConfigError(
            f"stopping.baseline: {path} does not hold instances (question_ids, and values with a number or "
            "null for each); give a probe's JSON, or the start.json of a run that trained"
        )
    own = question_origin(data, "validation")
    if origin is not None and origin != own:
        raise ConfigError(
            f"stopping.baseline: {path} is of other questions ({', '.join(origin)}) than this run's "
            f"validations ({', '.join(own)}), and ids mean the same questions within one split only; take it "
            "from a probe with --split validation and this run's data settings, or set stopping.baseline=null"
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


def _origin_of_probe(content: Mapping[str, Any]) -> tuple[str, ...]:
    """Where the questions of a probe come from; of another split than `validation` that split's name too."""
    split, given = content["split"], content["config"]["data"]
    data = DataConfig(
        **{field.name: given[field.name] for field in fields(DataConfig) if field.name in given}
    )
    if split == "validation":
        return question_origin(data, split)
    # what is held out beside them does not matter: they are none of the validation questions
    return (str(split), str(getattr(data, split)))


def _origin_of_start(path: Path) -> tuple[str, ...] | None:
    """Where the validation questions of a run come from; None where the file lies in no run's folder."""
    config = RunFolder(path.parent).config
    return question_origin(read_config(config).data, "validation") if config.is_file() else None


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
