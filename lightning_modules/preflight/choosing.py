"""Which questions a pre-flight check reads, and how many."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import zip_longest

import torch

from datamodules.batches import Question, in_batches
from lightning_modules.evaluation import find_hits
from lightning_modules.retrieval import RETRIEVED_TOGETHER, RetrievalModule


@dataclass(frozen=True)
class PreflightSettings:
    """How much is read.

    Attributes:
        num_instances: questions read in the configured context, at most; at least 2. Half of them are the
            first ones, the others are chosen because they have a positive and a negative passage: only
            these distinguish good teachers from bad ones, and to find them costs retrieval alone.
        num_searched: for each of them, how many questions are retrieved for, at most.
        num_compared: of those with a positive and a negative passage, how many are also read in other
            contexts and orders, and by objectives that need further passes.
        num_orders: orders of the passages that scores are averaged over.
        num_left_out: questions for which passages are left out one by one where that takes K prompts of K - 1
            passages, and for which a pass over all of them is made backward too.
        batch_size: questions read together.
        look_every: questions between two looks at whether the verdict is clear.
        calibrations: whether the compared questions' passages are also asked other questions, so that signals
            can be compared calibrated: about six further passes over each.

    Raises:
        ValueError: a number that is too small.
    """

    num_instances: int = 200
    num_searched: int = 10
    num_compared: int = 24
    num_orders: int = 3
    num_left_out: int = 8
    batch_size: int = 4
    look_every: int = 20
    calibrations: bool = False

    def __post_init__(self) -> None:
        fewest = {"num_instances": 2, "num_compared": 0, "num_left_out": 0, "calibrations": 0}
        for name, value in vars(self).items():
            if value < fewest.get(name, 1):
                raise ValueError(f"{name} is {value}; it must be at least {fewest.get(name, 1)}")


@dataclass(frozen=True)
class ChosenQuestions:
    """The questions to read, after retrieving for many.

    Attributes:
        questions: in the order of reading.
        typical: ids of those that were not chosen for their passages.
        share_with_both: of all questions retrieved for, those with a positive and a negative candidate.
        hit_rate: Hit Rate@K of the retriever over all questions retrieved for.
    """

    questions: list[Question]
    typical: frozenset[str]
    share_with_both: float
    hit_rate: float


def choose_questions(
    module: RetrievalModule, questions: Sequence[Question], settings: PreflightSettings
) -> ChosenQuestions:
    """Retrieves, and chooses what to read; see `PreflightSettings.num_instances`.

    Raises:
        ValueError: there are no questions.
    """
    if not questions:
        raise ValueError("there are no questions to read")
    questions = questions[: settings.num_searched * settings.num_instances]
    found, candidates = [], []
    for batch in in_batches(questions, RETRIEVED_TOGETHER):
        found.append(find_hits(batch, module.retrieve(batch, module.num_passages), module.answer_match))
        if not module.candidates.are_retrieved:
            candidates.append(find_hits(batch, module.retrieve_candidates(batch), module.answer_match))
    hits = torch.cat(candidates or found)
    has_both = hits.any(dim=1) & ~hits.all(dim=1)
    chosen = choose_rows(has_both.tolist(), settings.num_instances)
    num_typical = min(len(questions), len(chosen) // 2)
    return ChosenQuestions(
        [questions[row] for row in chosen],
        frozenset(question.id for question in questions[:num_typical]),
        share_with_both=float(has_both.float().mean()),
        hit_rate=float(torch.cat(found).any(dim=1).float().mean()),
    )


def choose_rows(has_both: Sequence[bool], num_rows: int) -> list[int]:
    """Half the first rows as they come, the others where `has_both`, by turns; more as they come if too few.

    Example:
        >>> choose_rows([False, False, False, True, True, False], 4)
        [0, 3, 1, 4]
    """
    num_typical = min(len(has_both), num_rows // 2)
    typical = list(range(num_typical))
    later = range(num_typical, len(has_both))
    sought = [row for row in later if has_both[row]]
    filling = [row for row in later if not has_both[row]]
    others = [*sought, *filling][: num_rows - num_typical]
    return [row for pair in zip_longest(typical, others) for row in pair if row is not None]
