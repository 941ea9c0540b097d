"""One run, from its configuration to its summary."""

import dataclasses
import logging
import time
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import lightning as L
import torch

from callbacks.alarm_on_collapse import CollapseError
from callbacks.checkpoint_files import load_sealed
from callbacks.refresh_schedule import RefreshSchedule, parse_refresh
from callbacks.skip_broken_batches import BrokenNumbersError
from callbacks.stop_on_interrupt import RunInterrupted
from callbacks.stop_on_thresholds import BOUND_TAG, did_you_mean
from datamodules.batches import SolvedExample
from datamodules.passage_index import UnusableEmbeddingsError
from datamodules.qa_datamodule import QuestionDataModule
from datamodules.sealed_files import DamagedFileError, checksums_of, write_json
from experiments.build import (
    build,
    build_datamodule,
    build_knowledge,
    build_reader,
    build_retriever,
    hardware,
    prepare_training,
    take_examples,
    why_nothing_is_kept,
)
from experiments.checks import check_overlap, monitors_of, read_baseline, thresholds_of
from experiments.config import (
    ConfigError,
    ExperimentConfig,
    has_reader,
    naming,
    num_examples,
    save_config,
    trains,
)
from experiments.data_files import provide_with_titles
from experiments.processes import ending_together, is_main_process, main_first
from experiments.runs import FAILED, RunFolder, starting_weights
from experiments.show.model_card import CARD, write_model_card
from experiments.start_file import read_start
from experiments.summary import BROKEN, COLLAPSE, make_summary
from experiments.trainer import RunCallbacks, make_callbacks, make_trainer
from lightning_modules import RetrieverReaderModule
from lightning_modules.attention_heads import AttentionHeads
from lightning_modules.closed_book import ClosedBookModule
from lightning_modules.head_lists import parse_heads
from lightning_modules.metrics.question_values import QuestionValues
from lightning_modules.processes import gather
from lightning_modules.retrieval import RetrievalModule

log = logging.getLogger(__name__)

_FRESHER = (
    "set index.refresh_before_validation=true, or index.refresh to steps at which validations are "
    "(trainer.validate_every_steps)"
)


def run_experiment(config: ExperimentConfig, run: RunFolder, began_s: float | None = None) -> dict[str, Any]:
    """Measures the start, trains, measures the best checkpoint on the test split, and writes the summary.

    A folder that holds a checkpoint goes on from there.

    Args:
        config: of the run.
        run: its folder.
        began_s: `time.perf_counter()` when the command began, whose imports count too; None = now.

    Returns:
        What `summary.json` holds.

    Raises:
        ValueError: a setting, a file or a model that cannot be used; nothing was trained.
        RunInterrupted: Ctrl-C; the summary says so.
    """
    started = time.perf_counter()
    began_s = started if began_s is None else began_s
    L.seed_everything(config.seed, verbose=False)
    trainer_hardware = hardware(config)
    sources = starting_weights(config)
    if config.evaluation.closed_book:
        return _run_closed_book(config, run, sources["reader"], began_s, started)
    with main_first():
        if not run.validation_passages.is_file():
            provide_with_titles(config)
        datamodule, module = build(config, run.path, sources)
    config = _with_heads_named(config, run, module)
    if trains(config):
        assert isinstance(module, RetrieverReaderModule), "nothing else is trained"
        prepare_training(config, module.reader)
    load_s = time.perf_counter() - started
    callbacks = make_callbacks(config, run)
    trainer = make_trainer(config, run, callbacks, trainer_hardware)
    with _noting_interrupts(config, run), ending_together(trainer, run.path):
        before, after, stopped, start = _measure_and_train(
            config, run, module, datamodule, trainer, callbacks, sources
        )
        read_once = _read_once(config, module, trainer)
    times_s = _times_s(began_s, started, load_s, module.timer.totals_s)
    checksums = _checksums(run, callbacks)
    summary = make_summary(
        config, before, after, stopped, callbacks, times_s, sources, checksums, start, read_once
    )
    if is_main_process() and run.retriever.is_dir():
        write_model_card(run, summary)  # first: a run with a summary is finished, and not gone on with
    _written(run, summary)
    if is_main_process() and summary["status"] != FAILED:
        run.tidy(
            None if callbacks.best is None else callbacks.best.path,
            None if callbacks.index is None else callbacks.index.own_folder,
        )
    return summary


