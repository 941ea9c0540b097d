"""Decides while a run trains: is the teacher still as good as it was at the start, or where it should get?"""

import logging
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

import numpy as np
from lightning import Callback, LightningModule, Trainer
from lightning.pytorch.trainer.states import TrainerFn

from callbacks.blamed_model import what_declined
from callbacks.comparable import is_comparable, is_undefined_by_retrieval
from callbacks.decisions import COMPARISON, DISTIL, Action, Decision, Decisions, how_few
from callbacks.log_indicators import LogIndicators
from callbacks.read_start_candidates import START_CANDIDATES, ReadStartCandidates
from lightning_modules.metrics.measures import RETRIEVAL_HIT
from lightning_modules.metrics.paired_change import MIN_PAIRS, Change, DeclineRule, paired_change
from lightning_modules.metrics.question_values import QuestionValues, pair_questions

log = logging.getLogger(__name__)

READER_MONITORS = (f"{START_CANDIDATES}indicator1/spearman_p90", f"{START_CANDIDATES}teacher/auc")
"""Of a reader that is trained, on fixed passages. Indicator 1's Spearman is the one metric that has the
paper's ruined runs below their start and its good ones above it on both data sets, at p90 as at p95
(`experiments/benchmarks/paper_separation.py`; others tell good from bad too, but rise in a ruined run); the
teacher's AUC sees a reader that no longer tells the passages with an answer from the others."""

MONITORS = (*READER_MONITORS, RETRIEVAL_HIT.name)
"""The Hit Rate, which needs no reader and so has all questions, sees a retriever that a bad teacher has begun
to ruin."""


