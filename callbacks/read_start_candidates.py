"""Measures the reader on the passages that the start retrieved, whatever is retrieved later."""

from typing import Any

from lightning import LightningModule, Trainer

from callbacks.evaluation_callback import EvaluationCallback
from callbacks.log_indicators import ReadQuestionsMeter
from datamodules.batches import Batch, Passage
from lightning_modules.evaluation import Evaluation, ReadQuestions
from lightning_modules.metrics.question_values import QuestionValues
from lightning_modules.processes import gather
from lightning_modules.retriever_reader import RetrieverReaderModule

START_CANDIDATES = "start_candidates/"
"""Before the names of `LogIndicators`: measured on the passages that the start retrieved."""


class ReadStartCandidates(EvaluationCallback):
    """Logs the indicators and the teacher's validity on fixed passages: `start_candidates/teacher/auc`, ...

    As a retriever learns, the passages without an answer that it still finds become those that the teacher
    likes, so the AUC of an *unchanged* teacher falls. On fixed passages only the reader can change it. They
    are the K that the first validation at step 0 retrieved for each question that it read. A batch whose
    passages are still these is measured as it was read; another one is read a second time.

    It must come after the callback that refreshes the index and before the one that decides.

    Args:
        percentiles: as for `LogIndicators`.

    Attributes:
        candidates: ids of the passages of each question id, fit for JSON; empty until they were seen.
        latest_questions: the latest values, question by question.
    """

    def __init__(self, percentiles: tuple[int, ...] = (90, 95)) -> None:
        self.meter = ReadQuestionsMeter(percentiles)
        self.candidates: dict[str, list[str]] = {}
        self.latest_questions = QuestionValues()
        self._passages: dict[str, list[Passage]] = {}
        self._is_start = False

    def on_validation_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        assert isinstance(pl_module, RetrieverReaderModule)
        self.latest_questions = QuestionValues()
        self.meter.reset(pl_module.device)
        self._is_start = trainer.global_step == 0 and not self.candidates and not trainer.sanity_checking
        if self.candidates and not self._passages:  # a resumed run
            found = pl_module.knowledge_base.find(i for ids in self.candidates.values() for i in ids)
            self._passages = {
                question_id: [found[passage_id] for passage_id in ids]
                for question_id, ids in self.candidates.items()
            }

    def on_validated(self, trainer: Trainer, pl_module: LightningModule, evaluation: Evaluation) -> None:
        assert isinstance(pl_module, RetrieverReaderModule)
        read = evaluation.read
        if read is not None:
            questions, present = read.batch.questions, read.batch.passages
            if self._is_start:
                pairs = zip(questions, present, strict=True)
                self._passages |= {question.id: list(found) for question, found in pairs}
            if [self._passages.get(question.id) for question in questions] != present:
                read = self._read_again(pl_module, read.batch)
        self.meter.update(read)

    def _read_again(self, module: RetrieverReaderModule, batch: Batch) -> ReadQuestions | None:
        """The same questions with the passages of the start; without those that the start did not read."""
        rows = [row for row, question in enumerate(batch.questions) if question.id in self._passages]
        if not rows:
            return None
        questions = [batch.questions[row] for row in rows]
        passages = [self._passages[question.id] for question in questions]
        return module.read_questions(Batch(questions, passages, [batch.answers[row] for row in rows]))

    def on_validation_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if self._is_start:
            ids = [(question, [p.id for p in found]) for question, found in self._passages.items()]
            self.candidates = dict(gather(trainer, ids))
        if not self.meter.any_was_read(trainer):
            return
        for name, value in self.meter.compute().items():
            pl_module.log(f"{START_CANDIDATES}{name}", value)
        self.latest_questions = self.meter.question_values(trainer, START_CANDIDATES)

    # ---- resuming ----

    def state_dict(self) -> dict[str, Any]:
        return {"candidates": dict(self.candidates)}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.candidates = dict(state_dict["candidates"])
