"""What the pre-flight check measures of a teacher of the study, before it teaches."""

import dataclasses
import math
from collections.abc import Mapping
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from experiments.study.cells import exactly
from experiments.study.readings import NUM_UNRELATED, Reading, Scores
from experiments.study.teachers import LOOKS_AT_QUESTION, Teacher, scores_given
from lightning_modules.metrics.estimates import Estimate, estimate
from lightning_modules.metrics.matched_auc import matched_auc
from lightning_modules.metrics.teacher_auc import teacher_auc, teacher_reciprocal_rank
from lightning_modules.metrics.teacher_checks import (
    gold_above_longest,
    kendall_tau,
    mass_on_answers,
    relative_entropy_of,
)
from lightning_modules.preflight.verdict import Advice, judge, of_matched

VERDICT = "verdict"
"""1 = go, 0 = unsure, -1 = no-go."""
VERDICTS = {Advice.GO: 1.0, Advice.UNSURE: 0.0, Advice.NO_GO: -1.0}


@dataclasses.dataclass(frozen=True)
class Asked:
    """What a teacher is measured on.

    Attributes:
        has_answer: True = the passage holds an answer.
        lengths: of the passages, in tokens.
        log_p_retr: of the retriever that it is to teach.
    """

    has_answer: Bool[Tensor, "questions passages"]
    lengths: Float[Tensor, "questions passages"]
    log_p_retr: Float[Tensor, "questions passages"]


def measures_before(
    teacher: Teacher, scores: Scores, asked: Asked, reading: Reading | None
) -> dict[str, Estimate]:
    """All measures by name, each with its interval over questions.

    Args:
        teacher: whose scores they are.
        scores: of the candidates.
        asked: the candidates.
        reading: of the teacher's reader; None for a teacher without one. Without attention there are no
            indicators.
    """
    log_p = teacher.log_p_target(scores)
    auc = teacher_auc(scores, asked.has_answer)
    of_retriever = teacher_auc(asked.log_p_retr, asked.has_answer)
    matched = matched_auc(scores, asked.has_answer, asked.lengths)
    length_tau = kendall_tau(scores, asked.lengths)
    measures = {
        "auc": estimate(auc),
        "auc_at_equal_length": of_matched(matched),
        "mrr": estimate(teacher_reciprocal_rank(scores, asked.has_answer)),
        "mass_on_answers": estimate(mass_on_answers(log_p, asked.has_answer)),
        "entropy": estimate(relative_entropy_of(log_p)),
        "length_tau": estimate(length_tau),
        "length_tau_size": _size(estimate(length_tau)),
        "gold_above_longest": estimate(gold_above_longest(scores, asked.has_answer, asked.lengths)),
        "fixed_preference": estimate(_fixed_preference(teacher, scores, reading)),
    }
    # by AUCs and length, as when the study was first run: what the order adds can be told from the table
    verdict = judge(auc.numpy(), of_retriever.numpy(), matched, length_tau.numpy())
    measures[VERDICT] = exactly(VERDICTS[verdict.advice])
    if reading is not None and teacher.attention is not None:
        indicators: Mapping[str, Any] = reading.indicators[teacher.attention]
        measures |= {name: estimate(values) for name, values in indicators.items()}
    return measures


def _fixed_preference(teacher: Teacher, scores: Scores, reading: Reading | None) -> Float[Tensor, " some"]:
    """Kendall's tau between the orders for a question and for another one, of the same passages."""
    if teacher.control in LOOKS_AT_QUESTION:
        return torch.full((1,), math.nan)  # nobody has asked them anything else
    if reading is None:  # the same order whatever is asked, or no order
        return kendall_tau(scores, scores)
    unrelated = scores_given(teacher, reading.unrelated, reading.lengths)[:NUM_UNRELATED]
    return kendall_tau(scores[: len(unrelated)], unrelated)


def _size(of: Estimate) -> Estimate:
    """Without its sign."""
    bounds = sorted((abs(of.low), abs(of.high)))
    low = 0.0 if of.low < 0 < of.high else bounds[0]
    return Estimate(abs(of.mean), low, bounds[1], of.n)
