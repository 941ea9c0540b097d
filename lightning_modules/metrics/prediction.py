"""Does a measure of a teacher say beforehand what the teacher will do? Pure maths over many teachers."""

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int
from scipy.stats import rankdata

from lightning_modules.metrics.estimates import Estimate

FEWEST_TEACHERS = 4
"""Over fewer teachers an order says nothing."""
FEWEST_FOR_INTERVAL = 8
"""Over fewer teachers an interval is about as wide as a correlation can be, and is not given."""
_RANKED_DECIMALS = 10
"""Of the largest of a row: far above what sums in another order differ by, far below what is measured."""


def rank_correlation(
    first: Float[np.ndarray, "*samples teachers"], second: Float[np.ndarray, "*samples teachers"]
) -> Float[np.ndarray, "*samples"]:
    """Spearman's correlation along the last axis; ties share ranks, NaN where either side is constant.

    Values that differ by less than about 1e-10 of the largest are ties: means of equal values that were
    summed in another order, as they are with another number of threads, must not be ranked by their last bit.

    Example:
        >>> float(rank_correlation(np.array([1.0, 2.0, 3.0]), np.array([10.0, 30.0, 20.0])))
        0.5
    """
    ranks = [rankdata(_without_last_bits(values), axis=-1) for values in (first, second)]
    one, other = (of - of.mean(axis=-1, keepdims=True) for of in ranks)
    with np.errstate(invalid="ignore"):
        return np.asarray(
            (one * other).sum(axis=-1) / np.sqrt((one**2).sum(axis=-1) * (other**2).sum(axis=-1))
        )


def _without_last_bits(
    values: Float[np.ndarray, "*samples teachers"],
) -> Float[np.ndarray, "*samples teachers"]:
    """Relative to the largest of each row, rounded."""
    largest = np.abs(values).max(axis=-1, keepdims=True)
    return np.round(values / np.where(largest > 0, largest, 1.0), _RANKED_DECIMALS)


def correlation_with_gain(
    measure: Float[np.ndarray, " teachers"],
    gains: Float[np.ndarray, "teachers seeds questions"],
    families: Sequence[str],
    level: float = 0.95,
    num_samples: int = 2000,
    seed: int = 0,
) -> Estimate:
    """Spearman's correlation over teachers between a measure and the mean gain, with a bootstrap interval.

    Each sample draws families of teachers, teachers of each, and once for all teachers seeds and questions,
    since all have the same: the interval holds what other families, seeds and questions would have given.
    Teachers of one family are much alike, and drawn one by one they would make it too narrow.

    Args:
        measure: of each teacher; teachers without one (NaN) are left out.
        gains: of each question, with each seed of each teacher.
        families: of each teacher.
        level: of the interval.
        num_samples, seed: of the bootstrap.

    Returns:
        With the number of teachers as `n`; NaN of fewer than `FEWEST_TEACHERS`, or of a constant measure, and
        without an interval over fewer than `FEWEST_FOR_INTERVAL`.
    """
    known = ~np.isnan(measure)

    def correlation(
        chosen: Int[np.ndarray, "samples drawn"], means: Float[np.ndarray, "samples drawn"]
    ) -> Float[np.ndarray, " samples"]:
        return rank_correlation(measure[known][chosen], means)

    return _over_teachers(correlation, gains[known], np.asarray(families)[known], level, num_samples, seed)


def difference_of_correlations(
    first: Float[np.ndarray, " teachers"],
    second: Float[np.ndarray, " teachers"],
    gains: Float[np.ndarray, "teachers seeds questions"],
    families: Sequence[str],
    level: float = 0.95,
    num_samples: int = 2000,
    seed: int = 0,
) -> Estimate:
    """By how much better one measure orders teachers than another: the difference of the correlations.

    Args:
        first, second: measures of which more should mean a larger gain; teachers without one of them (NaN)
            are left out.
        gains, families, level, num_samples, seed: as in `correlation_with_gain`; each sample is the same for
            both.
    """
    known = ~np.isnan(first) & ~np.isnan(second)

    def difference(
        chosen: Int[np.ndarray, "samples drawn"], means: Float[np.ndarray, "samples drawn"]
    ) -> Float[np.ndarray, " samples"]:
        one, other = (rank_correlation(of[known][chosen], means) for of in (first, second))
        return one - other

    return _over_teachers(difference, gains[known], np.asarray(families)[known], level, num_samples, seed)


def _over_teachers(
    statistic: Callable[[np.ndarray, np.ndarray], np.ndarray],
    gains: Float[np.ndarray, "teachers seeds questions"],
    families: np.ndarray,
    level: float,
    num_samples: int,
    seed: int,
) -> Estimate:
    """A statistic of teachers, as they are numbered, and of their mean gains; see `correlation_with_gain`."""
    num_teachers = len(gains)
    if num_teachers < FEWEST_TEACHERS:
        return Estimate(np.nan, np.nan, np.nan, num_teachers)
    value = float(statistic(np.arange(num_teachers)[None], gains.mean(axis=(1, 2))[None])[0])
    if num_teachers < FEWEST_FOR_INTERVAL:
        return Estimate(value, np.nan, np.nan, num_teachers)
    draws = _draws(gains, families, num_samples, np.random.default_rng(seed))
    sampled = np.concatenate([statistic(chosen, means) for chosen, means in draws])
    # samples in which nothing is defined, such as those of one teacher alone, are left out
    sampled = sampled[~np.isnan(sampled)]
    if np.isnan(value) or not len(sampled):
        return Estimate(value, np.nan, np.nan, num_teachers)
    low, high = np.quantile(sampled, [(1 - level) / 2, (1 + level) / 2]).tolist()
    return Estimate(value, low, high, num_teachers)


