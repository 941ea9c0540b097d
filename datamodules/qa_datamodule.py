"""Questions of the three splits as Lightning wants them."""

from collections.abc import Sequence
from operator import itemgetter
from typing import Any

import lightning as L
import numpy as np
import torch
from torch.utils.data import DataLoader, DistributedSampler

from datamodules.batches import Question
from datamodules.errors import DataError


class QuestionDataModule(L.LightningDataModule):
    """Batches are lists of `Question`.

    Validation and test questions come in one seeded order, so that a run that reads only the first n of
    them reads a random sample, the same in every validation and for every run with the same
    `evaluation_seed`.

    The questions are dealt out here where a trainer runs several processes, which must have
    `use_distributed_sampler=False`: all processes together get the batches that one would get whose
    `batch_size` is that of all.

    Args:
        train, validation, test: the splits; an empty `train` is fine where nothing is trained.
        batch_size: questions a training step (of one process, before accumulation).
        evaluation_batch_size: questions a validation step.
        seed: of the training order.
        evaluation_seed: of the order of validation and test questions.

    Raises:
        DataError: an empty validation or test split, or one with answers to some of its questions only,
            or with neither answers nor judged passages.
    """

    def __init__(
        self,
        train: Sequence[Question],
        validation: Sequence[Question],
        test: Sequence[Question],
        batch_size: int = 1,
        evaluation_batch_size: int = 4,
        seed: int = 0,
        evaluation_seed: int = 0,
    ) -> None:
        super().__init__()
        for name, questions in (("validation", validation), ("test", test)):
            if not questions:
                raise DataError(f"the {name} split has no questions; set {name} to one that has some")
            without = [question for question in questions if not question.answers]
            if without and len(without) < len(questions):
                raise DataError(
                    f"{name}: {len(without)} of {len(questions)} questions have no answer (the first is "
                    f"{without[0].text!r}); give all of them answers, or none"
                )
            unjudged = [question for question in without if not question.positives]
            if unjudged:
                raise DataError(
                    f"{name}: {len(unjudged)} of {len(questions)} questions have neither an answer nor a "
                    f"passage judged relevant (the first is {unjudged[0].text!r}), so nothing tells a hit "
                    'from a miss; add "answers", or give BEIR\'s qrels'
                )
        self.train = list(train)
        self.validation = _in_seeded_order(validation, evaluation_seed)
        self.test = _in_seeded_order(test, evaluation_seed)
        self.batch_size = batch_size
        self.evaluation_batch_size = evaluation_batch_size
        self.seed = seed
        self.evaluation_seed = evaluation_seed

    def leave_out(self, questions: Sequence[Question]) -> None:
        """Takes questions out of the training split, in all places where they are asked in the same words.

        Raises:
            DataError: no training question would be left.
        """
        words = {question.words for question in questions}
        kept = [question for question in self.train if question.words not in words]
        if self.train and not kept:
            raise DataError(
                f"all {len(self.train)} training questions are left out; give train more than that"
            )
        self.train = kept

    def train_dataloader(self) -> DataLoader:
        """Shuffled, and able to go on in the middle of an epoch when a run is resumed.

        Raises:
            DataError: there are fewer questions than processes.
        """
        # here, so that retrievers can be used, and questions be evaluated, without the package
        from torchdata.stateful_dataloader import StatefulDataLoader

        rank, num_processes = self._process
        if 0 < len(self.train) < num_processes:
            raise DataError(
                f"the training split has {len(self.train)} questions, fewer than the {num_processes} "
                "processes; give train more, or train on fewer devices"
            )
        batch_size = self.batch_size * num_processes
        # every process draws the batch of all, which is text alone, and keeps its share: the order, and the
        # state that a resumed run goes on from, do not depend on the number of processes
        loader = StatefulDataLoader(
            self.train,
            batch_size=batch_size,
            shuffle=True,
            drop_last=len(self.train) >= batch_size,
            collate_fn=itemgetter(slice(rank, None, num_processes)),
            generator=torch.Generator().manual_seed(self.seed),
        )
        # Its sampler keeps that generator. The loader gets another one: it draws from it once an epoch, but
        # not when it goes on within an epoch, and the orders of all later epochs would be others.
        loader.generator = torch.Generator()
        return loader

    def val_dataloader(self) -> DataLoader:
        return self._evaluation_loader(self.validation)

    def test_dataloader(self) -> DataLoader:
        return self._evaluation_loader(self.test)

    def transfer_batch_to_device(self, batch: Any, device: torch.device, dataloader_idx: int) -> Any:
        """Questions are text; tensors are made where the models are."""
        return batch

    def _evaluation_loader(self, questions: list[Question]) -> DataLoader:
        dataset: Any = questions
        rank, num_processes = self._process
        sampler: DistributedSampler | None = None
        if num_processes > 1:
            sampler = DistributedSampler(dataset, num_processes, rank, shuffle=False)
        return DataLoader(dataset, self.evaluation_batch_size, sampler=sampler, collate_fn=list)

    @property
    def _process(self) -> tuple[int, int]:
        """Which process this is, of how many."""
        return (0, 1) if self.trainer is None else (self.trainer.global_rank, self.trainer.world_size)


def _in_seeded_order(questions: Sequence[Question], seed: int) -> list[Question]:
    return [questions[i] for i in np.random.default_rng(seed).permutation(len(questions))]