def _checksums(run: RunFolder, callbacks: RunCallbacks) -> dict[str, str]:
    """Of what reports, and runs that start from this one, read: predictions, validations, trained models."""
    if not is_main_process():
        return {}
    models = [file for folder in (run.reader, run.retriever) for file in folder.rglob("*")]
    # the card is written again when it is published
    files = [file for file in (run.validations, *models) if file.is_file() and file != run.retriever / CARD]
    return {**callbacks.predictions.checksums, **checksums_of(run.path, files)}


def _read_once(
    config: ExperimentConfig, module: RetrievalModule, trainer: L.Trainer
) -> dict[str, int | str] | None:
    """How often the processes have read a pair since this one began, or why nothing is kept of a reader."""
    if not isinstance(module, RetrieverReaderModule) or module.reader is None:
        return None
    if module.read_once is None:
        reason = why_nothing_is_kept(config, module.reader)
        return None if reason is None else {"why_not": reason}
    of_each = gather(trainer, [(module.read_once.num_read, module.read_once.num_found)])
    num_read, num_found = map(sum, zip(*of_each, strict=True))
    return {"read": num_read, "found": num_found}


def _measure_and_train(
    config: ExperimentConfig,
    run: RunFolder,
    module: RetrievalModule,
    datamodule: QuestionDataModule,
    trainer: L.Trainer,
    callbacks: RunCallbacks,
    sources: Mapping[str, Path | None],
) -> tuple[dict[str, float], dict[str, float], str, dict[str, float] | None]:
    """Test metrics of the start and of the end, why it ended, and validation metrics of the start."""
    callbacks.predictions.path = run.predictions_start if trains(config) else run.predictions
    with naming("objective"):
        start = _measure_start(config, run, module, datamodule, trainer, callbacks)
    _keep_temperature(config, run, module)
    if not trains(config):
        return start["test"], start["test"], "nothing is trained", None
    _warn_of_stale_validations(config)
    stopped = _fit(config, run, module, datamodule, trainer, callbacks)
    _load_best(config, run, module, callbacks, sources, start["validation"], stopped)
    if callbacks.best is not None and callbacks.best.left_out_all:
        stopped += (
            "; no validation was on a fresh index, so no checkpoint could be chosen and the last weights are "
            f"kept: {_FRESHER}"
        )
    callbacks.predictions.path = run.predictions
    after = _test(config, module, datamodule, trainer)
    _export(config, run, module)
    if is_main_process() and not stopped.startswith((COLLAPSE, BROKEN)):
        # removed at the end of training, which a run that was killed after it does not come to again
        run.last_good_checkpoint.unlink(missing_ok=True)
    return start["test"], after, stopped, start["validation"]


def _with_heads_named(config: ExperimentConfig, run: RunFolder, module: RetrievalModule) -> ExperimentConfig:
    """The configuration with each head by its name, also in the run's folder, where a list was given.

    A list is of one reader; the run may train it, and what measures that reader later must know the heads.
    """
    text = config.reader.attention_heads
    if text is None or not has_reader(config) or not isinstance(module, RetrieverReaderModule):
        return config
    if isinstance(parse_heads(text), AttentionHeads):  # they are named already
        return config
    heads = str(module.reader.attention_heads)
    config = dataclasses.replace(config, reader=dataclasses.replace(config.reader, attention_heads=heads))
    if is_main_process():
        save_config(config, run.config, f"reader.attention_heads was given as {text}")
    return config


