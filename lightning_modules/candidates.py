"""Candidates: which passages a question is read with in training."""

import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import zip_longest

import numpy as np
import torch
from jaxtyping import Bool
from torch import Tensor

from datamodules.batches import Passage
from datamodules.choices import Choice


class CandidateSource(Choice):
    """Who finds them."""

    INDEX = "index"
    """The retriever itself (the paper)."""
    BM25 = "bm25"
    BOTH = "both"
    """By turns, BM25 first."""


class CandidateChoice(Choice):
    """Which K of those that were found."""

    FIRST = "first"
    SAMPLED = "sampled"
    """Others in each training step; evaluations read the first."""


@dataclass(frozen=True)
class Candidates:
    """How the K passages that a question is read with are found.

    A weak retriever finds passages with an answer for few questions, and from the others next to nothing can
    be learnt; DKRR, where attention distillation comes from, starts with BM25's passages.

    Attributes:
        source: who finds them.
        choice: which of them are taken.
        num_from_each: N, the first so many of each source are chosen from; None = K.
        are_fixed: whether training questions keep those that were found for them before the first step, so
            that a frozen reader reads nothing new as the retriever learns. Evaluations find theirs anew.

    Raises:
        ValueError: a source or choice that is unknown, or N below 1.
    """

    source: CandidateSource | str = CandidateSource.INDEX
    choice: CandidateChoice | str = CandidateChoice.FIRST
    num_from_each: int | None = None
    are_fixed: bool = False

    def __post_init__(self) -> None:
        object.__setattr__(self, "source", CandidateSource(self.source))
        object.__setattr__(self, "choice", CandidateChoice(self.choice))
        if self.num_from_each is not None and self.num_from_each < 1:
            raise ValueError(f"num_from_each is {self.num_from_each}; it must be at least 1")

    @property
    def are_retrieved(self) -> bool:
        """Whether evaluations read just what the index ranks first."""
        return self.source is CandidateSource.INDEX

    @property
    def uses_index(self) -> bool:
        return self.source is not CandidateSource.BM25

    @property
    def uses_bm25(self) -> bool:
        return self.source is not CandidateSource.INDEX

    def num_to_find(self, num_passages: int, num_known: int) -> int:
        """How many each source must find for K candidates.

        Args:
            num_passages: K.
            num_known: passages in the knowledge base.

        Raises:
            ValueError: `num_from_each` is too small for K.
        """
        found = num_passages if self.num_from_each is None else self.num_from_each
        if found * (1 + (self.source is CandidateSource.BOTH)) < num_passages:
            raise ValueError(
                f"num_from_each={found} of each source cannot give {num_passages} candidates; raise it"
            )
        # what both have found counts once: one of them must be able to fill up
        return min(max(found, num_passages), num_known)

    def choose(
        self, rankings: Sequence[Sequence[int]], num_passages: int, seed: tuple[int, str] | None = None
    ) -> list[int]:
        """K rows of what the sources found, best first, none twice.

        Args:
            rankings: rows by source, best first, each at least K.
            num_passages: K.
            seed: of a sample, a number and the question's id; None = the first K in any case.
        """
        limit = self.num_from_each or num_passages
        within = interleave([ranking[:limit] for ranking in rankings])
        beyond = interleave([ranking[limit:] for ranking in rankings])
        # what is beyond the limit fills up where the sources agree on too much
        rows = within + [row for row in beyond if row not in within][: max(0, num_passages - len(within))]
        if self.choice is CandidateChoice.FIRST or seed is None:
            return rows[:num_passages]
        number, question_id = seed
        random = np.random.default_rng((number, zlib.crc32(question_id.encode("utf-8", "surrogatepass"))))
        return [rows[i] for i in sorted(random.choice(len(rows), num_passages, replace=False).tolist())]


def interleave(rankings: Sequence[Sequence[int]]) -> list[int]:
    """All rows by turns, each where it first comes.

    Example:
        >>> interleave([[1, 2, 3], [2, 4]])
        [1, 2, 4, 3]
    """
    by_turns = (row for rows in zip_longest(*rankings) for row in rows if row is not None)
    return list(dict.fromkeys(by_turns))


def other_passages(
    passages: Sequence[Sequence[Passage]], of_all: Sequence[Sequence[Passage]]
) -> Bool[Tensor, "batch all passages"]:
    """For each question, which passages of all questions are others than its own, each counted once.

    By title and text: a corpus may hold one text under several ids.

    Args:
        passages: those of each question.
        of_all: of all questions, of other processes too.
    """
    texts = [[(passage.title, passage.text) for passage in found] for found in of_all]
    masks = []
    for own in passages:
        seen = {(passage.title, passage.text) for passage in own}
        mask = []
        for found in texts:
            mask.append([text not in seen for text in found])
            seen.update(found)
        masks.append(mask)
    return torch.tensor(masks)
