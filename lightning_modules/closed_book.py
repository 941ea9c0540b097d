"""What a reader knows by itself: its answers to questions without passages."""

import torch

from datamodules.batches import Question
from lightning_modules.answering import AnsweringModule
from lightning_modules.evaluation import Evaluation
from lightning_modules.readers.base import Reader


class ClosedBookModule(AnsweringModule):
    """Tests a reader on the questions alone (Atlas's `--closed_book`): EM and F1.

    Nothing else has a meaning without passages: no Hit Rate, no indicators, no KL.

    Args:
        reader: of either family.
        num_read: questions that are answered, the first ones, of all processes together. None = all.
        max_new_tokens: of an answer.
    """

    def __init__(self, reader: Reader, num_read: int | None = None, max_new_tokens: int = 32) -> None:
        super().__init__(num_read)
        self.reader = reader.eval().requires_grad_(False)
        self.max_new_tokens = max_new_tokens

    # callbacks get an `Evaluation`, which Lightning hands on without looking at it
    def test_step(self, batch: list[Question], batch_idx: int) -> Evaluation:  # type: ignore[override]
        batch = self.drop_padding(batch)
        read = batch[: self.take_to_read(len(batch))]
        predictions: list[str] = []
        if read:
            with self.timer.part("generate"):
                predictions = self.reader.generate_closed_book(read, self.max_new_tokens)
            self.score_answers(predictions, read)
        no_hits = torch.zeros(len(batch), 0, dtype=torch.bool)
        return Evaluation(batch, [[] for _ in batch], no_hits, num_passages=0, predictions=predictions)

    def on_test_epoch_end(self) -> None:
        self.log_answer_scores("test")
