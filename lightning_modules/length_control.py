"""How much of a retriever's gain is the length of the passages that it prefers.

Long passages hold answers more often, so a retriever can gain Hit Rate by length alone: by coming to prefer
long ones, or by losing a preference for short ones, whichever it started with. The control adds a bonus for
length to the scores of the starting retriever, and of the trained one: s(n, Q) + bonus * log(words of n).
Each gets the bonus that serves it best on the validation questions; what is left between them on the test
questions is not length.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float32, Float64

from datamodules.answer_matching import AnswerMatch, HitMatcher
from datamodules.batches import Passage, Question
from lightning_modules.encoding import encode_passages
from lightning_modules.eval_mode import eval_mode
from lightning_modules.metrics.estimates import Estimate, estimate
from lightning_modules.retriever import Retriever

STEPS = tuple(step / 10 for step in range(-5, 16))
"""Bonuses tried: their standard deviation over passages, as a share of the scores' own."""
MAX_PASSAGES = 200_000
"""More cannot all be scored at once."""


@dataclass(frozen=True)
class Bonus:
    """What a bonus for length does to a retriever on some questions.

    Attributes:
        size: times log(words) is added to the scores.
        hits: whether an answer is among the first K passages, question by question.
        words: mean words of these passages.
        gold_found: share of the questions that name their gold passage, by its title, which have it among the
            first K; None where none does.
    """

    size: float
    hits: np.ndarray
    words: float
    gold_found: float | None

    @property
    def hit_rate(self) -> float:
        return float(self.hits.mean())


@dataclass(frozen=True)
class Controlled:
    """A retriever on the test questions: as it is, and with the bonus chosen on the validation questions."""

    plain: Bonus
    chosen: Bonus


Embed = Callable[[Retriever, list[Passage]], Float32[np.ndarray, "passages dim"]]


@dataclass(frozen=True)
class LengthControl:
    """What a run gained, and what is left of it beside a bonus for length.

    Attributes:
        start, trained: both retrievers.
        gain: of Hit Rate@K, trained less start.
        by_length: start with its bonus less start.
        beyond_length: trained with its bonus less start with its bonus.
        corpus_words: mean words of all passages.
    """

    start: Controlled
    trained: Controlled
    gain: Estimate
    by_length: Estimate
    beyond_length: Estimate
    corpus_words: float

    @property
    def starts_short(self) -> bool:
        """Whether the starting retriever prefers short passages, so that a bonus for length undoes that."""
        return self.start.plain.words < self.corpus_words


def control_length(
    start: Retriever,
    trained: Retriever,
    passages: list[Passage],
    validation: Sequence[Question],
    test: Sequence[Question],
    *,
    num_passages: int = 5,
    match: AnswerMatch | str = AnswerMatch.TOKENS,
    embed: Embed = encode_passages,
) -> LengthControl:
    """Controls a retriever, and the one that its training started with.

    Args:
        start, trained: both retrievers.
        passages: the whole knowledge base.
        validation: questions that each retriever's bonus is chosen on.
        test: other questions, that gains are measured on.
        num_passages: K of the Hit Rate.
        match: when a passage holds an answer.
        embed: a retriever's embeddings of all passages, for one who has them already.

    Raises:
        ValueError: too many passages to score them all at once.
    """
    if len(passages) > MAX_PASSAGES:
        raise ValueError(
            f"passages: {len(passages):,} cannot all be scored at once; the control is for at most "
            f"{MAX_PASSAGES:,}"
        )
    found = []
    for retriever in (start, trained):
        embeddings = embed(retriever, passages)
        on_validation, on_test = (
            PassageRanking.of(retriever, embeddings, questions, passages, match)
            for questions in (validation, test)
        )
        best = on_validation.best_size(num_passages)
        plain, chosen = (on_test.with_bonus(size, num_passages) for size in (0.0, best))
        found.append(Controlled(plain, chosen))
    before, after = found
    return LengthControl(
        before,
        after,
        gain=estimate(after.plain.hits - before.plain.hits),
        by_length=estimate(before.chosen.hits - before.plain.hits),
        beyond_length=estimate(after.chosen.hits - before.chosen.hits),
        corpus_words=float(np.mean([num_words(passage) for passage in passages])),
    )


def num_words(passage: Passage) -> int:
    """Of its text."""
    return len(passage.text.split())


class PassageRanking:
    """Questions with the scores s(n, Q) of all passages.

    Args:
        scores: [questions, passages].
        questions, passages: in that order.
        match: when a passage holds an answer.
    """

    def __init__(
        self,
        scores: np.ndarray,
        questions: Sequence[Question],
        passages: Sequence[Passage],
        match: AnswerMatch | str,
    ) -> None:
        self.scores = scores
        self.passages = passages
        self.words = np.array([num_words(passage) for passage in passages], dtype=float)
        self.log_words = np.log(np.maximum(self.words, 1.0))
        self._matchers = [HitMatcher(question, match) for question in questions]
        self._known: dict[tuple[int, int], bool] = {}
        self._titles = np.array([passage.title for passage in passages])
        self._gold_titles = [question.title for question in questions]

    @classmethod
    def of(
        cls,
        retriever: Retriever,
        embeddings: Float32[np.ndarray, "passages dim"],
        questions: Sequence[Question],
        passages: list[Passage],
        match: AnswerMatch | str,
    ) -> "PassageRanking":
        """Scores by a retriever, in eval mode, and its embeddings of the passages."""
        with torch.no_grad(), eval_mode(retriever):
            texts = [question.text for question in questions]
            queries = torch.cat(
                [retriever.encode_queries(texts[i : i + 64]) for i in range(0, len(texts), 64)]
            )
        return cls(queries.float().cpu().numpy() @ embeddings.T, questions, passages, match)

    def sizes(self) -> list[float]:
        """Bonuses to try: `STEPS` in units of these scores."""
        spread = self.log_words.std()
        if spread == 0:  # all passages are equally long
            return [0.0]
        unit = self.scores.std(axis=1).mean() / spread
        return [float(step * unit) for step in STEPS]

    def best_size(self, k: int) -> float:
        """The bonus under which most of these questions have an answer among the first k passages."""
        return max(self.sizes(), key=lambda size: (self.with_bonus(size, k).hit_rate, -abs(size)))

    def with_bonus(self, size: float, k: int) -> Bonus:
        """The first k passages under a bonus for length."""
        top = np.argsort(-(self.scores + size * self.log_words), axis=1, kind="stable")[:, :k]
        hits = [any(self._matches(row, column) for column in found) for row, found in enumerate(top.tolist())]
        return Bonus(size, np.array(hits, dtype=float), float(self.words[top].mean()), self._gold_found(top))

    def reciprocal_ranks(self, k: int) -> Float64[np.ndarray, " questions"]:
        """1 / rank of each question's first passage with an answer; 0 where none is among the first k."""
        top = np.argsort(-self.scores, axis=1, kind="stable")[:, :k]
        ranks = (
            next((rank for rank, column in enumerate(found, start=1) if self._matches(row, column)), 0)
            for row, found in enumerate(top.tolist())
        )
        return np.array([1 / rank if rank else 0.0 for rank in ranks])

    def _gold_found(self, top: np.ndarray) -> float | None:
        found = [
            title in self._titles[columns]
            for title, columns in zip(self._gold_titles, top, strict=True)
            if title
        ]
        return float(np.mean(found)) if found else None

    def _matches(self, row: int, column: int) -> bool:
        key = row, column
        if key not in self._known:
            self._known[key] = self._matchers[row].matches(self.passages[column])
        return self._known[key]
