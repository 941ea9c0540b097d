"""Configuration -> the callbacks and the trainer of a run."""

from dataclasses import dataclass
from typing import Any

import lightning as L
from lightning.pytorch.callbacks import Callback
from torch import Tensor

from callbacks.alarm_on_collapse import AlarmOnCollapse
from callbacks.checkpoint_files import CheckpointFiles
from callbacks.curves import ContinueCurves, LogLearningRates
from callbacks.dashboard import Dashboard
from callbacks.decisions import Decisions
from callbacks.fit_temperature import FitTemperature
from callbacks.log_curve import LogCurve
from callbacks.log_indicators import LogIndicators
from callbacks.measure_staleness import MeasureStaleness
from callbacks.progress import StepProgress
from callbacks.read_start_candidates import ReadStartCandidates
from callbacks.refresh_index import RefreshIndex
from callbacks.refresh_schedule import NEVER_AGAIN, RefreshSchedule
from callbacks.save_best import SaveBest
from callbacks.save_last import SaveLast
from callbacks.save_predictions import SavePredictions
from callbacks.save_validations import SaveValidations
from callbacks.skip_broken_batches import SkipBrokenBatches
from callbacks.stop_on_indicators import StopOnIndicators
from callbacks.stop_on_interrupt import StopOnInterrupt
from callbacks.stop_on_thresholds import StopOnThresholds
from callbacks.time_stages import TimeStages
from callbacks.token_view import TokenView
from callbacks.validate_on_part import ValidateOnPart
from callbacks.warn_of_temperatures import WarnOfTemperatures
from experiments.build import build_refresh, build_retriever, searches_on_gpu
from experiments.checks import monitors_of, thresholds_of
from experiments.config import ExperimentConfig, measures_staleness, trains, trains_retriever
from experiments.data_files import gold_titles_file
from experiments.loggers import curves_name, make_loggers
from experiments.processes import process_arguments
from experiments.runs import RunFolder, starting_weights
from lightning_modules.metrics.question_values import QuestionValues


@dataclass
class RunCallbacks:
    """A run's callbacks; those that are asked for results later have a name."""

    staleness: MeasureStaleness | None
    index: RefreshIndex | None
    temperature: FitTemperature
    on_part: ValidateOnPart | None
    indicators: LogIndicators
    start_candidates: ReadStartCandidates | None
    predictions: SavePredictions
    validations: SaveValidations
    decided: Decisions
    stopping: StopOnIndicators | None
    thresholds: StopOnThresholds | None
    skipping: SkipBrokenBatches | None
    collapse: AlarmOnCollapse | None
    best: SaveBest | None
    last: SaveLast
    others: list[Callback]

    def all(self) -> list[Callback]:
        # broken numbers and a collapse are seen before an index is made of them; the index is fresh before
        # anything is measured but how stale it was, and all is measured before anything is decided: first by
        # what knows noise
        chosen: list[Callback | None] = [self.skipping, self.collapse, self.staleness, self.index]
        chosen += [self.temperature, self.on_part]
        chosen += [
            self.indicators,
            self.start_candidates,
            self.predictions,
            self.validations,
            *self.others,
            self.stopping,
            self.thresholds,
        ]
        chosen += [TimeStages(), self.best, self.last]
        return [callback for callback in chosen if callback is not None]

    def question_values(self) -> QuestionValues:
        """What the latest validation read of each question."""
        values = self.indicators.latest_questions.with_others(self.indicators.latest_hits)
        if self.start_candidates is not None:
            values = values.with_others(self.start_candidates.latest_questions)
        return values


