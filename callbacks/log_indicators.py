"""Measures at each validation whether the reader's attention is worth distilling."""

from dataclasses import dataclass, field
from typing import Any, TypeVar

import torch
import torch.distributed
from lightning import Callback, LightningModule, Trainer
from lightning.pytorch.loggers import TensorBoardLogger
from torch import Tensor

from lightning_modules.evaluation import Evaluation
from lightning_modules.metrics.indicators import AttentionNormalization, Indicator
from lightning_modules.metrics.reading_indicators import reading_units
from lightning_modules.metrics.teacher_auc import TeacherAUC
from lightning_modules.retriever_reader import RetrieverReaderModule

RETRIEVAL_HIT = "retrieval/hit"
"""1 where one of a question's K passages holds an answer, else 0; its mean is Hit Rate@K."""
GOOD_INDICATOR2_SPEARMAN = 0.3
"""The paper's rule: Indicator 2's Spearman above this is good."""


_ItemT = TypeVar("_ItemT")


@dataclass(frozen=True)
class InstanceReadings:
    """What was read of each question, for intervals, paired comparisons and histograms.

    Attributes:
        question_ids: the questions that were read, of all processes.
        values: reading -> one value a question, in the same order; NaN where it has none.
    """

    question_ids: list[str] = field(default_factory=list)
    values: dict[str, list[float]] = field(default_factory=dict)

    def with_others(self, others: "InstanceReadings") -> "InstanceReadings":
        """Readings of both, over the questions of both; NaN where a question has only the other ones."""
        ids = list(dict.fromkeys([*self.question_ids, *others.question_ids]))
        values = {}
        for readings in (self, others):
            for name, of_reading in readings.values.items():
                by_id = dict(zip(readings.question_ids, of_reading, strict=True))
                values[name] = [by_id.get(question_id, float("nan")) for question_id in ids]
        return InstanceReadings(ids, values)


class ReaderMeasures:
    """Indicators 1 and 2 and the teacher's validity over the questions that an evaluation reads.

    Args:
        percentiles: the p's of the most similar tokens.
        normalization: of the attention.
    """

    def __init__(
        self,
        percentiles: tuple[int, ...] = (90, 95),
        normalization: AttentionNormalization = AttentionNormalization.PASSAGE,
    ) -> None:
        self.normalization = normalization
        self.answer_indicator = Indicator("indicator1", percentiles)
        self.noun_indicator = Indicator("indicator2", percentiles)
        self.teacher_auc = TeacherAUC()
        self._question_ids: list[str] = []

    def reset(self, device: torch.device) -> None:
        """Forgets all questions."""
        self._question_ids = []
        for metric in self._metrics:
            metric.reset()
            metric.to(device)

    def update(self, evaluation: Evaluation) -> None:
        """Adds the questions of a batch that were read."""
        if evaluation.reading is None or evaluation.log_p_attn is None:
            return
        units = reading_units(evaluation.reading, self.normalization)
        num_read = evaluation.num_read
        self._question_ids += [question.id for question in evaluation.read_questions]
        for indicator, similarity in (
            (self.answer_indicator, units.answer_similarity),
            (self.noun_indicator, units.noun_similarity),
        ):
            indicator.update(units.attention, similarity, units.mask, units.question_of_unit, num_read)
        num_passages = evaluation.log_p_attn.shape[1]
        self.teacher_auc.update(evaluation.log_p_attn.exp(), evaluation.is_hit[:num_read, :num_passages])

    def any_was_read(self, trainer: Trainer) -> bool:
        """Whether any process has read anything; all of them must call this together."""
        seen = self.teacher_auc.update_count > 0
        return bool(trainer.strategy.reduce_boolean_decision(seen, all=False))

    def compute(self) -> dict[str, Tensor]:
        """Everything that is logged, over all processes."""
        return {name: value for metric in self._metrics for name, value in metric.compute().items()}

    def values(self) -> dict[str, Tensor]:
        """One value a question, of all processes, in the order of `question_ids`."""
        return {name: values for metric in self._metrics for name, values in metric.values().items()}

    def question_ids(self, trainer: Trainer) -> list[str]:
        """The questions that were read, of all processes."""
        return gather(trainer, self._question_ids)

    @property
    def _metrics(self) -> tuple[Indicator | TeacherAUC, ...]:
        return self.answer_indicator, self.noun_indicator, self.teacher_auc