def _keep_temperature(config: ExperimentConfig, run: RunFolder, module: RetrievalModule) -> None:
    """Writes the temperature that was derived into the run's configuration, for all that is done later."""
    if config.objective.retrieval_temperature is not None or not isinstance(module, RetrieverReaderModule):
        return
    found = module.retrieval_temperature
    config = dataclasses.replace(
        config, objective=dataclasses.replace(config.objective, retrieval_temperature=found)
    )
    if is_main_process():
        save_config(config, run.config, "objective.retrieval_temperature was null")


def _run_closed_book(
    config: ExperimentConfig,
    run: RunFolder,
    source: Path | None,
    began_s: float,
    started: float,
) -> dict[str, Any]:
    """What the reader answers to the test questions by itself: no retriever, no passages, no index."""
    with main_first():
        datamodule = build_datamodule(config)
        examples: list[SolvedExample] = []
        if num_examples(config):  # those of a run with passages
            examples = take_examples(config, datamodule, build_knowledge(config, datamodule, run.path))
    reader = build_reader(config, source, examples)
    module = ClosedBookModule(reader, config.evaluation.num_read_test, config.reader.max_new_tokens)
    load_s = time.perf_counter() - started
    callbacks = make_callbacks(config, run)
    trainer = make_trainer(config, run, callbacks, hardware(config))
    with _noting_interrupts(config, run), ending_together(trainer, run.path):
        trainer.test(module, datamodule, verbose=False)
    measured = {name: float(value) for name, value in trainer.callback_metrics.items()}
    times_s = _times_s(began_s, started, load_s, module.timer.totals_s)
    sources = {"reader": source}
    checksums = _checksums(run, callbacks)
    nothing = "nothing is trained"
    summary = make_summary(config, measured, measured, nothing, callbacks, times_s, sources, checksums)
    return _written(run, summary)


def _times_s(began_s: float, started: float, load_s: float, parts_s: Mapping[str, float]) -> dict[str, float]:
    """Where the time since the command began has gone."""
    total_s = time.perf_counter() - began_s
    return {"imports": started - began_s, "load": load_s, **parts_s, "total": total_s}


def _written(run: RunFolder, summary: dict[str, Any]) -> dict[str, Any]:
    if is_main_process():
        write_json(run.summary, summary)
    return summary


@contextmanager
def _noting_interrupts(config: ExperimentConfig, run: RunFolder) -> Iterator[None]:
    """The summary of a run that is interrupted says so."""
    try:
        yield
    except RunInterrupted:
        _written(run, {"name": config.name, "status": "interrupted", "seed": config.seed})
        raise


def _measure_start(
    config: ExperimentConfig,
    run: RunFolder,
    module: RetrievalModule,
    datamodule: QuestionDataModule,
    trainer: L.Trainer,
    callbacks: RunCallbacks,
) -> dict[str, Any]:
    """What tests and validations measure of the starting checkpoint: what the end is compared with.

    The callbacks that decide while training are given the start that they compare with.
    """
    stopping, collapse, candidates = callbacks.stopping, callbacks.collapse, callbacks.start_candidates
    num_passages = len(module.knowledge_base)
    kept = read_start(config, run, None if callbacks.on_part is None else num_passages)
    if kept is not None:
        callbacks.predictions.checksums |= kept["predictions"]
        if trains(config):
            callbacks.validations.add(0, kept["validation"])
        if stopping is not None:
            stopping.baseline = QuestionValues.from_json(kept["instances"])
        if callbacks.thresholds is not None:
            callbacks.thresholds.start = kept["validation"]
        if collapse is not None:
            collapse.start = kept["collapse"]
        if candidates is not None:
            candidates.candidates = kept["candidates"]
        return kept
    baseline = None
    if stopping is not None and config.stopping.baseline is not None:
        baseline = stopping.baseline = read_baseline(
            Path(config.stopping.baseline), stopping.monitors, config.data
        )
    start: dict[str, Any] = {"test": _test(config, module, datamodule, trainer), "validation": {}}
    if trains(config):
        with module.evaluating(generate=config.evaluation.generate_in_validation):
            trainer.validate(module, datamodule, verbose=False)
        measured = trainer.callback_metrics
        start["validation"] = {name: float(value) for name, value in measured.items() if name != "step"}
        questions = callbacks.question_values()
        _check_monitors(config, start["validation"], questions.values)
        if baseline is not None:
            check_overlap(Path(str(config.stopping.baseline)), baseline, questions)
        start["instances"] = (questions if baseline is None else baseline).to_json()
        start["collapse"] = {} if collapse is None else collapse.start
        start["candidates"] = {} if candidates is None else candidates.candidates
    start["predictions"] = dict(callbacks.predictions.checksums)
    if is_main_process():
        write_json(run.start, start)
    return start


