"""Ends a run whose retriever collapses, before what is good is overwritten."""

import random
from pathlib import Path
from typing import Any, NoReturn

import torch
from lightning import LightningModule, Trainer
from lightning.pytorch.trainer.states import TrainerFn
from torch import Tensor

from callbacks.decisions import announce, how_few
from callbacks.evaluation_callback import EvaluationCallback
from callbacks.refresh_index import searches_stale_index
from lightning_modules.encoding import encode_rows
from lightning_modules.evaluation import Evaluation
from lightning_modules.metrics.embedding_health import EmbeddingHealth, embedding_health, has_crashed
from lightning_modules.retrieval import RetrievalModule


class CollapseError(Exception):
    """What collapsed, with its numbers; nothing was saved since it did."""


class AlarmOnCollapse(EvaluationCallback):
    """Raises `CollapseError` in training when one of these is seen.

    - Before each validation, of a fixed sample of passages encoded anew: an embedding that is all zeros, NaN
      or infinite; an effective rank below `effective_rank_ratio` of the start's; a share of near-duplicates
      more than `duplicate_rise` above the start's (`lightning_modules.metrics.embedding_health`).
    - After each validation on a fresh index: Hit Rate@K (K = the passages that are read) more than
      `hit_rate_drop` below the start's, relative to it, and not by chance (`has_crashed`).

    The start is the first validation at step 0, or given. Embeddings are encoded here because an index need
    not hold them (`PQ`) nor be fresh. It must come before the callbacks that use or save what it looks at,
    and after `SkipBrokenBatches`, which looks at numbers that break; after each validation without finding
    the weights are saved, and kept unless the run ends well.

    Args:
        last_good: where they are saved.
        hit_rate_drop, effective_rank_ratio, duplicate_rise: see above.
        num_passages: size of the sample.
        seed: of the sample.

    Attributes:
        start: the start's numbers, fit for JSON; empty until it was seen.
    """

    def __init__(
        self,
        last_good: Path | str,
        hit_rate_drop: float = 0.5,
        effective_rank_ratio: float = 0.2,
        duplicate_rise: float = 0.2,
        num_passages: int = 256,
        seed: int = 0,
    ) -> None:
        self.last_good = Path(last_good)
        self.hit_rate_drop = hit_rate_drop
        self.effective_rank_ratio = effective_rank_ratio
        self.duplicate_rise = duplicate_rise
        self.num_passages = num_passages
        self.seed = seed
        self.start: dict[str, float] = {}
        self._health: EmbeddingHealth | None = None
        self._hits: Tensor | None = None

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if trainer.is_global_zero:
            self.last_good.unlink(missing_ok=True)

    # ---- each validation ----

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        module = _checked(pl_module)
        self._hits = torch.zeros(2, dtype=torch.long, device=module.device)
        self._health = self._measure(trainer, module)
        if trainer.state.fn == TrainerFn.FITTING:
            self._check_embeddings(trainer, self._health)

    def on_validated(self, trainer: Trainer, pl_module: LightningModule, evaluation: Evaluation) -> None:
        assert self._hits is not None
        is_hit = evaluation.is_hit[:, : _checked(pl_module).num_passages].any(dim=1)
        self._hits += torch.tensor([int(is_hit.sum()), len(is_hit)], device=self._hits.device)

    def on_validation_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        assert self._health is not None
        pl_module.log("embeddings/effective_rank", self._health.effective_rank)
        pl_module.log("embeddings/near_duplicates", self._health.near_duplicates)

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        assert self._health is not None
        assert self._hits is not None
        hits, count = trainer.strategy.reduce(self._hits, reduce_op="sum").tolist()
        if trainer.state.fn == TrainerFn.FITTING:
            if not searches_stale_index(pl_module):
                self._check_hit_rate(trainer, hits, count, _checked(pl_module).num_passages)
            trainer.save_checkpoint(self.last_good, weights_only=True)
        elif trainer.global_step == 0:
            self.start = {
                "effective_rank": self._health.effective_rank,
                "near_duplicates": self._health.near_duplicates,
                "hit_rate": hits / count,
            }

    def _measure(self, trainer: Trainer, module: RetrievalModule) -> EmbeddingHealth:
        """Of the same passages each time, by the present passage encoder in the precision of training."""
        total = len(module.knowledge_base)
        rows = sorted(random.Random(self.seed).sample(range(total), min(self.num_passages, total)))
        with trainer.precision_plugin.forward_context():
            embeddings = encode_rows(module.retriever, module.knowledge_base, rows)
        return embedding_health(torch.from_numpy(embeddings))

    def _check_embeddings(self, trainer: Trainer, health: EmbeddingHealth) -> None:
        if health.unusable:
            self._raise(
                trainer,
                f"{health.unusable:.1%} of the passages' embeddings are all zeros, NaN or infinite",
            )
        if not self.start:
            return
        rank, duplicates = self.start["effective_rank"], self.start["near_duplicates"]
        if health.effective_rank < self.effective_rank_ratio * rank:
            self._raise(
                trainer,
                f"the effective rank of the passages' embeddings fell from the start's {rank:.1f} to "
                f"{health.effective_rank:.1f}",
            )
        if health.near_duplicates > duplicates + self.duplicate_rise:
            self._raise(
                trainer,
                f"{health.near_duplicates:.1%} of the passages' embeddings have a near-duplicate, at the "
                f"start {duplicates:.1%} had",
            )

    def _check_hit_rate(self, trainer: Trainer, hits: int, count: int, k: int) -> None:
        if not self.start:
            return
        before = self.start["hit_rate"]
        if has_crashed(round(before * count), hits, count, self.hit_rate_drop):
            self._raise(
                trainer,
                f"Hit Rate@{k} fell from the start's {before:.3f} to {hits / count:.3f} ({count} questions): "
                f"the retriever has become worse{how_few(count)}",
            )

    def _raise(self, trainer: Trainer, message: str) -> NoReturn:
        announce(trainer, f"collapse: {message}")
        raise CollapseError(message)

    # ---- resuming ----

    def state_dict(self) -> dict[str, Any]:
        return {"start": dict(self.start)}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.start = dict(state_dict["start"])


def _checked(module: LightningModule) -> RetrievalModule:
    assert isinstance(module, RetrievalModule)
    return module
