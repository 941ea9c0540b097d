"""The pre-flight check's reading: some questions, with the teacher as it is configured."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice, zip_longest
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from callbacks.log_indicators import RETRIEVAL_HIT
from datamodules.batches import Passage, Question
from datamodules.prompts import Context
from experiments.probing.scores import QuestionScores
from lightning_modules import RetrieverReaderModule
from lightning_modules.eval_mode import eval_mode
from lightning_modules.evaluation import find_hits
from lightning_modules.metrics.indicators import AttentionNormalization, Indicator
from lightning_modules.metrics.reading_indicators import reading_units
from lightning_modules.objectives import Objective
from lightning_modules.readers.reader import Reader
from lightning_modules.teacher_variants import (
    Order,
    Scores,
    Variant,
    attention_scores,
    attention_shares,
    context_of,
    head_scores_of_passages,
    in_context,
    likelihood_scores,
    passage_lengths,
    prompt_positions,
    read_alone,
    read_left_out,
)


@dataclass(frozen=True)
class ProbeSettings:
    """How much is read.

    Attributes:
        num_instances: questions read in the configured context, at most. Half of them are the split's first
            ones (in its seeded order), the others are chosen because their passages are of both kinds: only
            these tell good teachers from bad ones, and to find them costs retrieval alone.
        num_searched: for each of them, how many questions of the split are retrieved for, at most.
        num_compared: of those with both kinds of passages, how many are also read in the other ways.
        num_orders: orders of the passages that scores are averaged over.
        num_left_out: questions for which passages are left out one by one where that takes K prompts of K - 1
            passages.
        batch_size: questions read together.
        look_every: questions between two looks at whether the verdict is clear.
    """

    num_instances: int = 200
    num_searched: int = 10
    num_compared: int = 24
    num_orders: int = 3
    num_left_out: int = 8
    batch_size: int = 4
    look_every: int = 20


class Probe:
    """Reads questions with a module's reader, without training anything.

    Args:
        module: with its index.
        settings: how much is read.
        normalization: of the attention in the indicators.
        percentiles: of the indicators.
        progress: called with the number of questions read.

    Attributes:
        collected: the scores of what was read.
        indicators: both, over all questions read.
        share_with_both: of all questions retrieved for, those whose K passages are of both kinds.
        hit_rate: Hit Rate@K over all questions retrieved for.
        typical: ids of the questions that were not chosen for their passages.
    """

    def __init__(
        self,
        module: RetrieverReaderModule,
        settings: ProbeSettings,
        normalization: AttentionNormalization = AttentionNormalization.PASSAGE,
        percentiles: Sequence[int] = (90, 95),
        progress: Callable[[int], object] = lambda num_questions: None,
    ) -> None:
        assert module.reader is not None, "a teacher is a reader"
        self.module = module
        self.original: Reader = module.reader
        self.settings = settings
        self.normalization = normalization
        self.progress = progress
        self.collected = QuestionScores()
        self.indicators = [Indicator(f"indicator{number}", percentiles) for number in (1, 2)]
        for indicator in self.indicators:
            indicator.to(module.device)
        context = context_of(module.reader)
        order = module.reader.prompts.passage_order
        self.share_with_both = self.hit_rate = float("nan")
        self.typical: set[str] = set()
        self.order = Order(order.value) if context is Context.CONCATENATED else Order.RANK
        self.reader = in_context(module.reader, context or Context.CONCATENATED, order)

    def typical_indicators(self) -> dict[str, list[float]]:
        """Reading -> one value a question, of those that were not chosen for their passages."""
        is_typical = [question.id in self.typical for question in self.collected.questions]
        return {
            name: [value for value, counts in zip(values, is_typical, strict=True) if counts]
            for name, values in self.instances().items()
        }

    def instances(self) -> dict[str, list[float]]:
        """Reading -> one value for each question read, in their order: indicators and the teacher's AUC."""
        values = {name: v.tolist() for indicator in self.indicators for name, v in indicator.values().items()}
        values["teacher/auc"] = self.collected.auc(self.configured).tolist()
        values[RETRIEVAL_HIT] = self.collected.has_answer.any(dim=1).float().tolist()
        return values

    @property
    def configured(self) -> Variant:
        """The variant that the module itself would teach by."""
        teacher, context = self.module.teacher, context_of(self.original)
        if teacher.objective is Objective.EMDR2:
            return Variant(Objective.EMDR2, context, reader_temperature=teacher.reader_temperature)
        if teacher.objective is not Objective.ADIST:
            return Variant(Objective(teacher.objective), context)
        scope = self.original.prompts.token_scope
        return Variant(Objective.ADIST, context, self.order, scope, teacher.passage_score)  # type: ignore[arg-type]

    def choose(self, questions: Sequence[Question]) -> list[Question]:
        """The questions to read, after retrieving for many; see `ProbeSettings.num_instances`."""
        questions = questions[: self.settings.num_searched * self.settings.num_instances]
        hits = torch.cat(
            [
                find_hits(batch, self.retrieve(batch), self.module.answer_match)
                for batch in in_batches(questions, 64)
            ]
        )
        of_both_kinds = hits.any(dim=1) & ~hits.all(dim=1)
        self.share_with_both = float(of_both_kinds.float().mean())
        self.hit_rate = float(hits.any(dim=1).float().mean())
        chosen = choose_rows(of_both_kinds.tolist(), self.settings.num_instances)
        self.typical = {questions[row].id for row in range(min(len(questions), len(chosen) // 2))}
        return [questions[row] for row in chosen]

    def read_configured(
        self, questions: Sequence[Question], is_clear: Callable[[QuestionScores], bool]
    ) -> bool:
        """Reads questions in the configured context until all are read or the verdict is clear.

        Returns:
            Whether it stopped early.
        """
        looked_at = 0
        for batch in in_batches(questions, self.settings.batch_size):
            self._read_batch(batch)
            self.progress(len(batch))
            num_read = len(self.collected.questions)
            if num_read - looked_at >= self.settings.look_every and num_read < len(questions):
                looked_at = num_read
                if is_clear(self.collected):
                    return True
        return False

    @torch.no_grad()
    def _read_batch(self, questions: list[Question]) -> None:
        module, reader = self.module, self.reader
        passages, answers = self.retrieve(questions), first_answers(questions)
        has_answer = find_hits(questions, passages, module.answer_match)
        with eval_mode(module.retriever):
            log_p_retr = module.log_p_retr(questions, passages)
        context = context_of(reader)
        alone = context is Context.INDEPENDENT
        with eval_mode(reader):
            reading = reader.read(
                questions,
                passages,
                answers,
                with_labels=alone,
                embeddings=module.token_embeddings,
                by_head=True,
            )
        rows = self.collected.add_questions(
            questions, passages, has_answer, log_p_retr, passage_lengths(reading.prompts)
        )
        self.collected.add_scores(rows, attention_scores(reading, context, self.order))
        self.collected.add_head_scores(head_scores_of_passages(reading))
        objective = module.teacher.objective
        if alone or objective in (Objective.PDIST, Objective.EMDR2):
            likelihoods = read_alone(reader, reading, questions, passages, answers)
            self.collected.add_scores(rows, likelihood_scores(likelihoods, log_p_retr, context))
        elif objective is Objective.LOOP:
            likelihoods = read_left_out(reader, questions, passages, answers)
            self.collected.add_scores(rows, likelihood_scores(likelihoods, log_p_retr, context))
        self.collected.add_scores(rows, self.scores_of_divided_logits(questions, passages, log_p_retr))
        if context is Context.CONCATENATED:
            self.collected.add_positions(rows, self.order, prompt_positions(reading.prompts))
        shares = attention_shares(reading)
        for name, values in self.collected.shares.items():
            values += getattr(shares, name).tolist()
        units = reading_units(reading, self.normalization)
        for indicator, similarity in zip(
            self.indicators, (units.answer_similarity, units.noun_similarity), strict=True
        ):
            indicator.update(units.attention, similarity, units.mask, units.question_of_unit, len(questions))

    def scores_of_divided_logits(
        self,
        questions: Sequence[Question],
        passages: Sequence[Sequence[Passage]],
        log_p_retr: Float[Tensor, "batch passages"],
    ) -> Scores:
        """EMDR2 with the configured temperature of the reader; none where that is 1: other passes give it."""
        teacher = self.module.teacher
        if teacher.objective is not Objective.EMDR2 or teacher.reader_temperature == 1.0:
            return {}
        taught = teacher.teach(self.reader, questions, passages, first_answers(questions))
        return {self.configured: teacher.log_p_target(taught, log_p_retr)}

    def retrieve(self, questions: list[Question]) -> list[list[Passage]]:
        """The K passages of each question, by the starting retriever."""
        return self.module.retrieve(questions, self.module.num_passages)


def choose_rows(of_both_kinds: Sequence[bool], num_rows: int) -> list[int]:
    """Half the first rows as they come, the others of both kinds, by turns; more as they come if too few.

    Example:
        >>> choose_rows([False, False, False, True, True, False], 4)
        [0, 3, 1, 4]
    """
    num_typical = min(len(of_both_kinds), num_rows // 2)
    typical = list(range(num_typical))
    later = range(num_typical, len(of_both_kinds))
    telling = [row for row in later if of_both_kinds[row]]
    filling = [row for row in later if not of_both_kinds[row]]
    others = [*telling, *filling][: num_rows - num_typical]
    return [row for pair in zip_longest(typical, others) for row in pair if row is not None]


def first_answers(questions: Sequence[Question]) -> list[str]:
    """What evaluations ask the reader for: of several acceptable answers the first."""
    return [question.answers[0] for question in questions]


def in_batches(items: Sequence[Any], size: int) -> Iterator[list[Any]]:
    """Lists of `size` items, the last one shorter."""
    iterator = iter(items)
    while batch := list(islice(iterator, size)):
        yield batch
