"""How published methods score attention heads, and what their choice is worth on held-out questions."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from lightning_modules.metrics.bootstrap import bootstrap_interval
from lightning_modules.metrics.head_search import question_folds
from lightning_modules.metrics.matched_auc import MatchedAUC, matched_auc
from lightning_modules.metrics.teacher_auc import teacher_auc

_CUTOFF = 10
"""Ranks that count in nDCG@10."""


def ranking_quality(
    scores: Float[Tensor, "questions layers heads passages"], has_answer: Bool[Tensor, "questions passages"]
) -> Float[Tensor, "layers heads"]:
    r"""QRHead (arXiv 2506.09944): how well a head alone ranks the passages, as the mean nDCG@10.

    .. math::
        \mathrm{nDCG}@10 = \frac{\sum_{i: r_i \le 10} y_i / \log_2(1 + r_i)}
                                {\sum_{i=1}^{\min(10, \sum_j y_j)} 1 / \log_2(1 + i)}

    r_i is the rank of passage i, y_i whether it holds an answer. Tied passages share the mean of their ranks,
    so the order in which they were retrieved plays no part. The authors' calibration with an empty question
    is left out.

    Args:
        scores: passage scores by head; any sizes, only their order counts.
        has_answer: True = the passage holds an answer; at least one in each question.

    Example:
        >>> scores = torch.tensor([[[[3.0, 2.0, 1.0]], [[1.0, 2.0, 3.0]]]])
        >>> ranking_quality(scores, torch.tensor([[True, False, False]]))
        tensor([[1.0000],
                [0.5000]])
    """
    higher = (scores[..., None, :] > scores[..., :, None]).sum(dim=-1)
    tied = (scores[..., None, :] == scores[..., :, None]).sum(dim=-1)
    rank = 1 + higher + (tied - 1) / 2
    gains = (has_answer[:, None, None] & (rank <= _CUTOFF)) / torch.log2(1 + rank)
    best_ranks = torch.arange(1, has_answer.shape[1] + 1, device=scores.device)
    reached = best_ranks <= has_answer.sum(dim=1, keepdim=True).clamp(max=_CUTOFF)
    ideal = (reached / torch.log2(1.0 + best_ranks)).sum(dim=1)
    return (gains.sum(dim=-1) / ideal[:, None, None]).mean(dim=0)


def contrastive_score(
    scores: Float[Tensor, "questions layers heads passages"],
    has_answer: Bool[Tensor, "questions passages"],
    temperature: float | None = None,
) -> Float[Tensor, "layers heads"]:
    r"""CoRe heads (arXiv 2510.02219): the share that a head gives to a positive passage among negative ones.

    .. math:: \mathrm{mean}_{+} \frac{e^{x_+ / t}}{e^{x_+ / t} + \sum_{-} e^{x_- / t}}

    The negatives are the retrieved passages without an answer. t is the same for all heads: those whose
    scores hardly differ get the share of chance, and loud ones that are wrong much less, as befits a teacher
    that is the plain mean over heads. The authors' t differs a hundredfold between models; here it follows
    the scores.

    Args:
        scores: passage scores by head.
        has_answer: True = the passage holds an answer; at least one in each question.
        temperature: t; None = the median over heads of the standard deviation within a question.

    Example:
        >>> scores = torch.tensor([[[[2.0, 0.0, 0.0]], [[0.0, 2.0, 0.0]]]])
        >>> contrastive_score(scores, torch.tensor([[True, False, False]]), temperature=1.0)
        tensor([[0.7870],
                [0.1065]])
    """
    within = scores - scores.mean(dim=-1, keepdim=True)  # the same softmax, and no overflow
    if temperature is None:
        spread = within.square().mean(dim=(0, 3)).sqrt().median()
        temperature = max(float(spread), torch.finfo(scores.dtype).tiny)
    logits = within / temperature
    positive = has_answer[:, None, None]
    of_negatives = logits.masked_fill(positive, -torch.inf).logsumexp(dim=-1, keepdim=True)
    share = torch.sigmoid(logits - of_negatives).masked_fill(~positive, 0.0)
    return (share.sum(dim=-1) / positive.sum(dim=-1)).mean(dim=0)


HeadMethod = Callable[
    [Float[Tensor, "questions layers heads passages"], Bool[Tensor, "questions passages"]],
    Float[Tensor, "layers heads"],
]
"""Makes the score of each head, the higher the better, of passage scores by head and which hold an answer."""

HEAD_METHODS: dict[str, HeadMethod] = {"qrhead": ranking_quality, "core": contrastive_score}
"""All published methods by name: what `reader.attention_heads` writes before the number of heads."""


def ranked_heads(head_scores: Float[Tensor, "layers heads"]) -> Int[Tensor, "all_heads 2"]:
    """(layer, head) of all heads, the best score first; equals in the order of the layers.

    Example:
        >>> ranked_heads(torch.tensor([[0.1, 0.9], [0.9, 0.2]])).tolist()
        [[0, 1], [1, 0], [1, 1], [0, 0]]
    """
    order = head_scores.flatten().argsort(descending=True, stable=True)
    return torch.stack([order // head_scores.shape[1], order % head_scores.shape[1]], dim=1)


@dataclass(frozen=True)
class HeldOutHeads:
    """What the best heads of a method are worth on questions that had no part in their choice.

    Attributes:
        num_heads: how many.
        auc: mean `teacher_auc` of their mean passage score.
        gain: over that of all heads.
        interval: its bootstrap 95% interval over questions; as `search_heads` says, a little too narrow.
        at_equal_length: AUC between passages of equal length.
    """

    num_heads: int
    auc: float
    gain: float
    interval: tuple[float, float]
    at_equal_length: MatchedAUC

    def to_json(self) -> dict[str, int | float | None]:
        """For a file of heads; None where nothing can be matched by length."""
        low, high = self.interval
        equal = self.at_equal_length.mean
        return {
            "num_heads": self.num_heads,
            "auc": round(self.auc, 4),
            "gain": round(self.gain, 4),
            "low": round(low, 4),
            "high": round(high, 4),
            "auc_at_equal_length": None if math.isnan(equal) else round(equal, 4),
        }


def held_out_ranking(
    scores: Float[Tensor, "questions layers heads passages"],
    has_answer: Bool[Tensor, "questions passages"],
    method: HeadMethod,
    num_folds: int = 5,
    seed: int = 0,
) -> Int[Tensor, "questions all_heads"]:
    """All heads for each question, the best first by the questions of the other folds.

    The folds are the same for every method.

    Args:
        scores, has_answer, method: as in `judge_heads`.
        num_folds: at most the number of questions.
        seed: of the folds.

    Returns:
        Heads counted through all layers.
    """
    num_questions, num_layers, num_heads, _ = scores.shape
    generator = torch.Generator().manual_seed(seed)
    everything = torch.arange(num_questions, device=scores.device)
    ranking = everything.new_empty(num_questions, num_layers * num_heads)
    for training, held_out in question_folds(everything, num_folds, generator):
        places = ranked_heads(method(scores[training], has_answer[training]))
        ranking[held_out] = places[:, 0] * num_heads + places[:, 1]
    return ranking


def mean_of_ranked(
    scores: Float[Tensor, "questions layers heads passages"],
    ranking: Int[Tensor, "questions all_heads"],
    num_heads: int,
) -> Float[Tensor, "questions passages"]:
    """The mean of each question's first heads.

    Args:
        scores: passage scores by head.
        ranking: heads of each question, counted through all layers (`held_out_ranking`).
        num_heads: how many of them.
    """
    flat = scores.flatten(1, 2)
    best = ranking[:, :num_heads, None].expand(-1, -1, flat.shape[-1])
    return flat.gather(1, best).mean(dim=1)


def judge_heads(
    scores: Float[Tensor, "questions layers heads passages"],
    has_answer: Bool[Tensor, "questions passages"],
    lengths: Float[Tensor, "questions passages"],
    method: HeadMethod,
    counts: Sequence[int],
    num_folds: int = 5,
    seed: int = 0,
) -> list[HeldOutHeads]:
    """Cross-validation over questions: heads are scored on the other folds and judged on their own.

    Nothing else is chosen within a fold, so each row is unbiased by itself; the best of several rows
    flatters. The folds are the same for every method and number of heads.

    Args:
        scores: passage scores by head (`head_passage_scores`), of questions that all have a positive and a
            negative passage.
        has_answer: True = the passage holds an answer.
        lengths: of the passages, in tokens.
        method: of `HEAD_METHODS`.
        counts: numbers of heads.
        num_folds: at most the number of questions.
        seed: of the folds and the bootstrap.

    Returns:
        One for each of `counts`, and of all heads last.
    """
    num_all = scores.shape[1] * scores.shape[2]
    ranking = held_out_ranking(scores, has_answer, method, num_folds, seed)
    # sums of float32 would break ties by the order of summation
    doubled = scores.double()
    all_scores = doubled.flatten(1, 2).mean(dim=1)
    of_all = teacher_auc(all_scores, has_answer).double()
    judged = []
    for count in (*counts, num_all):
        found_scores = all_scores if count == num_all else mean_of_ranked(doubled, ranking, count)
        found = teacher_auc(found_scores, has_answer).double()
        judged.append(
            HeldOutHeads(
                num_heads=count,
                auc=float(found.mean()),
                gain=float((found - of_all).mean()),
                interval=bootstrap_interval((found - of_all).cpu(), seed=seed),
                at_equal_length=matched_auc(found_scores, has_answer, lengths, seed=seed),
            )
        )
    return judged
