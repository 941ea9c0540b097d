"""Decides while a run trains: is a metric still on the right side of a bound, or has it reached a goal?"""

import difflib
import logging
import math
from collections.abc import Collection, Mapping, Sequence
from typing import Any

from lightning import Callback, LightningModule, Trainer
from lightning.pytorch.trainer.states import TrainerFn

from callbacks.blamed_model import HIT_RATE, is_worse, model_of, what_declined
from callbacks.comparable import is_comparable, is_undefined_by_retrieval
from callbacks.decisions import DISTIL, Action, Decision, Decisions, how_few
from callbacks.log_indicators import LogIndicators
from callbacks.read_start_candidates import ReadStartCandidates
from callbacks.stop_on_indicators import latest_questions
from callbacks.threshold import Threshold

log = logging.getLogger(__name__)

BOUND_TAG = "stopping/threshold_"
"""Before the number of a threshold, from 1: what its bound is logged as."""


class StopOnThresholds(Callback):
    """Holds means that validations log against bounds, and acts where one is broken.

    "Threshold": a bound did not hold in its `patience` validations in a row; its action follows. Under
    `reader_first` the retriever learns again after the first validation in which that bound holds.
    "Target": a goal (`until`) held in its `patience` validations in a row, which ends the run.

    Unlike `StopOnIndicators` this looks at means alone, and knows no noise: a metric that stays as it is lies
    below its start every other time. Lightning's `EarlyStopping` watches one metric for a trend; its words
    are explained in `Threshold`.

    Not compared, so that it neither counts as broken nor ends a row: what a validation on a stale index
    retrieves (`is_comparable`); a teacher's metric that perfect or failing retrieval leaves undefined; a
    bound from the start that the start has no value for. Any other value that is NaN or infinite holds no
    bound and reaches no goal.

    The start is the first validation at step 0, such as `trainer.validate` before `trainer.fit`, or given.
    All processes go by the numbers of the first one. `stopping/threshold_N` logs the N-th bound, from 1.

    Args:
        thresholds: in the order in which they act, as `Threshold` or its text.
        start: metric -> the start's value, where it is known already.
        decided: the run's decisions, shared with other rules; None = this is the only one.
        indicators, start_candidates: the callbacks that measure, before this one; with them a decision says
            how many questions it is made by.

    Raises:
        ValueError: a text that is no threshold; in training, a metric that validations do not log or a bound
            from a start that was not measured.

    Attributes:
        thresholds: each one once.
        start: metric -> the start's value; empty until it was seen.
        decided: the run's decisions.
    """

    def __init__(
        self,
        thresholds: Sequence[Threshold | str],
        start: Mapping[str, float] | None = None,
        decided: Decisions | None = None,
        indicators: LogIndicators | None = None,
        start_candidates: ReadStartCandidates | None = None,
    ) -> None:
        read = (Threshold.parse(one) if isinstance(one, str) else one for one in thresholds)
        self.thresholds = tuple(dict.fromkeys(read))
        self.start = dict(start or {})
        self.decided = Decisions() if decided is None else decided
        self.indicators = indicators
        self.start_candidates = start_candidates
        self._counts = {str(threshold): 0 for threshold in self.thresholds}
        self._reader_is_frozen = False

    # ---- measuring ----

    def on_validation_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if trainer.sanity_checking:
            return
        for number, threshold in enumerate(self.thresholds, start=1):
            bound = threshold.bound(self._at_start(threshold))
            if not math.isnan(bound):
                pl_module.log(f"{BOUND_TAG}{number}", bound)

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if trainer.sanity_checking:
            return
        values = self._measured(trainer)
        if trainer.state.fn == TrainerFn.FITTING:
            self._check(values)
            for threshold in self.thresholds:
                self._judge(trainer, pl_module, threshold, values)
        elif trainer.global_step == 0 and not self.start:
            self.start = {t.metric: values[t.metric] for t in self.thresholds if t.metric in values}
            self._warn_of_start()

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._reader_is_frozen = not getattr(pl_module, "train_reader", True)
        self.decided.stay_stopped(trainer)

    def _measured(self, trainer: Trainer) -> dict[str, float]:
        """What the validation logged; a callback may have logged another number in each process."""
        metrics = {name: float(value) for name, value in trainer.callback_metrics.items()}
        broadcast: dict[str, float] = trainer.strategy.broadcast(metrics)
        return broadcast

    def _check(self, values: Collection[str]) -> None:
        for threshold in self.thresholds:
            if threshold.metric not in values:
                raise ValueError(
                    f"thresholds: {threshold.metric!r} is not measured in validation"
                    f"{did_you_mean(threshold.metric, values)}"
                )
            if threshold.from_start and threshold.metric not in self.start:
                raise ValueError(
                    f"thresholds: {threshold.requirement!r} needs the start; call trainer.validate before "
                    "trainer.fit, or give start"
                )

    def _at_start(self, threshold: Threshold) -> float:
        return self.start.get(threshold.metric, math.nan)

    def _warn_of_start(self) -> None:
        for threshold in self.thresholds:
            if threshold.metric not in self.start:  # refused where it is needed, once training begins
                continue
            value = self._at_start(threshold)
            if threshold.from_start and math.isnan(value):
                log.warning(
                    "%s is undefined at the start: %r will decide nothing", threshold.metric, str(threshold)
                )
            elif threshold.holds(value, value) == threshold.is_goal:
                log.warning(
                    "%s is %s at the start: %r will act after %d validation%s unless that changes",
                    threshold.metric,
                    _number(value),
                    str(threshold),
                    threshold.patience,
                    "" if threshold.patience == 1 else "s",
                )

    # ---- deciding ----

    def _judge(
        self, trainer: Trainer, module: LightningModule, threshold: Threshold, values: Mapping[str, float]
    ) -> None:
        value, start, rule = values[threshold.metric], self._at_start(threshold), str(threshold)
        if not is_comparable(threshold.metric, module) or math.isnan(threshold.bound(start)):
            return
        if math.isnan(value) and is_undefined_by_retrieval(threshold.metric):
            return
        holds = threshold.holds(value, start)
        if self.decided.is_held_by(rule):
            if holds and threshold.action is Action.READER_FIRST:
                decision = self._decision(trainer, threshold, value, DISTIL)
                message = f"{threshold.metric} = {_number(value)} holds {_bound(threshold, start)} again"
                self.decided.release(trainer, module, decision, message)
            return
        self._counts[rule] = self._counts[rule] + 1 if holds == threshold.is_goal else 0
        if self._counts[rule] >= threshold.patience:
            self._counts[rule] = 0
            decision = self._decision(trainer, threshold, value, str(threshold.action))
            reason = "target" if threshold.is_goal else "threshold"
            self.decided.act(trainer, module, decision, reason, self._describe(threshold, value, start))

    def _describe(self, threshold: Threshold, value: float, start: float) -> str:
        """A decision with its numbers, what it is made by, and which model it is about."""
        name, bound = threshold.metric, _bound(threshold, start)
        count = self._num_questions(name)
        asked = f" ({count} question{'' if count == 1 else 's'})" if count else ""
        asked = f" in {threshold.patience} validations in a row{asked}" if threshold.patience > 1 else asked
        few, model = how_few(count) if count else "", model_of(name)
        whose = "" if model is None else f"; it is a metric of the {model}"
        if threshold.is_goal:
            return f"{name} = {_number(value)} reached the target {bound}{asked}{whose}{few}"
        if model is not None and is_worse(name, value, start):
            whose = f": {what_declined(name, self._reader_is_frozen)}"
        return f"{name} is {_number(value)}, which breaks {bound}{asked}{whose}{few}"

    def _num_questions(self, name: str) -> int | None:
        """How many questions the mean of a metric is over; None where the callbacks do not know it."""
        if self.indicators is None:
            return None
        values = latest_questions(self.indicators, self.start_candidates).values
        of_questions = values.get(name.removesuffix("_std"))
        if of_questions is not None:
            return sum(not math.isnan(value) for value in of_questions)
        if model_of(name) == "reader":  # answers, of the questions that are read
            return len(self.indicators.latest_questions.question_ids)
        is_hit_rate = name.startswith(HIT_RATE)
        return len(self.indicators.latest_hits.question_ids) if is_hit_rate else None

    def _decision(self, trainer: Trainer, threshold: Threshold, value: float, action: str) -> Decision:
        start: float | None = self.start.get(threshold.metric)
        return Decision(
            trainer.global_step,
            action,
            threshold.metric,
            baseline=start,
            change=None if start is None else value - start,
            rule=str(threshold),
            value=value,
            bound=threshold.bound(self._at_start(threshold)),
        )

    # ---- resuming ----

    def state_dict(self) -> dict[str, Any]:
        return {"start": dict(self.start), "counts": dict(self._counts), **self.decided.state_dict()}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.start = dict(state_dict["start"]) or self.start
        self.decided.load_state_dict(state_dict)
        # the run's thresholds win over those of the checkpoint
        self._counts |= {rule: n for rule, n in state_dict["counts"].items() if rule in self._counts}


def did_you_mean(name: str, known: Collection[str], most: int = 3) -> str:
    """` (did you mean 'teacher/auc' or 'teacher/mrr'?)` of the names most like one; empty without any."""
    close = [repr(other) for other in difflib.get_close_matches(name, known, n=most, cutoff=0.5)]
    if not close:
        return ""
    *others, last = close
    return f" (did you mean {', '.join(others)}{' or ' if others else ''}{last}?)"


def _bound(threshold: Threshold, start: float) -> str:
    """`>= 0.3`, or `>= start - 0.02 = 0.53` with the start's value."""
    said = f"{threshold.relation} {threshold.bound_text}"
    if not threshold.from_start:
        return said
    if not threshold.number:
        return f"{said} = {_number(start)}"
    return f"{said} = {_number(threshold.bound(start))} (start: {_number(start)})"


def _number(value: float) -> str:
    return "undefined" if math.isnan(value) else f"{value:.4g}"
