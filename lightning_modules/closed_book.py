"""What a reader knows by itself: its answers to questions without passages."""

import lightning as L
import torch

from datamodules.batches import Question
from lightning_modules.evaluation import Evaluation, share_of
from lightning_modules.metrics.answers import AnswerScores
from lightning_modules.part_timer import PartTimer
from lightning_modules.readers.reader import Reader


class ClosedBookModule(L.LightningModule):
    """Tests a reader on the questions alone (Atlas's `--closed_book`): EM and F1.

    Nothing else has a meaning without passages: no Hit Rate, no indicators, no KL.

    Args:
        reader: of either family.
        num_read: questions that are answered, the first ones, of all processes together. None = all.
        max_new_tokens: of an answer.

    Attributes:
        timer: seconds spent by part.
    """

    def __init__(self, reader: Reader, num_read: int | None = None, max_new_tokens: int = 32) -> None:
        super().__init__()
        self.reader = reader.eval().requires_grad_(False)
        self.num_read = num_read
        self.max_new_tokens = max_new_tokens
        self.timer = PartTimer()
        self.answer_scores = AnswerScores()
        self._num_read_so_far = 0

    def on_test_epoch_start(self) -> None:
        self._num_read_so_far = 0

    # callbacks get an `Evaluation`, which Lightning hands on without looking at it
    def test_step(self, batch: list[Question], batch_idx: int) -> Evaluation:  # type: ignore[override]
        share = share_of(self.num_read, self.trainer.global_rank, self.trainer.world_size)
        read = batch if share is None else batch[: share - self._num_read_so_far]
        self._num_read_so_far += len(read)
        predictions = None
        if read:
            with self.timer.part("generate"):
                predictions = self.reader.generate_closed_book(read, self.max_new_tokens)
            self.answer_scores.update(predictions, [question.answers for question in read])
        return Evaluation(
            batch,
            passages=[[] for _ in batch],
            is_hit=torch.zeros(len(batch), 0, dtype=torch.bool),
            answers=[question.answers[0] for question in batch],
            num_read=len(read),
            predictions=predictions,
        )

    def on_test_epoch_end(self) -> None:
        # every process must join in, also one whose share of the questions was not read
        if self.trainer.strategy.reduce_boolean_decision(self.answer_scores.update_called, all=False):
            for name, value in self.answer_scores.compute().items():
                self.log(f"test/{name}", value)
            self.answer_scores.reset()
