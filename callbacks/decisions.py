"""What was decided while a run trained, with its numbers, and how it is carried out."""

import logging
from dataclasses import asdict, dataclass, field, replace
from typing import TYPE_CHECKING, Any, assert_never

from datamodules.choices import Choice

if TYPE_CHECKING:  # reports read the names below without a trainer
    from lightning import LightningModule, Trainer

log = logging.getLogger(__name__)

COMPARISON = "comparison with the start"
"""The rule of `StopOnIndicators`, paired question by question."""
DISTIL = "distil"
"""What is decided once a rule that held the retriever back lets go."""

FEW_QUESTIONS = 50
"""Below so many a decision, or a conclusion, says how little it is made by."""


class Action(Choice):
    """What follows when a metric has become worse than a rule allows."""

    STOP = "stop"
    """The run ends."""
    FREEZE_RETRIEVER = "freeze_retriever"
    """The retriever stays as it is; the reader trains on."""
    READER_FIRST = "reader_first"
    """The reader trains alone until it has recovered; then the retriever learns from it again."""


@dataclass(frozen=True)
class Decision:
    """One decision, as `summary.json` lists it.

    Attributes:
        step: optimizer steps done.
        action: what was done: `stop`, `freeze_retriever`, `reader_first`, or `distil` (again).
        metric: the metric that decided it.
        baseline: the start's mean, for a comparison over the pairs; None where a threshold knows no start.
        change: mean change from it, likewise.
        low, high: bounds of the change; None for a threshold, which looks at means alone.
        rule: what decided: `COMPARISON`, or a threshold as text.
        value: for a threshold, what the metric was.
        bound: for a threshold, what it should have been at least or at most.
    """

    step: int
    action: str
    metric: str
    baseline: float | None
    change: float | None
    low: float | None = None
    high: float | None = None
    rule: str = COMPARISON
    value: float | None = None
    bound: float | None = None


@dataclass
class Decisions:
    """All decisions of a run; the callbacks that decide share one.

    The first decision to stop gives the run its reason; other rules that stop it in the same validation are
    listed too, and nothing else is decided after it. The retriever learns while no rule holds it back.

    Attributes:
        made: in order.
        reason: why the run was ended, such as `ineffective`; None while it goes on.
        message: that decision with its numbers.
    """

    made: list[Decision] = field(default_factory=list)
    reason: str | None = None
    message: str | None = None

    def is_held_by(self, rule: str) -> bool:
        """Whether a rule holds the retriever back."""
        own = [decision.action for decision in self.made if decision.rule == rule]
        return bool(own) and own[-1] in (Action.FREEZE_RETRIEVER, Action.READER_FIRST)

    def act(
        self, trainer: "Trainer", module: "LightningModule", decision: Decision, reason: str, message: str
    ) -> None:
        """Does what `decision.action` says; a run that would have nothing left to train ends.

        Args:
            trainer, module: of the run.
            decision: to stop, or to hold the retriever back.
            reason: what the run ended for, should it end.
            message: the decision with its numbers.
        """
        from lightning_modules.retriever_reader import RetrieverReaderModule

        action = Action(decision.action)
        match action:
            case Action.STOP:
                self._end(trainer, decision, reason, message)
            case Action.FREEZE_RETRIEVER | Action.READER_FIRST:
                if self.reason is not None:
                    return
                assert isinstance(module, RetrieverReaderModule)
                if not module.train_reader:
                    message += f"; {action} leaves nothing to train, since the reader is not trained"
                    self._end(trainer, replace(decision, action=str(Action.STOP)), reason, message)
                    return
                module.retriever_learns = False
                self.made.append(decision)
                announce(trainer, f"{action}: {message}; the reader is trained alone from now on")
            case _:
                assert_never(action)

    def release(
        self, trainer: "Trainer", module: "LightningModule", decision: Decision, message: str
    ) -> None:
        """A rule holds the retriever back no longer; it learns again unless another one does."""
        from lightning_modules.retriever_reader import RetrieverReaderModule

        assert isinstance(module, RetrieverReaderModule)
        assert decision.action == DISTIL
        self.made.append(decision)
        holding = [rule for rule in dict.fromkeys(d.rule for d in self.made) if self.is_held_by(rule)]
        module.retriever_learns = not holding
        what = f"held back by {holding[0]}" if holding else "the retriever learns from the reader again"
        announce(trainer, f"{DISTIL}: {message}; {what}")

    def stay_stopped(self, trainer: "Trainer") -> None:
        """Ends training that goes on from a checkpoint saved after the decision to stop."""
        trainer.should_stop = trainer.should_stop or self.reason is not None

    def _end(self, trainer: "Trainer", decision: Decision, reason: str, message: str) -> None:
        if self.reason is None:
            self.reason, self.message = reason, message
        self.made.append(decision)
        trainer.should_stop = True
        announce(trainer, f"stopping ({reason}): {message}")

    # ---- resuming ----

    def state_dict(self) -> dict[str, Any]:
        """Fit for JSON."""
        made = [asdict(decision) for decision in self.made]
        return {"reason": self.reason, "message": self.message, "decisions": made}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """What `state_dict` gave; further keys are left alone."""
        self.reason, self.message = state_dict["reason"], state_dict["message"]
        self.made = [Decision(**decision) for decision in state_dict["decisions"]]


def how_few(num_questions: int, asked_by: str = "validations") -> str:
    """What to add to what few questions say; "" for `FEW_QUESTIONS` and more.

    Args:
        num_questions: at least 1.
        asked_by: what should be given more.
    """
    if num_questions >= FEW_QUESTIONS:
        return ""
    said = "1 question is" if num_questions == 1 else f"{num_questions} questions are"
    return (
        f"; {said} few: each is {1 / num_questions:.3f} of the mean, and others may say otherwise, so give "
        f"{asked_by} more"
    )


def announce(trainer: "Trainer", message: str) -> None:
    """Tells the user in the log, and the loggers as the text `decisions`."""
    from callbacks.logged_media import log_text

    log.warning(message)
    log_text(trainer, "decisions", message)
