"""The configured teacher, read as training and validations would read it."""

from collections.abc import Callable, Sequence

import numpy as np
import torch

from datamodules.batches import Batch, Question, TokenScope, in_batches
from datamodules.prompts import Context
from lightning_modules.head_lists import HeadRows
from lightning_modules.metrics.measures import RETRIEVAL_HIT
from lightning_modules.metrics.question_values import QuestionValues
from lightning_modules.metrics.reader_measures import ReaderMeasures
from lightning_modules.objectives import ADist
from lightning_modules.objectives.base import Cost, Objective
from lightning_modules.preflight.choosing import PreflightSettings
from lightning_modules.preflight.head_sets import (
    ALL_HEADS,
    HeadSet,
    head_sets_of,
    held_out_signals,
    unlisted_methods,
)
from lightning_modules.preflight.passes import KeptPasses
from lightning_modules.preflight.placement import attention_shares, prompt_positions
from lightning_modules.preflight.question_scores import QuestionScores, Reranked
from lightning_modules.preflight.variants import ComparedObjectives, Variant, order_of
from lightning_modules.reranker import Reranker
from lightning_modules.retriever_reader import RetrieverReaderModule, preferred_answers
from lightning_modules.scores import PassageTokens


class ConfiguredTeacher:
    """Reads questions with a module's reader as it is, and scores them by every objective that this allows.

    Args:
        module: with its index.
        percentiles: of the indicators.
        unrelated: (question, answer) pairs that signals may be calibrated by.

    Attributes:
        variant: what the module itself would teach by.
        papers: what the paper would, with the same reader shown the passages in the same way.
        objectives: what is compared with it.
        calibrated: signals calibrated otherwise than it, in its context.
        head_sets: attention heads that are compared with those that are configured.
        collected: the scores of what was read.
    """

    def __init__(
        self,
        module: RetrieverReaderModule,
        percentiles: Sequence[int] = (90, 95),
        unrelated: Sequence[tuple[str, str]] = (),
    ) -> None:
        self.module = module
        self.reader = module.reader
        self.order = order_of(module.reader)
        self.variant = self.shown(module.objective)
        self.head_sets = head_sets_of(module.reader)
        all_heads = ALL_HEADS if ALL_HEADS in self.head_sets else None
        self.papers = self.shown(ADist(constants=module.objective.constants), all_heads)
        self.objectives = ComparedObjectives.beside(module.objective)
        self.calibrated = self.objectives.calibrated(module.reader, unrelated)
        self.collected = QuestionScores()
        self.measures = ReaderMeasures(percentiles).to(module.device)

    def shown(self, objective: Objective, heads: HeadSet | None = None) -> Variant:
        """An objective in the configured context."""
        reader = self.reader
        return Variant.of_pass(objective, reader.context, self.order, reader.num_examples or None, heads)

    def read(
        self,
        questions: Sequence[Question],
        settings: PreflightSettings,
        is_clear: Callable[[], bool],
        progress: Callable[[int], object],
    ) -> bool:
        """Reads questions until all are read or the verdict is clear.

        Args:
            questions: to read.
            settings: how many at a time.
            is_clear: whether what was read so far is enough.
            progress: called with numbers of questions read.

        Returns:
            Whether it stopped early.
        """
        looked_at = 0
        for batch in in_batches(questions, settings.batch_size):
            self._read_batch(batch)
            progress(len(batch))
            num_read = len(self.collected.questions)
            if num_read - looked_at >= settings.look_every and num_read < len(questions):
                looked_at = num_read
                if is_clear():
                    return True
        return False

    @torch.no_grad()
    def _read_batch(self, questions: list[Question]) -> None:
        module, reader, collected = self.module, self.reader, self.collected
        passages = module.retrieve_candidates(questions)
        batch = Batch(questions, passages, preferred_answers(questions))
        passes = KeptPasses(reader, batch, module.read_once)
        read = module.read_questions(batch, passes)
        self.measures.update(read)
        output = passes.read(batch)
        tokens = PassageTokens.of(output.prompts, TokenScope.PASSAGE)
        rows = collected.add_questions(questions, passages, read.has_answer, read.log_p_retr, tokens.count())
        scores = passes.scores(self.scored(), read.log_p_retr, reader.context, self.order, self.head_sets)
        collected.add_scores(rows, scores)
        collected.add_heads(passes.head_sums, passes.likelihood)
        if reader.context is Context.CONCATENATED:
            collected.add_positions(rows, self.order, prompt_positions(output.prompts))
        collected.add_shares(attention_shares(output))

    def rerank(self, reranker: Reranker, batch_size: int, progress: Callable[[int], object]) -> None:
        """Scores the questions that were read by a cross-encoder.

        Args:
            reranker: to compare with.
            batch_size: questions at a time.
            progress: called with numbers of questions scored.
        """
        reranker.to(self.module.device)
        scores = []
        for questions in in_batches(self.collected.questions, batch_size):
            passages = self.module.retrieve_candidates(questions)
            scores.append(reranker.scores(Batch(questions, passages, [""] * len(questions))).cpu())
            progress(len(questions))
        self.collected.reranked = Reranked(reranker.name, torch.cat(scores))

    def judge_unlisted_heads(self) -> None:
        """Scores the questions with the heads of published methods that no list of the reader is shipped of.

        Each question has those that were chosen on others (`held_out_signals`); without another pass.
        """
        collected, methods = self.collected, unlisted_methods(self.reader)
        rows = collected.has_both.nonzero()[:, 0]
        if not methods or not len(rows):
            return
        sums, likelihood = collected.head_sums.of_questions(rows), collected.likelihood
        likelihood = None if likelihood is None else likelihood[rows]
        for of_rows in HeadRows:
            objectives = [objective for objective in self.scored() if objective.head_rows is of_rows]
            has_answer = collected.has_answer[rows]
            for heads, signals in held_out_signals(sums, likelihood, has_answer, of_rows, methods):
                for objective in objectives:
                    scores = objective.scores_of_signals(signals)
                    if scores is not None:
                        collected.add_scores(rows.tolist(), {self.shown(objective, heads): scores})

    def score_by_bm25(self) -> None:
        """Scores the candidates of the questions that were read by BM25, where there is an index of it."""
        bm25, collected = self.module.bm25, self.collected
        if bm25 is None:
            return
        row_of = self.module.knowledge_base.rows_of(id for found in collected.passages for id in found)
        rows = np.array([[row_of[id] for id in found] for found in collected.passages])
        scores = bm25.scores([question.text for question in collected.questions], rows)
        collected.bm25 = torch.from_numpy(scores)

    def scored(self) -> list[Objective]:
        """What costs no more than the configured objective's own passes."""
        objectives, cost = self.objectives, self.module.objective.cost
        scored = objectives.of_pass(self.reader)
        if cost is not Cost.NOTHING:
            scored += [o for o in objectives.costing(cost) if o not in scored]
        return [*scored, *objectives.of_no_pass, *objectives.only_configured]

    def question_values(self) -> QuestionValues:
        """One value for each question read, in their order: what validations measure, and hits."""
        values = {name: v.tolist() for name, v in self.measures.question_values().items()}
        values[RETRIEVAL_HIT.name] = self.collected.has_answer.any(dim=1).float().tolist()
        return QuestionValues([question.id for question in self.collected.questions], values)
