"""Go, no-go or unsure: what the metrics of a teacher say before it teaches. Pure."""

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import ArrayLike

from datamodules.choices import Choice
from lightning_modules.metrics.estimates import Estimate, estimate
from lightning_modules.metrics.matched_auc import MatchedAUC

USEFUL_AUC = 0.65
"""A teacher must do better than this, between all passages and between equally long ones; chance is 0.5."""
SMALL_GAIN = 0.1
"""A teacher that is at most this much better than the retriever, if at all, is no gain."""
FEWEST_QUESTIONS = 10
"""With fewer questions that have a positive and a negative passage nothing is decided."""
FEWEST_PAIRS = 10
"""With fewer pairs to match, length cannot be separated from content."""
LARGEST_LENGTH_TAU = 0.5
"""A teacher whose Kendall's tau with passage length is surely beyond this, with either sign, is refused."""

LARGEST_FIXED_PREFERENCE = 0.3
"""A teacher that puts passages into the same order whatever is asked, by more than this as Kendall's tau, is
refused. Of the study's teachers beyond it none gained surely more than half of what true labels gain, though
three gained surely more than none (docs/study)."""


class Advice(Choice):
    """Whether the configured teacher should be distilled."""

    GO = "go"
    NO_GO = "no-go"
    UNSURE = "unsure"


@dataclass(frozen=True)
class Verdict:
    """An advice with its reasons.

    Attributes:
        advice: on the configured teacher.
        reasons: the weightiest first.
        needs_more: whether there were too few questions, or too few passages for each, to decide.
    """

    advice: Advice
    reasons: list[str] = field(default_factory=list)
    needs_more: bool = False


def judge(
    teacher_auc: ArrayLike,
    retriever_auc: ArrayLike,
    at_equal_length: MatchedAUC,
    length_tau: ArrayLike,
    level: float = 0.95,
    fixed_preference: ArrayLike = (),
) -> Verdict:
    """Decides from AUCs over the same questions, NaN where all passages hold an answer or none does.

    A teacher is worth distilling if it puts passages with an answer before those without (the whole interval
    of its AUC is above `USEFUL_AUC`), also where they are of the same length, and does so better than the
    retriever that it is to teach (else the retriever would forget). Attention summed over a passage favours
    long ones, and these hold answers more often: a reader whose weights were shuffled has the AUC of length
    alone, which can be well above chance, and ruins the retriever. A teacher whose order follows length is
    refused whatever its AUCs, and however few questions have them: the retriever learns length first. And a
    teacher must order passages by what is asked: of two with the same AUC, the one that prefers the same
    passages for an unrelated question teaches less, or harms.

    Args:
        teacher_auc, retriever_auc: of the teacher's target and of p_RETR.
        at_equal_length: of the teacher's target, at `level`.
        length_tau: Kendall's tau between the teacher's order and passage length, of every question read; NaN
            where all passages are alike.
        level: of the intervals.
        fixed_preference: Kendall's tau between the teacher's orders for a question and for an unrelated one,
            of each question where that was asked; of fewer than `FEWEST_QUESTIONS` nothing follows.
    """
    by_length = estimate(length_tau, level)
    is_refused = by_length.n >= FEWEST_QUESTIONS and follows_length(by_length)
    teacher = np.asarray(teacher_auc, dtype=np.float64)
    auc = estimate(teacher, level)
    if auc.n < FEWEST_QUESTIONS:
        reason = (
            f"only {auc.n} questions have passages both with and without an answer among those retrieved; "
            "read more questions, or retrieve more passages for each"
        )
        if is_refused:
            return Verdict(Advice.NO_GO, [_about_length(by_length), reason], needs_more=True)
        return Verdict(Advice.UNSURE, [reason], needs_more=True)
    against_retriever = estimate(teacher - np.asarray(retriever_auc, dtype=np.float64), level)
    checks = [
        _check(auc, "teacher AUC", USEFUL_AUC),
        _check(against_retriever, "teacher AUC less the retriever's own", 0.0, SMALL_GAIN),
        _check_at_equal_length(at_equal_length),
    ]
    if by_length.n:
        checks.append((Advice.NO_GO if is_refused else Advice.GO, _about_length(by_length)))
    fixed = estimate(fixed_preference, level)
    if fixed.n >= FEWEST_QUESTIONS:
        checks.append(about_fixed_preference(fixed))
    found = [advice for advice, _ in checks]
    if Advice.NO_GO in found:
        advice = Advice.NO_GO
    elif Advice.UNSURE in found:
        advice = Advice.UNSURE
    else:
        advice = Advice.GO
    # what decided comes first
    checks.sort(key=lambda check: check[0] is not advice)
    return Verdict(advice, [text for _, text in checks], at_equal_length.num_pairs < FEWEST_PAIRS)


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


def about_fixed_preference(preference: Estimate) -> tuple[Advice, str]:
    """What follows from how alike the orders for unrelated questions are, and why."""
    bound = LARGEST_FIXED_PREFERENCE
    shown = (
        f"Kendall's tau of its order with that for an unrelated question is {preference.text} over "
        f"{preference.n} questions"
    )
    if preference.low > bound:
        return (
            Advice.NO_GO,
            f"{shown}: it prefers the same passages whatever is asked (refused above {bound:g})",
        )
    if preference.mean > bound:
        return Advice.UNSURE, f"{shown}: above {bound:g}, but not surely"
    return Advice.GO, f"{shown}: not above {bound:g}"


def of_matched(found: MatchedAUC) -> Estimate:
    """An AUC at equal length as an estimate over questions; NaN where there are too few pairs to match."""
    if found.num_pairs < FEWEST_PAIRS:
        return estimate([])
    return Estimate(found.mean, found.low, found.high, found.num_questions)


def _check_at_equal_length(found: MatchedAUC) -> tuple[Advice, str]:
    if found.num_pairs < FEWEST_PAIRS:
        return Advice.UNSURE, (
            f"passage length cannot be separated from content: only {found.num_pairs} pairs of passages can "
            "be matched by length; read more questions"
        )
    return _check(of_matched(found), "teacher AUC at equal passage length", USEFUL_AUC)


def _check(value: Estimate, what: str, bound: float, small: float = 0.0) -> tuple[Advice, str]:
    shown = f"{what} is {value.text} over {value.n} questions"
    if value.low > bound:
        return Advice.GO, f"{shown}: the whole interval is above {bound:g}"
    if value.high < bound:
        return Advice.NO_GO, f"{shown}: the whole interval is below {bound:g}"
    if value.high < bound + small:
        return Advice.NO_GO, f"{shown}: no more than {small:g} above, if at all"
    return Advice.UNSURE, f"{shown}: neither surely above {bound:g} nor surely below"