def _check_monitors(
    config: ExperimentConfig, metrics: Collection[str], question_metrics: Collection[str]
) -> None:
    """Refuses to watch what is not measured."""
    best = config.evaluation.monitor
    watched = [("evaluation.monitor", best, metrics)] if best is not None else []
    if config.stopping.enabled:
        watched += [("stopping.monitors", name, question_metrics) for name in monitors_of(config)]
        watched += [("stopping.thresholds", threshold.metric, metrics) for threshold in thresholds_of(config)]
    for key, monitor, measured in watched:
        if monitor not in measured:
            known = ", ".join(sorted(name for name in measured if not name.startswith(BOUND_TAG)))
            raise ConfigError(
                f"{key}={monitor!r} is not measured in validation{did_you_mean(monitor, measured)}; "
                f"choose one of: {known}"
            )


def _test(
    config: ExperimentConfig,
    module: RetrievalModule,
    datamodule: QuestionDataModule,
    trainer: L.Trainer,
) -> dict[str, float]:
    with module.evaluating(num_read=config.evaluation.num_read_test):
        trainer.test(module, datamodule, verbose=False)
    return {
        name: float(value) for name, value in trainer.callback_metrics.items() if name.startswith("test/")
    }


def _fit(
    config: ExperimentConfig,
    run: RunFolder,
    module: RetrievalModule,
    datamodule: QuestionDataModule,
    trainer: L.Trainer,
    callbacks: RunCallbacks,
) -> str:
    """Trains, and says why it ended."""
    checkpoint = run.last_checkpoint if run.last_checkpoint.is_file() else None
    # a run killed before its first checkpoint does not measure the start again
    L.seed_everything(config.seed, verbose=False)
    try:
        with (
            module.timer.part("training"),
            module.evaluating(generate=config.evaluation.generate_in_validation),
        ):
            trainer.fit(module, datamodule, ckpt_path=checkpoint, weights_only=True)
    except CollapseError as error:
        return f"{COLLAPSE}: {error}"
    except BrokenNumbersError as error:
        return f"{BROKEN}: {error}".replace("max_in_a_row", "trainer.max_skipped_in_a_row")
    # a retriever that has diverged is also seen where its embeddings are searched for or indexed
    except UnusableEmbeddingsError as error:
        if callbacks.collapse is None:
            raise
        return f"{BROKEN}: {error}"
    if callbacks.decided.reason is not None:
        return f"{callbacks.decided.reason}: {callbacks.decided.message}"
    return f"all {trainer.global_step} steps done"


def _warn_of_stale_validations(config: ExperimentConfig) -> None:
    """Says before the hours are spent that no validation will be comparable, where the schedule shows it."""
    if stales_all_validations(config):
        log.warning(
            "no validation of this run will be on a fresh index (index.refresh=%s, "
            "trainer.validate_every_steps=%d), so none is compared with the start: no checkpoint is chosen, "
            "and neither stopping nor the collapse alarm sees the Hit Rate; %s",
            config.index.refresh,
            config.trainer.validate_every_steps,
            _FRESHER,
        )