def _draws(
    gains: Float[np.ndarray, "teachers seeds questions"],
    families: np.ndarray,
    num_samples: int,
    random: np.random.Generator,
) -> Iterator[tuple[Int[np.ndarray, "samples drawn"], Float[np.ndarray, "samples drawn"]]]:
    """Teachers drawn with replacement, family by family, and their mean gains; by how many were drawn."""
    _, num_seeds, num_questions = gains.shape
    questions = random.multinomial(num_questions, np.full(num_questions, 1 / num_questions), num_samples)
    seeds = random.multinomial(num_seeds, np.full(num_seeds, 1 / num_seeds), num_samples)
    by_seed = np.tensordot(questions / num_questions, gains, axes=(1, 2))
    means = np.einsum("nts,ns->nt", by_seed, seeds / num_seeds)
    members = [np.flatnonzero(families == family) for family in dict.fromkeys(families.tolist())]
    by_number: dict[int, list[tuple[int, np.ndarray]]] = {}
    for sample in range(num_samples):
        drawn = [members[i] for i in random.integers(0, len(members), len(members))]
        chosen = np.concatenate([of[random.integers(0, len(of), len(of))] for of in drawn])
        by_number.setdefault(len(chosen), []).append((sample, chosen))
    for found in by_number.values():
        samples, chosen = np.array([sample for sample, _ in found]), np.stack([of for _, of in found])
        yield chosen, means[samples[:, None], chosen]


def reliability(
    gains: Float[np.ndarray, "teachers seeds questions"], num_splits: int = 200, seed: int = 0
) -> float:
    """How well the gains themselves are known: what no measure's correlation with them should exceed.

    Spearman's correlation between the teachers' mean gains on two random halves of the questions, each with
    all seeds, as it would be of twice as many questions (Spearman and Brown); the mean over splits.
    """
    random = np.random.default_rng(seed)
    by_question = gains.mean(axis=1)
    found = []
    for _ in range(num_splits):
        order = random.permutation(by_question.shape[1])
        halves = np.array_split(order, 2)
        half = float(rank_correlation(*(by_question[:, part].mean(axis=1) for part in halves)))
        found.append(2 * half / (1 + half) if half > 0 else 0.0)
    return float(np.mean(found))


@dataclass(frozen=True)
class LeftOut:
    """What a rule that was made without a teacher, and without all that are like it, says of it.

    Attributes:
        predicted: the gain of each teacher; NaN where too few others are unlike it.
        from_mean: the mean gain of those others: what knows nothing of the teacher.
        chosen: the measure that the rule for each teacher goes by; "" where there is none.
    """

    predicted: Float[np.ndarray, " teachers"]
    from_mean: Float[np.ndarray, " teachers"]
    chosen: list[str]


def predict_left_out(
    measures: Mapping[str, Float[np.ndarray, " teachers"]],
    gains: Float[np.ndarray, " teachers"],
    traits: Sequence[Collection[str]],
) -> LeftOut:
    """Predicts the gain of each teacher by a rule that was made on teachers which have nothing in common.

    The rule goes by the measure that orders those others best (Spearman; the first of equals), and by the
    straight line of least squares through them.

    Args:
        measures: by name, of which more should mean a larger gain; without NaN.
        gains: of each teacher.
        traits: of each teacher, such as its reader and its signals; those that share one are alike.
    """
    predicted, from_mean = np.full(len(gains), np.nan), np.full(len(gains), np.nan)
    chosen = [""] * len(gains)
    for teacher, own in enumerate(traits):
        others = np.array([not set(own) & set(of) for of in traits])
        if others.sum() < FEWEST_TEACHERS:
            continue
        strength = {
            name: np.nan_to_num(float(rank_correlation(values[others], gains[others])))
            for name, values in measures.items()
        }
        best = max(strength, key=lambda name: strength[name])
        values = measures[best]
        centred = values[others] - values[others].mean()
        spread = float((centred**2).sum())
        slope = float((centred * gains[others]).sum()) / spread if spread > 0 else 0.0
        mean = float(gains[others].mean())
        predicted[teacher] = mean + slope * (values[teacher] - values[others].mean())
        from_mean[teacher], chosen[teacher] = mean, best
    return LeftOut(predicted, from_mean, chosen)


def balanced_accuracy(said: Sequence[bool], true: Sequence[bool]) -> float:
    """Mean of the shares of true ones and of false ones that were told; 0.5 is chance. NaN without either.

    Example:
        >>> balanced_accuracy([True, True, False, True], [True, True, False, False])
        0.75
    """
    is_said, is_true = np.asarray(said, dtype=bool), np.asarray(true, dtype=bool)
    if is_true.all() or not is_true.any():
        return float("nan")
    return float((is_said[is_true].mean() + (~is_said[~is_true]).mean()) / 2)
