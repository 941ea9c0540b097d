"""Sets of attention heads that a check has rows for: every pass keeps all heads, so they take no other."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import assert_never

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from lightning_modules.attention_heads import AttentionHeads
from lightning_modules.head_lists import HeadRows, shipped_list
from lightning_modules.metrics.head_methods import HEAD_METHODS, held_out_ranking, mean_of_ranked
from lightning_modules.metrics.head_search import HeadSums
from lightning_modules.objectives import ADist, Objective, Signals
from lightning_modules.objectives.base import Constants
from lightning_modules.readers.base import Reader
from lightning_modules.readers.outputs import PassageSignals

PUBLISHED = (("qrhead", 16), ("core", 8))
"""Published methods, and of how many heads by each there are rows."""
_NUM_FOLDS = 5
_FEWEST_QUESTIONS = 2 * _NUM_FOLDS
"""With fewer, a fold's heads would be chosen by next to nothing."""


@dataclass(frozen=True)
class HeadSet:
    """Heads whose attention makes a row.

    Attributes:
        name: in that of the row.
        setting: value of `reader.attention_heads`; None: none is it, since each question has the heads that
            were chosen on others.
        heads: which; None = all, or each question's own.
    """

    name: str
    setting: str | None
    heads: AttentionHeads | None = None

    def mask(self, num_layers: int, num_heads: int) -> Bool[Tensor, "layers heads"]:
        """True = the head counts."""
        if self.heads is None:
            return torch.ones(num_layers, num_heads, dtype=torch.bool)
        return self.heads.mask(num_layers, num_heads)


ALL_HEADS = HeadSet("all heads", "null")


def head_sets_of(reader: Reader) -> list[HeadSet]:
    """All heads, and those of published methods that a list of this reader is shipped of; without the set
    that it is configured with."""
    shape = reader.num_layers_and_heads
    configured = ALL_HEADS.mask(*shape) if reader.heads_mask is None else reader.heads_mask
    sets = [ALL_HEADS]
    for method, num_heads in PUBLISHED:
        listed = shipped_list(method, reader.model)
        if listed is not None and num_heads <= len(listed.heads):
            name = f"{method}:{num_heads}"
            sets.append(HeadSet(name, name, listed.best(num_heads)))
    return [one for one in sets if not torch.equal(one.mask(*shape), configured)]


def unlisted_methods(reader: Reader) -> list[tuple[str, int]]:
    """The published methods that no list of this reader is shipped of, where it has heads to choose from."""
    num_layers, num_heads = reader.num_layers_and_heads
    return [
        (method, count)
        for method, count in PUBLISHED
        if count < num_layers * num_heads and shipped_list(method, reader.model) is None
    ]


def rows_of(
    sums: HeadSums, rows: HeadRows
) -> tuple[HeadRows, Float[Tensor, "questions layers heads passages"]]:
    """Whose rows are looked at, which are the answer's where a reader has no others, and their sums."""
    match rows:
        case HeadRows.QUESTION if sums.question is not None:
            return HeadRows.QUESTION, sums.question
        case HeadRows.QUESTION | HeadRows.ANSWER:
            return HeadRows.ANSWER, sums.answer
        case _:
            assert_never(rows)


def attention_of(rows: HeadRows, constants: Constants | str) -> Objective:
    """The objective that looks at the attention of these rows alone."""
    match rows:
        case HeadRows.QUESTION:
            return Signals(constants=constants, signals={"question": 1.0})
        case HeadRows.ANSWER:
            return ADist(constants=constants)
        case _:
            assert_never(rows)


def held_out_signals(
    sums: HeadSums,
    likelihood: Float[Tensor, "questions passages"] | None,
    has_answer: Bool[Tensor, "questions passages"],
    rows: HeadRows,
    methods: list[tuple[str, int]],
) -> Iterator[tuple[HeadSet, PassageSignals]]:
    """By published methods, each question with the heads that were chosen on the questions of other folds.

    Args:
        sums, likelihood: of questions that all have a positive and a negative passage.
        has_answer: True = the passage holds an answer.
        rows: whose attention the heads are chosen by.
        methods: with their numbers of heads. Of too few questions nothing comes.
    """
    if len(has_answer) < _FEWEST_QUESTIONS:
        return
    _, chosen_by = rows_of(sums, rows)
    for method, num_heads in methods:
        ranking = held_out_ranking(chosen_by, has_answer, HEAD_METHODS[method], _NUM_FOLDS)
        question = None if sums.question is None else mean_of_ranked(sums.question, ranking, num_heads)
        signals = PassageSignals(mean_of_ranked(sums.answer, ranking, num_heads), question, likelihood)
        yield HeadSet(f"{method}:{num_heads} held out", None), signals