def stales_all_validations(config: ExperimentConfig) -> bool:
    """Whether the retriever moves away from its index, and no refresh comes at the step of a validation."""
    trained = config.training.train_retriever
    if not (trained and (config.retriever.tied or config.retriever.train_passage_encoder)):
        return False
    schedule = parse_refresh(config.index.refresh)
    if config.index.validation_passages is not None:  # encoded anew for each
        return False
    if config.index.refresh_before_validation or not isinstance(schedule, RefreshSchedule):
        return False
    every, last = config.trainer.validate_every_steps, config.trainer.max_steps
    validated = range(every, last + 1, every)
    return len(validated) > 0 and not any(schedule.is_due(step) for step in validated)


def _load_best(
    config: ExperimentConfig,
    run: RunFolder,
    module: RetrievalModule,
    callbacks: RunCallbacks,
    sources: Mapping[str, Path | None],
    start: Mapping[str, float],
    stopped: str,
) -> None:
    """Puts the best weights into the module: those of a checkpoint, or the start's if none beat it.

    Without a monitor, or a validation that it could be compared in, the last weights are the best ones: after
    a collapse those of the last validation that did not see it, or the start's.
    """
    best, has_collapsed = callbacks.best, stopped.startswith((COLLAPSE, BROKEN))
    checkpoint: Path | None = None
    if best is not None and best.score is not None:
        if best.beats(start[best.monitor]):
            checkpoint = best.path
        else:
            best.step = None
    elif not has_collapsed:
        return
    elif (best is None or best.left_out_all) and run.last_good_checkpoint.is_file():
        checkpoint = run.last_good_checkpoint
    if checkpoint is None:
        weights = _starting_weights(config, sources)
    else:
        weights = _weights_in(checkpoint, run, None if best is None else best.step)
    module.load_state_dict(weights, strict=False)


def _weights_in(checkpoint: Path, run: RunFolder, step: int | None) -> dict[str, torch.Tensor]:
    """Of a damaged checkpoint those of another one of the same step.

    Raises:
        ConfigError: there is none.
    """
    try:
        return load_sealed(checkpoint, map_location="cpu")["state_dict"]
    except (DamagedFileError, FileNotFoundError) as error:
        problem = f"{checkpoint} is gone" if isinstance(error, FileNotFoundError) else str(error)
        for other in (run.last_checkpoint, run.previous_checkpoint):
            try:
                found = load_sealed(other, map_location="cpu")
            except (DamagedFileError, FileNotFoundError):
                continue
            if found["global_step"] == step:
                log.warning("%s; %s is of the same step, and taken in its place", problem, other)
                return found["state_dict"]
        raise ConfigError(
            f"{problem}; put a copy back, or delete {run.checkpoints}: with --resume the run then trains "
            "again from its start, to the same numbers"
        ) from error


def _starting_weights(
    config: ExperimentConfig, sources: Mapping[str, Path | None]
) -> dict[str, torch.Tensor]:
    """Those of the models that the run trains, by their names in the module."""
    models: dict[str, torch.nn.Module] = {}
    if config.training.train_retriever:
        models["retriever"] = build_retriever(config, sources["retriever"])
    if config.training.train_reader:
        models["reader"] = reader = build_reader(config, sources["reader"])
        prepare_training(config, reader)
    return {f"{name}.{key}": w for name, model in models.items() for key, w in model.state_dict().items()}


def _export(config: ExperimentConfig, run: RunFolder, module: RetrievalModule) -> None:
    """The trained models, as transformers loads them."""
    if not is_main_process():
        return
    assert isinstance(module, RetrieverReaderModule), "nothing else is trained"
    if config.training.train_reader:
        module.reader.save(run.reader)
    if config.training.train_retriever:
        module.retriever.save(run.retriever)
