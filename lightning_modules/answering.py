"""What evaluations of every module share: which questions count and are read, EM and F1 of their answers."""

import contextlib
from collections.abc import Iterator, Sequence
from typing import Any

import lightning as L
from torch.utils.data import DistributedSampler
from torchmetrics import Metric

from datamodules.batches import Question
from lightning_modules.metrics.answers import AnswerScores
from lightning_modules.part_timer import PartTimer


class AnsweringModule(L.LightningModule):
    """A module whose evaluations read the first questions, and score the answers to them.

    Args:
        num_read: questions that an evaluation reads, the first ones, of all processes together. None = all.
        generate: whether answers to them are generated.

    Attributes:
        timer: seconds spent by part.
    """

    def __init__(self, num_read: int | None = None, generate: bool = True) -> None:
        super().__init__()
        self.num_read = num_read
        self.generate = generate
        self.timer = PartTimer()
        self.answer_scores = AnswerScores()
        self._num_given_so_far = self._num_read_so_far = 0

    @contextlib.contextmanager
    def evaluating(self, **settings: Any) -> Iterator[None]:
        """Other settings for the evaluations inside, such as `num_read=100, generate=False`."""
        kept = {name: getattr(self, name) for name in settings}
        for name, value in settings.items():
            setattr(self, name, value)
        try:
            yield
        finally:
            for name, value in kept.items():
                setattr(self, name, value)

    def on_validation_epoch_start(self) -> None:
        self._begin_evaluation()

    def on_test_epoch_start(self) -> None:
        self._begin_evaluation()

    def _begin_evaluation(self) -> None:
        """Counts from 0, also what an evaluation that broke off had counted."""
        self._num_given_so_far = self._num_read_so_far = 0
        for metric in self.children():
            if isinstance(metric, Metric):
                metric.reset()

    def drop_padding(self, batch: list[Question]) -> list[Question]:
        """The questions of a batch that are this process's own, maybe none; counts the batch.

        A `DistributedSampler` repeats the first questions at the end, so that all processes have equally
        many batches. They must not count twice.
        """
        trainer = self.trainer
        loader = trainer.test_dataloaders if trainer.testing else trainer.val_dataloaders
        assert loader is not None
        num_given, self._num_given_so_far = self._num_given_so_far, self._num_given_so_far + len(batch)
        sampler = loader.sampler
        if not isinstance(sampler, DistributedSampler):
            return batch
        share = own_share(len(sampler.dataset), sampler.rank, sampler.num_replicas)  # type: ignore[arg-type]
        return batch[: max(0, share - num_given)]

    def take_to_read(self, num_questions: int) -> int:
        """How many of the next questions this process reads; counts them."""
        share = share_of(self.num_read, self.trainer.global_rank, self.trainer.world_size)
        taken = num_questions if share is None else min(num_questions, share - self._num_read_so_far)
        self._num_read_so_far += taken
        return taken

    def score_answers(self, predictions: Sequence[str], questions: Sequence[Question]) -> None:
        """Adds answers to EM and F1."""
        self.answer_scores.update(predictions, [question.answers for question in questions])

    def log_answer_scores(self, stage: str) -> None:
        """Logs EM and F1 at the end of an evaluation, if any process has answered anything."""
        # every process must join in, also one whose share of the questions was not read
        if self.trainer.strategy.reduce_boolean_decision(self.answer_scores.update_called, all=False):
            for name, value in self.answer_scores.compute().items():
                self.log(f"{stage}/{name}", value)


def share_of(num_questions: int | None, rank: int, world_size: int) -> int | None:
    """How many of the first questions a process gets where they are dealt out in turn; None = all it has."""
    return None if num_questions is None else own_share(num_questions, rank, world_size)


def own_share(num_questions: int, rank: int, world_size: int) -> int:
    """How many of so many questions a process gets where they are dealt out in turn and none is repeated."""
    return num_questions // world_size + (rank < num_questions % world_size)
