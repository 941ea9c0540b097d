"""Measures how far the retriever has moved away from the index that it searches."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from lightning import Callback, LightningModule, Trainer
from torch import Tensor

from datamodules.batches import Question
from datamodules.passage_index import SearchIndex, search_for_none
from datamodules.qa_datamodule import QuestionDataModule
from lightning_modules.encoding import encode_passages
from lightning_modules.eval_mode import eval_mode
from lightning_modules.metrics.staleness import (
    Staleness,
    cosine_drift,
    relative_l2_drift,
    top_k_overlap,
)
from lightning_modules.retrieval import RetrievalModule
from lightning_modules.retriever import Retriever


class MeasureStaleness(Callback):
    """Logs `staleness/drift`, `drift_max`, `drift_l2` and `overlap_at_K` on a fixed probe set.

    The probe is a seeded sample of passages and the first validation questions (which come in a seeded
    order). Drift is between the sample's embeddings when the index was made, which are kept (an index may
    hold them compressed), and fresh ones. Overlap is between the top K of the index and those of fresh
    passage embeddings, both with fresh questions; of the passages only the index's best for each question
    and the sample are encoded anew, so one that the index ranks far down cannot enter: the overlap is, if
    anything, too high. An approximate index (`IVF...`, `PQ...`) loses overlap to its approximation too.

    It measures as a validation begins, before the index is refreshed for it, and every so many steps. It
    draws no random numbers: a run with it comes to the same numbers as without. Under DDP the first process
    measures for all. It must come before `RefreshIndex`, which calls `keep`.

    Args:
        every_steps: optimizer steps between two measurements; None = only at validations.
        num_passages: most passages that a measurement encodes; a quarter is the sample, and each question
            has an equal part of the rest (at least K).
        num_questions: validation questions.
        batch_size: passages encoded together.
        seed: of the sample.

    Attributes:
        latest: of the index in use; None where it has not been measured.
        measured_step: when the latest measurement was; -1 before the first.
    """

    def __init__(
        self,
        every_steps: int | None = None,
        num_passages: int = 256,
        num_questions: int = 16,
        batch_size: int = 64,
        seed: int = 0,
    ) -> None:
        self.every_steps = every_steps
        self.num_passages = num_passages
        self.num_questions = num_questions
        self.batch_size = batch_size
        self.seed = seed
        self.latest: Staleness | None = None
        self._kept: Tensor | None = None  # the sample's embeddings when the index was made
        self.measured_step = -1

    # ---- when ----

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._measure(trainer, pl_module)

    def on_validation_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if self.measured_step != trainer.global_step:  # the index was made just now, for this validation
            self._measure(trainer, pl_module)

    def on_train_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int
    ) -> None:
        step = trainer.global_step
        # several batches share a step where gradients are accumulated, and a validation may have been there
        if self.every_steps and step % self.every_steps == 0 and step != self.measured_step:
            self._measure(trainer, pl_module)

    # ---- how ----

    def keep(self, trainer: Trainer, module: RetrievalModule) -> None:
        """Keeps what the present encoder, which the index was made with, makes of the sample."""
        self.latest = None
        if trainer.is_global_zero:
            with module.timer.part("staleness"), trainer.precision_plugin.forward_context():
                self._kept = self._encode(module, self._sample(module))

    def _measure(self, trainer: Trainer, pl_module: LightningModule) -> None:
        assert isinstance(pl_module, RetrievalModule)
        if pl_module.index is None:
            return
        found: Staleness | None = None
        # in the precision of the index
        with pl_module.timer.part("staleness"), trainer.precision_plugin.forward_context():
            # a checkpoint of a run without this callback has an index, but nothing was kept
            if trainer.is_global_zero and self._kept is not None:
                found = self._compare(pl_module, pl_module.index, self._kept, self._questions(trainer))
            else:
                search_for_none(pl_module.index)
            found = trainer.strategy.broadcast(found)
        self.measured_step = trainer.global_step
        self.latest = found
        if found is None:
            return
        metrics = {
            "staleness/drift": found.drift,
            "staleness/drift_max": found.drift_max,
            "staleness/drift_l2": found.drift_l2,
            f"staleness/overlap_at_{pl_module.num_passages}": found.overlap,
        }
        for logger in trainer.loggers:  # at once: `module.log` would leave out steps that are not logged
            logger.log_metrics(metrics, step=trainer.global_step)

    @torch.no_grad()
    def _compare(
        self, module: RetrievalModule, index: SearchIndex, kept: Tensor, questions: Sequence[Question]
    ) -> Staleness:
        sample = self._sample(module)
        fresh = self._encode(module, sample)
        drift = cosine_drift(kept, fresh)
        queries = _encode_queries(module.retriever, questions)
        k = module.num_passages
        each = max(k, (self.num_passages - len(sample)) // len(questions))
        _, found = index.search(queries.numpy(), min(each, len(index)))
        # the sample is encoded by itself, in the same batches as when it was kept: no drift is exactly 0
        others = np.setdiff1d(found, sample)
        rows = np.concatenate([sample, others])
        order = np.argsort(rows)
        passages = torch.cat([fresh, self._encode(module, others)])[order]
        stale_rows, candidates = torch.from_numpy(found[:, :k].copy()), torch.from_numpy(rows[order])
        with torch.autocast("cpu", enabled=False):  # as an index is searched
            scores = queries @ passages.T
        overlap = top_k_overlap(stale_rows, candidates, scores)
        return Staleness(
            drift=float(drift.mean()),
            drift_max=float(drift.max()),
            drift_l2=float(relative_l2_drift(kept, fresh).mean()),
            overlap=float(overlap.mean()),
        )

    def _sample(self, module: RetrievalModule) -> np.ndarray:
        """Rows of the fixed passages, ascending."""
        total = len(module.knowledge_base)
        size = min(max(1, self.num_passages // 4), total)
        return np.sort(np.random.default_rng(self.seed).choice(total, size, replace=False))

    def _questions(self, trainer: Trainer) -> Sequence[Question]:
        datamodule = trainer.datamodule  # type: ignore[attr-defined]
        assert isinstance(datamodule, QuestionDataModule)
        return datamodule.validation[: self.num_questions]

    def _encode(self, module: RetrievalModule, rows: np.ndarray) -> Tensor:
        passages = module.knowledge_base.select(rows.tolist())
        return torch.from_numpy(encode_passages(module.retriever, passages, self.batch_size))

    # ---- resuming ----

    def state_dict(self) -> dict[str, Any]:
        return {"kept": self._kept, "measured_step": self.measured_step}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self._kept = state_dict["kept"]
        self.measured_step = state_dict["measured_step"]


def _encode_queries(retriever: Retriever, questions: Sequence[Question]) -> Tensor:
    with eval_mode(retriever):
        return retriever.encode_queries([question.text for question in questions]).float().cpu()