def make_callbacks(config: ExperimentConfig, run: RunFolder) -> RunCallbacks:
    """Everything that happens around the steps of a run."""
    evaluation, trainer = config.evaluation, config.trainer
    best = None
    if evaluation.monitor is not None:
        best = SaveBest(run.checkpoints, evaluation.monitor)
    staleness = None
    if measures_staleness(config):
        staleness = MeasureStaleness(config.index.staleness_every_steps, batch_size=config.index.batch_size)
    index = None if evaluation.closed_book else _refresh_index(config, run, staleness)
    schedule = None if index is None else index.schedule
    also_after = schedule.is_due if isinstance(schedule, RefreshSchedule) else None
    last = SaveLast(run.last_checkpoint, trainer.checkpoint_every_steps, also_after)
    on_part = None
    if index is not None and trains(config) and config.index.validation_passages is not None:
        on_part = ValidateOnPart(
            config.index.validation_passages,
            run.validation_passages,
            use_gpu=searches_on_gpu(config),
            batch_size=config.index.batch_size,
            show_progress=trainer.progress_bar,
            gold_titles=None if run.validation_passages.is_file() else gold_titles_file(config),
        )
    indicators = LogIndicators(tuple(evaluation.percentiles))
    start_candidates = None
    if trains(config) and config.training.train_reader:
        start_candidates = ReadStartCandidates(tuple(evaluation.percentiles))
    decided = Decisions()
    stopping = thresholds = collapse = None
    bounds = thresholds_of(config) if config.stopping.enabled and trains(config) else ()
    if bounds:
        thresholds = StopOnThresholds(
            bounds, decided=decided, indicators=indicators, start_candidates=start_candidates
        )
    if config.stopping.enabled and trains(config) and monitors_of(config):
        stopping = _make_stopping(config, indicators, start_candidates, decided)
    if config.collapse.enabled and trains(config):
        collapse = AlarmOnCollapse(
            run.last_good_checkpoint,
            config.collapse.hit_rate_drop,
            config.collapse.effective_rank_ratio,
            config.collapse.duplicate_rise,
        )
    skipping = SkipBrokenBatches(trainer.max_skipped_in_a_row) if trains(config) else None
    predictions, validations = SavePredictions(run.predictions, indicators), SaveValidations(run.validations)
    others: list[Callback] = [
        Dashboard(
            monitors=monitors_of(config), thresholds=() if thresholds is None else thresholds.thresholds
        ),
        StopOnInterrupt(run.last_checkpoint),
    ]
    if trains_retriever(config):
        others.append(
            WarnOfTemperatures("objective.attention_temperature", "objective.retrieval_temperature")
        )
    if evaluation.token_view_questions:
        others.append(TokenView(run.token_view, evaluation.token_view_questions))
    if trains(config):
        others += [ContinueCurves(run.path / curves_name(config, run)), LogLearningRates()]
        others.append(LogCurve(validations))
    if trainer.progress_bar:
        others.append(StepProgress())
    return RunCallbacks(
        staleness,
        index,
        FitTemperature(),
        on_part,
        indicators,
        start_candidates,
        predictions,
        validations,
        decided,
        stopping,
        thresholds,
        skipping,
        collapse,
        best,
        last,
        others,
    )


def _make_stopping(
    config: ExperimentConfig,
    indicators: LogIndicators,
    start_candidates: ReadStartCandidates | None,
    decided: Decisions,
) -> StopOnIndicators:
    settings, trainer = config.stopping, config.trainer
    num_validations = settings.num_validations
    if num_validations is None:
        num_validations = max(1, trainer.max_steps // trainer.validate_every_steps)
    return StopOnIndicators(
        indicators,
        monitors_of(config),
        margin=settings.margin,
        patience=settings.patience,
        num_validations=num_validations,
        false_stop_rate=settings.false_stop_rate,
        action=settings.action,
        target=settings.target,
        start_candidates=start_candidates,
        decided=decided,
    )


def _refresh_index(
    config: ExperimentConfig, run: RunFolder, staleness: MeasureStaleness | None
) -> RefreshIndex:
    # an index of a retriever that is not trained stays fresh
    schedule = config.index.refresh if trains_retriever(config) else NEVER_AGAIN
    before_validation = config.index.refresh_before_validation

    def start_encoder() -> dict[str, Tensor]:
        retriever = build_retriever(config, starting_weights(config)["retriever"])
        return retriever.passage_encoder.state_dict()

    return build_refresh(
        config,
        run.index,
        schedule,
        before_validation=before_validation,
        meter=staleness,
        encoders=run.checkpoints,
        start_encoder=start_encoder,
    )


def make_trainer(
    config: ExperimentConfig, run: RunFolder, callbacks: RunCallbacks, trainer_hardware: dict[str, Any]
) -> L.Trainer:
    """The trainer, with the arguments for the accelerator that `build.hardware` found."""
    settings = config.trainer
    return L.Trainer(
        max_steps=settings.max_steps,
        max_epochs=-1,
        accumulate_grad_batches=settings.accumulate,
        gradient_clip_val=settings.gradient_clip,
        # in batches, across epochs
        val_check_interval=settings.validate_every_steps * settings.accumulate,
        check_val_every_n_epoch=None,
        num_sanity_val_steps=0,
        log_every_n_steps=settings.log_every_steps,
        logger=make_loggers(config, run),
        callbacks=callbacks.all(),
        enable_progress_bar=False,  # `StepProgress` counts steps, not the batches of an epoch
        enable_model_summary=False,
        # metrics reset in inference mode could not be updated outside of it
        inference_mode=False,
        use_distributed_sampler=False,  # the datamodule deals the questions out
        plugins=[CheckpointFiles({run.last_checkpoint: run.previous_checkpoint})],
        **trainer_hardware,
        **process_arguments(config),
    )
