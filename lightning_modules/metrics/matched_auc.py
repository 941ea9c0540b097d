"""Teacher validity at equal passage length: what a teacher knows that the passages' lengths do not say."""

import math
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float
from torch import Tensor

NUM_STRATA = 3


@dataclass(frozen=True)
class MatchedAUC:
    """`teacher_auc` over pairs of passages that are matched by length.

    Attributes:
        mean: 0.5 for a teacher that sees nothing but length; NaN where nothing can be matched.
        low, high: bootstrap interval over questions; NaN for fewer than two questions.
        num_questions: that have a pair.
        num_pairs: how much there is to match: pairs of equal length, and those in which the passage with the
            answer is the shorter one, or the longer one, whichever are fewer.
    """

    mean: float
    low: float
    high: float
    num_questions: int
    num_pairs: int


@dataclass(frozen=True)
class _Pairs:
    """All pairs of a passage with an answer and one without, of the same question.

    Attributes:
        question: number of the question, from 0 on.
        win: 1 where the passage with the answer scores higher, 0.5 for a tie.
        gap: log of its length over the other's.
    """

    question: np.ndarray
    win: np.ndarray
    gap: np.ndarray


def matched_auc(
    scores: Float[Tensor, "questions passages"],
    has_answer: Bool[Tensor, "questions passages"],
    lengths: Float[Tensor, "questions passages"],
    level: float = 0.95,
    num_samples: int = 2000,
    seed: int = 0,
) -> MatchedAUC:
    r"""Probability that a passage holding an answer scores higher than an equally long one that does not.

    Few pairs are equally long, so those in which the passage with the answer is longer stand against those
    in which it is shorter by about as much (Mantel-Haenszel, over strata b of |log of the lengths' ratio|):

    .. math::
        \frac{\sum_b w_b (r_b^+ + r_b^-) / 2}{\sum_b w_b}, \qquad
        w_b = \frac{4 n_b^+ n_b^-}{n_b^+ + n_b^-}

    with r the share of pairs won; equally long pairs are a stratum of their own, of rate r and weight n. A
    teacher whose order depends on length alone, noisily or not, wins as many of the one kind as it loses of
    the other: 0.5. A teacher that does not look at length has its plain AUC.

    Args:
        scores: the teacher's; questions with a NaN are left out.
        has_answer: True = the passage holds an answer.
        lengths: of the passages, in tokens.
        level: of the interval.
        num_samples, seed: of the bootstrap, which draws questions.

    Example:
        >>> import torch
        >>> has_answer = torch.tensor([[True, False], [True, False]])
        >>> lengths = torch.tensor([[100.0, 50.0], [50.0, 100.0]])
        >>> matched_auc(lengths, has_answer, lengths).mean
        0.5
        >>> matched_auc(has_answer.float(), has_answer, lengths).mean
        1.0
    """
    pairs = _pairs(scores, has_answer, lengths)
    num_questions = int(pairs.question.max()) + 1 if len(pairs.question) else 0
    sums = _sums_by_question(pairs, num_questions)
    mean = float(_matched(sums.sum(axis=0, keepdims=True))[0])
    low = high = float("nan")
    if num_questions > 1 and not math.isnan(mean):
        times = np.random.default_rng(seed).multinomial(
            num_questions, np.full(num_questions, 1 / num_questions), num_samples
        )
        means = _matched(np.tensordot(times.astype(float), sums, axes=1))
        low, high = np.nanquantile(means, [(1 - level) / 2, (1 + level) / 2]).tolist()
    shorter, longer, equal = sums[..., 1].sum(axis=(0, 1))
    num_pairs = int(min(shorter, longer) + equal)
    return MatchedAUC(mean, low, high, num_questions, num_pairs)


def _pairs(
    scores: Float[Tensor, "questions passages"],
    has_answer: Bool[Tensor, "questions passages"],
    lengths: Float[Tensor, "questions passages"],
) -> _Pairs:
    usable = has_answer.any(dim=1) & ~has_answer.all(dim=1) & ~scores.isnan().any(dim=1)
    scores, has_answer, lengths = scores[usable], has_answer[usable], lengths[usable].double()
    question, with_answer, without = (has_answer[:, :, None] & ~has_answer[:, None]).nonzero(as_tuple=True)
    better, worse = scores[question, with_answer], scores[question, without]
    win = (better > worse).double() + 0.5 * (better == worse).double()
    gap = (lengths[question, with_answer] / lengths[question, without]).log()
    return _Pairs(*(part.cpu().numpy() for part in (question, win, gap)))


def _sums_by_question(pairs: _Pairs, num_questions: int) -> Float[np.ndarray, "questions strata signs 2"]:
    """(wins, pairs) by stratum, and by whether the passage with the answer is shorter, longer or as long."""
    if not num_questions:
        return np.zeros((0, NUM_STRATA, 3, 2))
    size = np.abs(pairs.gap)
    unequal = size[size > 0]
    edges = np.quantile(unequal, np.arange(1, NUM_STRATA) / NUM_STRATA) if len(unequal) else []
    stratum = np.searchsorted(edges, size)
    sign = np.where(pairs.gap < 0, 0, np.where(pairs.gap > 0, 1, 2))
    cell = (pairs.question * NUM_STRATA + stratum) * 3 + sign
    num_cells = num_questions * NUM_STRATA * 3
    sums = [np.bincount(cell, weights, num_cells) for weights in (pairs.win, np.ones_like(pairs.win))]
    return np.stack(sums, axis=-1).reshape(num_questions, NUM_STRATA, 3, 2)


def _matched(sums: Float[np.ndarray, "samples strata signs 2"]) -> Float[np.ndarray, " samples"]:
    """The formula of `matched_auc`, each rate weighed by the inverse of its variance; NaN without pairs."""
    wins, counts = sums[..., 0], sums[..., 1]
    with np.errstate(divide="ignore", invalid="ignore"):
        rates = np.nan_to_num(wins / counts)
        unequal = counts[..., :2]
        # a stratum with pairs of one sign has no weight
        weights = np.nan_to_num(4 * unequal.prod(axis=-1) / unequal.sum(axis=-1))
        total = (weights * rates[..., :2].mean(axis=-1)).sum(axis=-1) + wins[..., 2].sum(axis=-1)
        return total / (weights.sum(axis=-1) + counts[..., 2].sum(axis=-1))