class LogIndicators(Callback):
    """Logs Indicators 1 and 2 and the teacher's AUC from the same readings that distillation uses.

    In validation under the names of `Indicator` and `TeacherAUC` (`indicator1/spearman_p90`, `teacher/auc`,
    ...), in tests with `test/` before them. TensorBoard also gets histograms over the instances.

    Args:
        percentiles: the p's of the most similar tokens.
        normalization: of the attention.

    Attributes:
        latest: all readings of the latest evaluation.
        latest_instances: the same, question by question.
        latest_hits: `retrieval/hit` of all questions that were retrieved for.
    """

    def __init__(
        self,
        percentiles: tuple[int, ...] = (90, 95),
        normalization: AttentionNormalization = AttentionNormalization.PASSAGE,
    ) -> None:
        self.measures = ReaderMeasures(percentiles, normalization)
        self.latest: dict[str, float] = {}
        self.latest_instances = InstanceReadings()
        self.latest_hits = InstanceReadings()
        self._hits: dict[str, float] = {}

    def on_validation_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.latest_instances = InstanceReadings()
        self._hits, self.latest_hits = {}, InstanceReadings()
        self.measures.reset(pl_module.device)

    on_test_epoch_start = on_validation_epoch_start

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
        if isinstance(pl_module, RetrieverReaderModule):
            is_hit = outputs.is_hit[:, : pl_module.num_passages].any(dim=1).float().tolist()
            ids = (question.id for question in outputs.questions)
            self._hits.update(zip(ids, is_hit, strict=True))
        self.measures.update(outputs)

    on_test_batch_end = on_validation_batch_end

    def on_validation_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._report(trainer, pl_module, prefix="")

    def on_test_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._report(trainer, pl_module, prefix="test/")

    def _report(self, trainer: Trainer, module: LightningModule, prefix: str) -> None:
        hits = gather(trainer, list(self._hits.items()))
        self.latest_hits = InstanceReadings(
            [question_id for question_id, _ in hits], {RETRIEVAL_HIT: [hit for _, hit in hits]}
        )
        if not self.measures.any_was_read(trainer):
            return
        readings = self.measures.compute()
        self.latest = {name: float(value) for name, value in readings.items()}
        for name, value in readings.items():
            module.log(f"{prefix}{name}", value)
        module.log(f"{prefix}indicator2/good_above", GOOD_INDICATOR2_SPEARMAN)
        values = self.measures.values()
        self.latest_instances = InstanceReadings(
            self.measures.question_ids(trainer), {name: v.tolist() for name, v in values.items()}
        )
        self._add_histograms(trainer, prefix, values)

    def _add_histograms(self, trainer: Trainer, prefix: str, values: dict[str, Tensor]) -> None:
        for logger in trainer.loggers:
            if not isinstance(logger, TensorBoardLogger) or not trainer.is_global_zero:
                continue
            for name, instances in values.items():
                defined = instances[~instances.isnan()]
                if len(defined):
                    logger.experiment.add_histogram(
                        f"{prefix}instances/{name}", defined, global_step=trainer.global_step
                    )


def gather(trainer: Trainer, items: list[_ItemT]) -> list[_ItemT]:
    """Those of all processes, process after process, as `InstanceValues.values` has them."""
    if trainer.world_size == 1:
        return items
    gathered: list[list[_ItemT]] = [[] for _ in range(trainer.world_size)]
    torch.distributed.all_gather_object(gathered, items)
    return [item for of_process in gathered for item in of_process]
