"""The pre-flight check: reads some questions with the teacher as it is, and keeps what each way of teaching
would make of them."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import islice, zip_longest
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from callbacks.log_indicators import RETRIEVAL_HIT
from datamodules.batches import Passage, Question
from datamodules.prompts import Context, PassageOrder, Shown
from lightning_modules import RetrieverReaderModule
from lightning_modules.eval_mode import eval_mode
from lightning_modules.evaluation import find_hits
from lightning_modules.metrics.indicators import AttentionNormalization, Indicator
from lightning_modules.metrics.reading_indicators import reading_units
from lightning_modules.metrics.teacher_auc import teacher_auc
from lightning_modules.objectives import Objective
from lightning_modules.readers.reader import Reader
from lightning_modules.teacher_variants import (
    Order,
    Scores,
    Variant,
    attention_scores,
    attention_shares,
    averaged_over_orders,
    context_of,
    head_scores_of_passages,
    in_context,
    likelihood_scores,
    passage_lengths,
    prompt_positions,
    read_alone,
    read_left_out,
)

_UNRELATED_ORDER = 1000
"""Seed of the order in which an unrelated question sees the passages: one that no other pass uses."""


class QuestionScores:
    """Passage scores of every variant, question by question; NaN where a question was not read that way.

    Attributes:
        questions: that were read.
        passages: ids of the K passages retrieved for each.
        has_answer, log_p_retr, lengths: of their K retrieved passages.
        positions: where each passage stood in a concatenated prompt, by the order asked for.
        shares: attention on passages, first token and the rest, of the configured context.
    """

    def __init__(self) -> None:
        self.questions: list[Question] = []
        self.passages: list[list[str]] = []
        self._has_answer: list[Tensor] = []
        self._log_p_retr: list[Tensor] = []
        self._lengths: list[Tensor] = []
        self._scores: dict[Variant, dict[int, Tensor]] = {}
        self._unrelated: dict[Variant, dict[int, Tensor]] = {}
        self._positions: dict[Order, dict[int, Tensor]] = {}
        self._head_scores: list[Tensor] = []
        self.shares: dict[str, list[float]] = {"passages": [], "first_token": [], "rest": []}

    @property
    def has_answer(self) -> Bool[Tensor, "questions passages"]:
        return torch.cat(self._has_answer)

    @property
    def log_p_retr(self) -> Float[Tensor, "questions passages"]:
        return torch.cat(self._log_p_retr)

    @property
    def lengths(self) -> Int[Tensor, "questions passages"]:
        return torch.cat(self._lengths)

    @property
    def head_scores(self) -> Float[Tensor, "questions layers heads passages"]:
        """Passage scores (`sum`) of every head alone, in the configured context."""
        return torch.cat(self._head_scores)

    @property
    def variants(self) -> list[Variant]:
        return list(self._scores)

    def scores(self, variant: Variant) -> Float[Tensor, "questions passages"]:
        """What the variant's target is a softmax of, NaN where it was not read."""
        return self._rows(self._scores[variant])

    def unrelated_scores(self, variant: Variant) -> Float[Tensor, "questions passages"]:
        """The same passages' scores when another question is asked of them, NaN where that was not read.

        They were shown in another order than to the question itself, whichever that was.
        """
        return self._rows(self._unrelated.get(replace(variant, order=Order.RANK), {}))

    def positions(self, order: Order) -> Float[Tensor, "questions passages"] | None:
        """As floats, NaN where it was not read; None where it never was."""
        return self._rows(self._positions[order]) if order in self._positions else None

    def auc(self, variant: Variant) -> Float[Tensor, " questions"]:
        """Teacher validity; NaN where the passages are of one kind, or were not read that way."""
        return teacher_auc(self.scores(variant), self.has_answer)

    def add_questions(
        self,
        questions: Sequence[Question],
        passages: Sequence[Sequence[Passage]],
        has_answer: Bool[Tensor, "batch passages"],
        log_p_retr: Float[Tensor, "batch passages"],
        lengths: Int[Tensor, "batch passages"],
    ) -> list[int]:
        """Rows of the new questions."""
        first = len(self.questions)
        self.questions += questions
        self.passages += [[passage.id for passage in found] for found in passages]
        self._has_answer.append(has_answer.cpu())
        self._log_p_retr.append(log_p_retr.float().cpu())
        self._lengths.append(lengths.cpu())
        return list(range(first, len(self.questions)))

    def add_scores(self, rows: Sequence[int], scores: Scores) -> None:
        for variant, values in scores.items():
            by_row = self._scores.setdefault(variant, {})
            by_row.update(zip(rows, values.float().cpu(), strict=True))

    def add_unrelated_scores(self, rows: Sequence[int], scores: Scores) -> None:
        for variant, values in scores.items():
            by_row = self._unrelated.setdefault(variant, {})
            by_row.update(zip(rows, values.float().cpu(), strict=True))

    def add_head_scores(self, scores: Float[Tensor, "batch layers heads passages"]) -> None:
        self._head_scores.append(scores.float().cpu())

    def add_positions(
        self, rows: Sequence[int], order: Order, positions: Int[Tensor, "batch passages"]
    ) -> None:
        by_row = self._positions.setdefault(order, {})
        by_row.update(zip(rows, positions.float().cpu(), strict=True))

    def _rows(self, by_row: dict[int, Tensor]) -> Float[Tensor, "questions passages"]:
        all_rows = torch.full(self.has_answer.shape, torch.nan)
        for row, values in by_row.items():
            all_rows[row] = values
        return all_rows


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
        if teacher.objective is not Objective.ADIST:
            return Variant(Objective(teacher.objective), context)
        scope = self.original.prompts.token_scope
        return Variant(Objective.ADIST, context, self.order, scope, teacher.passage_score)  # type: ignore[arg-type]

    def choose(self, questions: Sequence[Question]) -> list[Question]:
        """The questions to read, after retrieving for many; see `ProbeSettings.num_instances`."""
        questions = questions[: self.settings.num_searched * self.settings.num_instances]
        hits = torch.cat(
            [
                find_hits(batch, self._retrieve(batch), self.module.answer_match)
                for batch in _batches(questions, 64)
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
        for batch in _batches(questions, self.settings.batch_size):
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
        passages, answers = self._retrieve(questions), _answers(questions)
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

    def compare(self) -> None:
        """Reads questions that have both kinds of passages in the other ways too, the first ones."""
        kinds = self.collected.has_answer
        rows = (kinds.any(dim=1) & ~kinds.all(dim=1)).nonzero()[:, 0].tolist()[: self.settings.num_compared]
        context = context_of(self.reader)
        for batch in _batches(rows, self.settings.batch_size):
            questions = [self.collected.questions[row] for row in batch]
            shown = (questions, self._retrieve(questions), _answers(questions))
            log_p_retr = self.collected.log_p_retr[batch].to(self.module.device)
            if context is not Context.INDEPENDENT:
                self._compare_alone(batch, *shown, log_p_retr)
            if context is Context.CONCATENATED:
                self._compare_independent(batch, *shown, log_p_retr)
            if context is not None:
                self._compare_orders(batch, *shown)
            self.progress(len(batch))
        self._compare_unrelated(rows)
        self._compare_left_out(rows[: self.settings.num_left_out])

    @torch.no_grad()
    def _compare_unrelated(self, rows: list[int]) -> None:
        """Asks of each question's passages what the next question asks: which of them does a teacher prefer
        whatever is asked?"""
        if len(rows) < 2:
            return
        contexts = [None] if context_of(self.reader) is None else list(Context)
        following = dict(zip(rows, [*rows[1:], rows[0]], strict=True))
        for batch in _batches(rows, self.settings.batch_size):
            passages = self._retrieve([self.collected.questions[row] for row in batch])
            questions = [self.collected.questions[following[row]] for row in batch]
            for context in contexts:
                # in another order, so that a preference for a place in the prompt is none for a passage
                order = PassageOrder.SHUFFLED
                reader = self.reader if context is None else in_context(self.original, context, order)
                scores = self._read_unrelated(reader, questions, passages)
                self.collected.add_unrelated_scores(batch, scores)
            self.progress(len(batch))

    def _read_unrelated(
        self, reader: Reader, questions: list[Question], passages: list[list[Passage]]
    ) -> Scores:
        """Attention, and where a pass shows each passage alone the likelihoods too."""
        answers, context = _answers(questions), context_of(reader)
        alone = context is Context.INDEPENDENT
        with eval_mode(reader):
            reading = reader.read(
                questions, passages, answers, order_seed=_UNRELATED_ORDER, with_labels=alone
            )
        scores = attention_scores(reading, context)
        if alone:
            with eval_mode(self.module.retriever):
                log_p_retr = self.module.log_p_retr(questions, passages)
            likelihoods = read_alone(reader, reading, questions, passages, answers)
            scores |= likelihood_scores(likelihoods, log_p_retr, context)
        return scores

    def _compare_alone(
        self,
        rows: list[int],
        questions: list[Question],
        passages: list[list[Passage]],
        answers: list[str],
        log_p_retr: Float[Tensor, "batch passages"],
    ) -> None:
        """PDist and EMDR2 in the configured context."""
        with torch.no_grad(), eval_mode(self.reader):
            likelihoods = self.reader.answer_likelihoods(questions, passages, answers, Shown.EACH_ALONE)
        self.collected.add_scores(rows, likelihood_scores(likelihoods, log_p_retr, context_of(self.reader)))

    @torch.no_grad()
    def _compare_independent(
        self,
        rows: list[int],
        questions: list[Question],
        passages: list[list[Passage]],
        answers: list[str],
        log_p_retr: Float[Tensor, "batch passages"],
    ) -> None:
        reader = in_context(self.original, Context.INDEPENDENT)
        with eval_mode(reader):
            reading = reader.read(questions, passages, answers, with_labels=True)
        self.collected.add_scores(rows, attention_scores(reading, Context.INDEPENDENT))
        likelihoods = read_alone(reader, reading, questions, passages, answers)
        self.collected.add_scores(rows, likelihood_scores(likelihoods, log_p_retr, Context.INDEPENDENT))

    @torch.no_grad()
    def _compare_orders(
        self, rows: list[int], questions: list[Question], passages: list[list[Passage]], answers: list[str]
    ) -> None:
        by_order: list[Scores] = []
        for seed in range(self.settings.num_orders):
            order = Order.RANK if seed == 0 else Order.SHUFFLED
            reader = in_context(self.original, Context.CONCATENATED, PassageOrder(order.value))
            with eval_mode(reader):
                reading = reader.read(questions, passages, answers, order_seed=seed)
            scores = attention_scores(reading, Context.CONCATENATED, order)
            by_order.append(scores)
            if seed < 2:  # further orders only serve the average
                self.collected.add_scores(rows, scores)
                self.collected.add_positions(rows, order, prompt_positions(reading.prompts))
        self.collected.add_scores(rows, averaged_over_orders(by_order))

    def _compare_left_out(self, rows: list[int]) -> None:
        """LOOP where it takes prompts of several passages: K prompts of K - 1 passages a question."""
        reader = in_context(self.original, Context.CONCATENATED)
        for row in rows:
            questions = [self.collected.questions[row]]
            likelihoods = read_left_out(reader, questions, self._retrieve(questions), _answers(questions))
            log_p_retr = self.collected.log_p_retr[[row]].to(self.module.device)
            self.collected.add_scores([row], likelihood_scores(likelihoods, log_p_retr, context_of(reader)))
            self.progress(1)

    def _retrieve(self, questions: list[Question]) -> list[list[Passage]]:
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


def _answers(questions: Sequence[Question]) -> list[str]:
    return [question.answers[0] for question in questions]


def _batches(items: Sequence[Any], size: int) -> Iterator[list[Any]]:
    iterator = iter(items)
    while batch := list(islice(iterator, size)):
        yield batch
