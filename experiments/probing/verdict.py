"""Go, no-go or unsure: what a teacher's readings say before it teaches. Pure."""

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import ArrayLike

from datamodules.choices import Choice
from experiments.estimates import Estimate, estimate
from lightning_modules.metrics.matched_auc import MatchedAUC

USEFUL_AUC = 0.65
"""A teacher must do better than this, between all passages and between equally long ones; chance is 0.5."""
SMALL_GAIN = 0.1
"""A teacher that is at most this much better than the retriever, if at all, is no gain."""
FEWEST_QUESTIONS = 10
"""With fewer questions that have both kinds of passages nothing is decided."""
FEWEST_PAIRS = 10
"""With fewer pairs to match, length is not told from content."""
LARGEST_LENGTH_TAU = 0.5
"""A teacher whose Kendall's tau with passage length is surely beyond this, with either sign, is refused."""


class Decision(Choice):
    """Whether the configured teacher should be distilled."""

    GO = "go"
    NO_GO = "no-go"
    UNSURE = "unsure"


@dataclass(frozen=True)
class Verdict:
    """A decision with its reasons, the weightiest first."""

    decision: Decision
    reasons: list[str] = field(default_factory=list)


def judge(
    teacher_auc: ArrayLike,
    retriever_auc: ArrayLike,
    at_equal_length: MatchedAUC,
    length_tau: ArrayLike,
    level: float = 0.95,
) -> Verdict:
    """Decides from AUCs over the same questions, NaN where a question's passages are of one kind.

    A teacher is worth distilling if it puts passages with an answer before those without (the whole interval
    of its AUC is above `USEFUL_AUC`), also where they are of the same length, and does so better than the
    retriever that it is to teach (else the retriever would forget). Attention summed over a passage favours
    long ones, and these hold answers more often: a reader whose weights were shuffled has the AUC of length
    alone, which can be well above chance, and ruins the retriever. A teacher whose order follows length is
    refused whatever its AUCs, and however few questions have them: the retriever learns length first.

    Args:
        teacher_auc, retriever_auc: of the teacher's target and of p_RETR.
        at_equal_length: of the teacher's target, at `level`.
        length_tau: Kendall's tau between the teacher's order and passage length, of every question read; NaN
            where all passages are alike.
        level: of the intervals.
    """
    by_length = estimate(length_tau, level)
    is_refused = by_length.n >= FEWEST_QUESTIONS and follows_length(by_length)
    teacher = np.asarray(teacher_auc, dtype=np.float64)
    auc = estimate(teacher, level)
    if auc.n < FEWEST_QUESTIONS:
        reason = (
            f"only {auc.n} questions have passages both with and without an answer among those retrieved; "
            "read more questions (--instances, --split train), or retrieve more passages "
            "(training.num_passages)"
        )
        if is_refused:
            return Verdict(Decision.NO_GO, [_about_length(by_length), reason])
        return Verdict(Decision.UNSURE, [reason])
    against_retriever = estimate(teacher - np.asarray(retriever_auc, dtype=np.float64), level)
    checks = [
        _check(auc, "teacher AUC", USEFUL_AUC),
        _check(against_retriever, "teacher AUC less the retriever's own", 0.0, SMALL_GAIN),
        _check_at_equal_length(at_equal_length),
    ]
    if by_length.n:
        checks.append((Decision.NO_GO if is_refused else Decision.GO, _about_length(by_length)))
    decisions = [decision for decision, _ in checks]
    if Decision.NO_GO in decisions:
        decision = Decision.NO_GO
    elif Decision.UNSURE in decisions:
        decision = Decision.UNSURE
    else:
        decision = Decision.GO
    # what decided comes first
    checks.sort(key=lambda check: check[0] is not decision)
    return Verdict(decision, [text for _, text in checks])


def follows_length(length_tau: Estimate) -> bool:
    """Whether a teacher's order surely follows passage length, long or short ones first."""
    return length_tau.low > LARGEST_LENGTH_TAU or length_tau.high < -LARGEST_LENGTH_TAU


def _about_length(length_tau: Estimate) -> str:
    shown = (
        f"Kendall's tau of its order with passage length is {length_tau.text} over {length_tau.n} questions"
    )
    if follows_length(length_tau):
        first = "long" if length_tau.mean > 0 else "short"
        return (
            f"{shown}: the teacher puts {first} passages first, and that is what the retriever would learn "
            f"(refused beyond {LARGEST_LENGTH_TAU:g} with either sign)"
        )
    return f"{shown}: not surely beyond {LARGEST_LENGTH_TAU:g} with either sign"


def of_matched(found: MatchedAUC) -> Estimate:
    """An AUC at equal length as an estimate over questions; NaN where there are too few pairs to match."""
    if found.num_pairs < FEWEST_PAIRS:
        return estimate([])
    return Estimate(found.mean, found.low, found.high, found.num_questions)


def _check_at_equal_length(found: MatchedAUC) -> tuple[Decision, str]:
    if found.num_pairs < FEWEST_PAIRS:
        return Decision.UNSURE, (
            f"length cannot be told from content: only {found.num_pairs} pairs of passages can be matched by "
            "length; read more questions (--instances, --split train)"
        )
    return _check(of_matched(found), "teacher AUC at equal passage length", USEFUL_AUC)


def _check(value: Estimate, what: str, bound: float, small: float = 0.0) -> tuple[Decision, str]:
    shown = f"{what} is {value.text} over {value.n} questions"
    if value.low > bound:
        return Decision.GO, f"{shown}: the whole interval is above {bound:g}"
    if value.high < bound:
        return Decision.NO_GO, f"{shown}: the whole interval is below {bound:g}"
    if value.high < bound + small:
        return Decision.NO_GO, f"{shown}: no more than {small:g} above, if at all"
    return Decision.UNSURE, f"{shown}: cannot be told from {bound:g}"