class StopOnIndicators(Callback):
    """Compares each validation with the start, question by question, and acts when the teacher has declined.

    "Ineffective": a monitored metric decreased significantly from the start (by more than `margin`), as
    `DeclineRule` says, in `patience` validations in a row; one that the reader's attention defines for
    significantly fewer questions than at the start counts as decreased. Under `reader_first` the teacher has
    recovered in the first validation in which no monitored metric is so undefined, or lower on average than
    at the start by more than `margin`.
    "Target": the first monitor's mean reached `target`, which ends the run.

    What a validation on a stale index retrieves is not compared: it neither counts as below nor ends a row of
    those that do. Metrics on the start's passages depend on no index.

    The start is the first validation at step 0, such as `trainer.validate` before `trainer.fit`, or given.
    `stopping/change_<metric>`, with `_low` and `_high`, are logged at each validation, as NaN where a
    metric is not compared that was before.

    Args:
        indicators: the callback that measures; it must come before this one.
        monitors: metrics that it measures question by question, higher = better.
        margin, patience, num_validations, false_stop_rate: of the `DeclineRule`.
        action: what follows a decline.
        target: stop as soon as the first monitor is at least this; None = never.
        baseline: the start, where it is known already.
        start_candidates: the callback that measures on the start's passages, likewise before this one.
        decided: the run's decisions, shared with other rules; None = this is the only one.

    Raises:
        ValueError: a setting that cannot be.

    Attributes:
        baseline: the start; None until it was seen.
        decided: the run's decisions.
    """

    def __init__(
        self,
        indicators: LogIndicators,
        monitors: Sequence[str] = MONITORS,
        margin: float = 0.0,
        patience: int = 2,
        num_validations: int = 20,
        false_stop_rate: float = 0.05,
        action: Action | str = Action.STOP,
        target: float | None = None,
        baseline: QuestionValues | None = None,
        start_candidates: ReadStartCandidates | None = None,
        decided: Decisions | None = None,
    ) -> None:
        self.rule = DeclineRule(margin, patience, num_validations, len(monitors), false_stop_rate)
        self.indicators = indicators
        self.start_candidates = start_candidates
        self.monitors = tuple(monitors)
        self.action = Action(action)
        self.target = target
        self.baseline = baseline
        self.decided = Decisions() if decided is None else decided
        self._num_below = dict.fromkeys(self.monitors, 0)
        self._reader_is_frozen = False
        self._changes: dict[str, Change] = {}
        self._changes_defined: dict[str, Change] = {}

    @property
    def reason(self) -> str | None:
        """`ineffective` or `target` once the run was ended by this rule; None while it goes on."""
        return self.decided.reason

    @property
    def message(self) -> str | None:
        """The decision that ended the run, with its numbers."""
        return self.decided.message

    @property
    def decisions(self) -> list[Decision]:
        """All of the run's."""
        return self.decided.made

    @property
    def current(self) -> QuestionValues:
        """The latest values of every question, those of the reader and those of the retriever."""
        return latest_questions(self.indicators, self.start_candidates)

    # ---- comparing ----

    def on_validation_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        current = self.current
        self._changes = {}
        if trainer.sanity_checking:
            return
        if self.baseline is None:
            if trainer.global_step == 0 and current.question_ids:
                self.baseline = current
                self._warn_of_unwatched()
            return
        for name in self.monitors:
            change = self._compare(self.baseline, current, name) if is_comparable(name, pl_module) else None
            if change is None:
                if f"stopping/change_{name}" not in trainer.callback_metrics:
                    continue
                # Lightning would keep the value of an earlier validation beside this one's
                change = paired_change(np.empty(0), np.empty(0))
            for part, value in (("", change.mean), ("_low", change.low), ("_high", change.high)):
                pl_module.log(f"stopping/change_{name}{part}", float(value))

    def _compare(self, baseline: QuestionValues, current: QuestionValues, name: str) -> Change | None:
        """How a monitor changed; None where it is undefined at the start, or nothing was measured."""
        before, after = pair_questions(baseline, current, name)
        if np.sum(~np.isnan(before)) < MIN_PAIRS:
            return None
        self._changes[name] = paired_change(before, after, self.rule.level)
        self._changes_defined[name] = change_of_defined(before, after, self.rule.level)
        return self._changes[name]

    def _warn_of_unwatched(self) -> None:
        assert self.baseline is not None
        for name in self.monitors:
            values = np.array(self.baseline.values.get(name, []), dtype=float)
            count = int(np.sum(~np.isnan(values)))
            if count < MIN_PAIRS:
                log.warning(
                    "%s of %d questions at the start, %d are needed: it will stop nothing; read more "
                    "questions (num_read)",
                    name,
                    count,
                    MIN_PAIRS,
                )

    # ---- deciding ----

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if trainer.state.fn != TrainerFn.FITTING or trainer.sanity_checking:
            return
        if is_comparable(self.monitors[0], pl_module) and self._reached_target(trainer, pl_module):
            return
        if self.decided.is_held_by(COMPARISON):
            self._go_on_if_recovered(trainer, pl_module)
            return
        for name in self._changes:
            self._num_below[name] = self._num_below[name] + 1 if self._is_below(name) else 0
        declined = [name for name in self._changes if self._num_below[name] >= self.rule.patience]
        if declined:
            self._act(trainer, pl_module, declined[0])

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._reader_is_frozen = not getattr(pl_module, "train_reader", True)
        self.decided.stay_stopped(trainer)

    def _reached_target(self, trainer: Trainer, module: LightningModule) -> bool:
        name = self.monitors[0]
        values = np.array(self.current.values.get(name, []), dtype=float)
        values = values[~np.isnan(values)]
        if self.target is None or not len(values) or values.mean() < self.target:
            return False
        message = f"{name} = {values.mean():.3f} reached the target {self.target:.3f}{how_few(len(values))}"
        self.decided.act(trainer, module, self._decision(trainer, Action.STOP, name), "target", message)
        return True

    def _act(self, trainer: Trainer, module: LightningModule, name: str) -> None:
        message = self._describe_decline(name)
        self._num_below = dict.fromkeys(self.monitors, 0)
        decision = self._decision(trainer, self.action, name)
        self.decided.act(trainer, module, decision, "ineffective", message)

    def _go_on_if_recovered(self, trainer: Trainer, module: LightningModule) -> None:
        is_recovered = bool(self._changes) and not any(
            self._is_undefined(name) or change.mean < -self.rule.margin
            for name, change in self._changes.items()
        )
        if self.action is not Action.READER_FIRST or not is_recovered:
            return
        name = [decision for decision in self.decisions if decision.rule == COMPARISON][-1].metric
        decision = self._decision(trainer, DISTIL, name)
        self.decided.release(
            trainer,
            module,
            decision,
            f"{name} has recovered, it changed by {decision.change:+.3f} from the start's "
            f"{decision.baseline:.3f}",
        )

    def _decision(self, trainer: Trainer, action: str, name: str) -> Decision:
        change = self._changes.get(name, paired_change(np.empty(0), np.empty(0)))
        return Decision(
            trainer.global_step,
            str(action),
            name,
            baseline=self._mean_at_start(name),
            change=float(change.mean),
            low=float(change.low),
            high=float(change.high),
        )

    def _describe_decline(self, name: str) -> str:
        change, times = self._changes[name], f"{self._num_below[name]} validations in a row"
        if self._is_undefined(name):
            defined = self._changes_defined[name]
            return (
                f"{name} is undefined now for {-defined.mean:.0%} of the {int(defined.num_pairs)} questions "
                f"that had a value at the start, in {times}: the reader's attention has become constant"
                f"{how_few(int(defined.num_pairs))}"
            )
        return (
            f"{name} changed by {change.mean:+.3f} from the start's {self._mean_at_start(name):.3f} "
            f"({int(change.num_pairs)} questions, bounds {change.low:+.3f} to {change.high:+.3f}), which is "
            f"significantly below {-self.rule.margin:.3f} in {times}: "
            f"{what_declined(name, self._reader_is_frozen)}{how_few(int(change.num_pairs))}"
        )

    def _is_below(self, name: str) -> bool:
        return self._is_undefined(name) or bool(self.rule.is_below(self._changes[name]))

    def _is_undefined(self, name: str) -> bool:
        change = self._changes_defined[name]
        is_lost = bool((change.num_pairs >= MIN_PAIRS) & (change.high < 0))
        return is_lost and not is_undefined_by_retrieval(name)

    def _mean_at_start(self, name: str) -> float:
        """Over the questions that are compared; NaN without any."""
        if self.baseline is None:
            return float("nan")
        before, after = pair_questions(self.baseline, self.current, name)
        compared = before[~np.isnan(before + after)]
        return float(compared.mean()) if len(compared) else float("nan")

    # ---- resuming ----

    def state_dict(self) -> dict[str, Any]:
        return {
            "baseline": None if self.baseline is None else asdict(self.baseline),
            **self.decided.state_dict(),
            "num_below": dict(self._num_below),
        }

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        if state_dict["baseline"] is not None:
            self.baseline = QuestionValues(**state_dict["baseline"])
        self.decided.load_state_dict(state_dict)
        # the run's settings win over those of the checkpoint
        self._num_below |= {n: count for n, count in state_dict["num_below"].items() if n in self.monitors}


def latest_questions(
    indicators: LogIndicators, start_candidates: ReadStartCandidates | None = None
) -> QuestionValues:
    """Every question's values in the latest validation, those of the reader and those of the retriever."""
    current = indicators.latest_questions.with_others(indicators.latest_hits)
    return current if start_candidates is None else current.with_others(start_candidates.latest_questions)


def change_of_defined(before: np.ndarray, after: np.ndarray, level: float) -> Change:
    """How the share of questions with a value changed, over those that had one at the start: 0 or below.

    Args:
        before, after: as `pair_questions` gives them.
        level: probability of error of each bound.
    """
    had_value = ~np.isnan(before)
    return paired_change(np.ones(int(had_value.sum())), (~np.isnan(after[had_value])).astype(float), level)
