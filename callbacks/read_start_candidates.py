"""Measures the reader on the passages that the start retrieved, whatever is retrieved later."""

from typing import Any

from lightning import Callback, LightningModule, Trainer

from callbacks.log_indicators import InstanceReadings, ReaderMeasures, gather
from datamodules.batches import Passage
from lightning_modules.evaluation import Evaluation, find_hits
from lightning_modules.metrics.indicators import AttentionNormalization
from lightning_modules.retriever_reader import RetrieverReaderModule

START_CANDIDATES = "start_candidates/"
"""Before the names of `LogIndicators`: measured on the passages that the start retrieved."""


class ReadStartCandidates(Callback):
    """Logs the indicators and the teacher's validity on fixed passages: `start_candidates/teacher/auc`, ...

    As a retriever learns, the passages without an answer that it still finds become those that the teacher
    likes, so the AUC of an *unchanged* teacher falls. On fixed passages only the reader can change it. They
    are the K that the first validation at step 0 retrieved for each question that it read. A batch whose
    passages are still these is measured as it was read; another one is read a second time.

    It must come after the callback that refreshes the index and before the one that decides.

    Args:
        percentiles, normalization: as for `LogIndicators`.

    Attributes:
        candidates: ids of the passages of each question id, fit for JSON; empty until they were seen.
        latest_instances: the latest readings, question by question.
    """

    def __init__(
        self,
        percentiles: tuple[int, ...] = (90, 95),
        normalization: AttentionNormalization = AttentionNormalization.PASSAGE,
    ) -> None:
        self.measures = ReaderMeasures(percentiles, normalization)
        self.candidates: dict[str, list[str]] = {}
        self.latest_instances = InstanceReadings()
        self._passages: dict[str, list[Passage]] = {}
        self._is_start = False

    def on_validation_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        assert isinstance(pl_module, RetrieverReaderModule)
        self.latest_instances = InstanceReadings()
        self.measures.reset(pl_module.device)
        self._is_start = trainer.global_step == 0 and not self.candidates and not trainer.sanity_checking
        if self.candidates and not self._passages:  # a resumed run
            found = pl_module.knowledge_base.find(i for ids in self.candidates.values() for i in ids)
            self._passages = {
                question_id: [found[passage_id] for passage_id in ids]
                for question_id, ids in self.candidates.items()
            }

    def on_validation_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        assert isinstance(outputs, Evaluation)
        assert isinstance(pl_module, RetrieverReaderModule)
        present = [found[: pl_module.num_passages] for found in outputs.passages[: outputs.num_read]]
        questions = outputs.read_questions
        if self._is_start:
            self._passages |= {question.id: found for question, found in zip(questions, present, strict=True)}
        if [self._passages.get(question.id) for question in questions] != present:
            outputs = self._read_again(pl_module, outputs)
        self.measures.update(outputs)

    def _read_again(self, module: RetrieverReaderModule, outputs: Evaluation) -> Evaluation:
        """The same questions with the passages of the start; without those that the start did not read."""
        rows = [row for row, question in enumerate(outputs.read_questions) if question.id in self._passages]
        questions = [outputs.questions[row] for row in rows]
        passages = [self._passages[question.id] for question in questions]
        answers = [outputs.answers[row] for row in rows]
        is_hit = find_hits(questions, passages, module.answer_match).to(module.device)
        evaluation = Evaluation(questions, passages, is_hit, answers)
        return module.read_for_evaluation(evaluation, len(rows))[0] if rows else evaluation

    def on_validation_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if self._is_start:
            ids = [(question, [p.id for p in found]) for question, found in self._passages.items()]
            self.candidates = dict(gather(trainer, ids))
        if not self.measures.any_was_read(trainer):
            return
        for name, value in self.measures.compute().items():
            pl_module.log(f"{START_CANDIDATES}{name}", value)
        self.latest_instances = InstanceReadings(
            self.measures.question_ids(trainer),
            {f"{START_CANDIDATES}{name}": v.tolist() for name, v in self.measures.values().items()},
        )

    # ---- resuming ----

    def state_dict(self) -> dict[str, Any]:
        return {"candidates": dict(self.candidates)}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.candidates = dict(state_dict["candidates"])
