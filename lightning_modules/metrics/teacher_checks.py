"""What can be said of a teacher before it teaches, beside its AUC. Pure maths."""

from collections.abc import Sequence

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor


def kendall_tau(
    first: Float[Tensor, "questions passages"], second: Float[Tensor, "questions passages"]
) -> Float[Tensor, " questions"]:
    """Kendall's tau-b between the orders in which two teachers put each question's passages.

    Returns:
        One value a question; NaN where either teacher gives all passages the same score, or a NaN.

    Example:
        >>> kendall_tau(torch.tensor([[0.1, 0.2, 0.3]]), torch.tensor([[1.0, 3.0, 2.0]]))
        tensor([0.3333])
    """
    from scipy.stats import kendalltau  # takes longer to import than all else that a report needs

    pairs = zip(first.double().cpu().numpy(), second.double().cpu().numpy(), strict=True)
    return torch.tensor(
        [float(kendalltau(a, b).statistic) if np.isfinite([a, b]).all() else float("nan") for a, b in pairs],
        dtype=torch.float32,
    )


def relative_entropy_of(log_p: Float[Tensor, "questions passages"]) -> Float[Tensor, " questions"]:
    """Entropy / log K: 1 = the teacher does not tell the passages apart, 0 = it knows but one.

    Example:
        >>> relative_entropy_of(torch.tensor([[0.5, 0.5]]).log())
        tensor([1.])
    """
    entropy = torch.special.entr(log_p.exp()).sum(dim=-1)
    return entropy / np.log(log_p.shape[-1])


def mass_on_answers(
    log_p: Float[Tensor, "questions passages"], has_answer: Bool[Tensor, "questions passages"]
) -> Float[Tensor, " questions"]:
    """Probability that a distribution gives to the passages holding an answer, together.

    Returns:
        One value a question; NaN without a positive and a negative passage.

    Example:
        >>> mass_on_answers(torch.tensor([[0.7, 0.2, 0.1]]).log(), torch.tensor([[True, False, True]]))
        tensor([0.8000])
    """
    mass = (log_p.exp() * has_answer).sum(dim=-1)
    of_both_kinds = has_answer.any(dim=-1) & ~has_answer.all(dim=-1)
    return mass.masked_fill(~of_both_kinds, torch.nan)


def mass_by_position(
    log_p: Float[Tensor, "questions passages"], positions: Int[Tensor, "questions passages"]
) -> Float[Tensor, " passages"]:
    """Mean probability by where in the prompt a passage stood; 1 / K everywhere = no bias to position.

    Example:
        >>> mass_by_position(torch.tensor([[0.7, 0.3]]).log(), torch.tensor([[1, 0]]))
        tensor([0.3000, 0.7000])
    """
    by_position = torch.zeros_like(log_p).scatter(-1, positions, log_p.exp())
    return by_position.mean(dim=0)


def best_temperature(
    scores: Float[Tensor, "questions passages"],
    has_answer: Bool[Tensor, "questions passages"],
    candidates: Sequence[float],
) -> float:
    """The tau under which softmax(score / tau) gives answer-holding passages the highest likelihood.

    The likelihood is the geometric mean over questions of `mass_on_answers`, so that a teacher that is
    sure and wrong pays for it. A teacher whose order is no better than chance gets the highest tau.

    Args:
        scores: before any temperature.
        has_answer: True = the passage holds an answer; questions of one kind are left out.
        candidates: temperatures to choose from.
    """
    log_masses = [
        mass_on_answers((scores / tau).log_softmax(dim=-1), has_answer).log().nanmean() for tau in candidates
    ]
    return candidates[int(torch.stack(log_masses).nan_to_num(-torch.inf).argmax())]


def temperature_grid(scores: Float[Tensor, "questions passages"]) -> list[float]:
    """Temperatures from a hundredth of to a hundred times the usual spread of a question's scores."""
    spread = float(scores.std(dim=-1).nanmedian())
    return [spread * 10 ** (power / 4) for power in range(-8, 9)] if spread > 0 else [1.0]


def gold_above_longest(
    scores: Float[Tensor, "questions passages"],
    has_answer: Bool[Tensor, "questions passages"],
    lengths: Float[Tensor, "questions passages"],
) -> Float[Tensor, " questions"]:
    """Whether the best positive passage scores above the longest negative one, where that is twice as long.

    The length test of CoRe heads (arXiv 2510.02219): a teacher that goes by length fails it. Ties count half.

    Args:
        scores: the teacher's.
        has_answer: True = the passage holds an answer.
        lengths: of the passages.

    Returns:
        1 or 0 for each question; NaN where there is no positive or no negative passage, where the best
        positive one is more than half as long as the longest negative one, or where a score is NaN.

    Example:
        >>> gold_above_longest(
        ...     torch.tensor([[0.9, 0.1], [0.9, 0.1]]),
        ...     torch.tensor([[True, False], [True, False]]),
        ...     torch.tensor([[10.0, 30.0], [20.0, 30.0]]),
        ... )
        tensor([1., nan])
    """
    best = scores.masked_fill(~has_answer, -torch.inf).argmax(dim=-1, keepdim=True)
    longest = lengths.masked_fill(has_answer, -torch.inf).argmax(dim=-1, keepdim=True)
    ahead = scores.gather(-1, best) - scores.gather(-1, longest)
    is_tested = 2 * lengths.gather(-1, best) <= lengths.gather(-1, longest)
    has_both = has_answer.any(dim=-1, keepdim=True) & ~has_answer.all(dim=-1, keepdim=True)
    is_known = is_tested & has_both & ~scores.isnan().any(dim=-1, keepdim=True)
    return (0.5 + 0.5 * ahead.sign()).masked_fill(~is_known, torch.nan)[:, 0]
