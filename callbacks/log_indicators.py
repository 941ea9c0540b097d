"""Measures at each validation whether the reader's attention is worth distilling."""

import logging

import torch
from lightning import LightningModule, Trainer
from torch import Tensor

from callbacks.evaluation_callback import EvaluationCallback
from callbacks.logged_media import log_histogram
from lightning_modules.evaluation import Evaluation, ReadQuestions
from lightning_modules.metrics.measures import RETRIEVAL_HIT, is_retrieved
from lightning_modules.metrics.question_values import QuestionValues
from lightning_modules.metrics.reader_measures import ReaderMeasures
from lightning_modules.processes import gather

GOOD_INDICATOR2_SPEARMAN = 0.3
"""The paper's rule: Indicator 2's Spearman above this is good."""


log = logging.getLogger(__name__)


class ReadQuestionsMeter:
    """`ReaderMeasures` with the ids of the questions that they are of.

    Args:
        percentiles: the p's of the most similar tokens.
    """

    def __init__(self, percentiles: tuple[int, ...] = (90, 95)) -> None:
        self.metric = ReaderMeasures(percentiles)
        self._question_ids: list[str] = []

    def reset(self, device: torch.device) -> None:
        """Forgets all questions."""
        self._question_ids = []
        self.metric.reset()
        self.metric.to(device)

    def update(self, read: ReadQuestions | None) -> None:
        """Adds the questions of a batch that were read."""
        if read is not None:
            self._question_ids += [question.id for question in read.batch.questions]
            self.metric.update(read)

    def any_was_read(self, trainer: Trainer) -> bool:
        """Whether any process has read anything; all of them must call this together."""
        return bool(trainer.strategy.reduce_boolean_decision(self.metric.update_count > 0, all=False))

    def compute(self) -> dict[str, Tensor]:
        """Everything that is logged, over all processes."""
        return self.metric.compute()

    def question_values(self, trainer: Trainer, prefix: str = "") -> QuestionValues:
        """Every question's values, of all processes, their names after a prefix."""
        values = self.metric.question_values()
        return QuestionValues(
            gather(trainer, self._question_ids),
            {f"{prefix}{name}": of_questions.tolist() for name, of_questions in values.items()},
        )


class LogIndicators(EvaluationCallback):
    """Logs Indicators 1 and 2 and the teacher's validity from the passes that distillation learns from.

    In validation under the names of the table of measures (`indicator1/spearman_p90`, `teacher/auc`, ...), in
    tests with `test/` before them. Loggers that take histograms get those over the questions.

    Args:
        percentiles: the p's of the most similar tokens.

    Attributes:
        latest: all metrics of the latest evaluation.
        latest_questions: the same, question by question.
        latest_hits: `retrieval/hit` of all questions that were retrieved for.
    """

    def __init__(self, percentiles: tuple[int, ...] = (90, 95)) -> None:
        self.meter = ReadQuestionsMeter(percentiles)
        self.latest: dict[str, float] = {}
        self.latest_questions = QuestionValues()
        self.latest_hits = QuestionValues()
        self._hits: dict[str, float] = {}
        self._num_read = self._num_with_nouns = 0
        self._has_warned = False

    def on_validation_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.latest_questions = QuestionValues()
        self._hits, self.latest_hits = {}, QuestionValues()
        self.meter.reset(pl_module.device)

    on_test_epoch_start = on_validation_epoch_start

    def on_validated(self, trainer: Trainer, pl_module: LightningModule, evaluation: Evaluation) -> None:
        if evaluation.num_passages:
            hits = is_retrieved(evaluation).tolist()
            self._hits.update(zip((question.id for question in evaluation.questions), hits, strict=True))
        self.meter.update(evaluation.read)
        if evaluation.read is not None:
            asked = evaluation.read.batch.questions
            self._num_read += len(asked)
            self._num_with_nouns += sum(bool(question.nouns) for question in asked)

    on_tested = on_validated

    def on_validation_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._log(trainer, pl_module, prefix="")

    def on_test_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._log(trainer, pl_module, prefix="test/")

    def _log(self, trainer: Trainer, module: LightningModule, prefix: str) -> None:
        hits = gather(trainer, list(self._hits.items()))
        self.latest_hits = QuestionValues(
            [question_id for question_id, _ in hits], {RETRIEVAL_HIT.name: [hit for _, hit in hits]}
        )
        if not self.meter.any_was_read(trainer):
            return
        computed = self.meter.compute()
        self.latest = {name: float(value) for name, value in computed.items()}
        for name, value in computed.items():
            module.log(f"{prefix}{name}", value)
        module.log(f"{prefix}indicator2/good_above", GOOD_INDICATOR2_SPEARMAN)
        self.latest_questions = self.meter.question_values(trainer)
        self._warn_of_nouns(trainer)
        self._add_histograms(trainer, prefix)

    def _warn_of_nouns(self, trainer: Trainer) -> None:
        """Once: without nouns all of Indicator 2 is NaN."""
        if self._num_read and not self._num_with_nouns and trainer.is_global_zero and not self._has_warned:
            self._has_warned = True
            log.warning(
                "Indicator 2 is undefined: none of the %d questions read has nouns, which it looks at; tag "
                "them first, datamodules.nouns.NounTagger().tag(questions)",
                self._num_read,
            )

    def _add_histograms(self, trainer: Trainer, prefix: str) -> None:
        for name, values in self.latest_questions.values.items():
            of_questions = torch.tensor(values)
            defined = of_questions[~of_questions.isnan()]
            if len(defined):
                log_histogram(trainer, f"{prefix}instances/{name}", defined)
