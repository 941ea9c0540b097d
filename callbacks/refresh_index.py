"""Keeps the FAISS index up with the retriever, on a schedule or when it has become stale."""

import copy
import logging
import shutil
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from lightning import Callback, LightningModule, Trainer
from lightning.pytorch.trainer.states import TrainerFn
from torch import Tensor

from callbacks.checkpoint_files import load_sealed, save_sealed
from callbacks.index_builder import IndexBuilder
from callbacks.measure_staleness import MeasureStaleness
from callbacks.refresh_schedule import RefreshSchedule, WhenStale, parse_refresh
from datamodules.passage_index import SearchIndex
from datamodules.sealed_files import DamagedFileError
from lightning_modules.encoding import embeddings_fingerprint
from lightning_modules.retrieval import RetrievalModule

__all__ = ["RefreshIndex", "RefreshSchedule", "searches_stale_index"]

log = logging.getLogger(__name__)


class RefreshIndex(Callback):
    """Builds the index before anything is retrieved, and anew at the steps of a schedule or when it is stale.

    A refresh that is due at a step is done before the validation of that step. Whatever the schedule, each
    validation knows whether the index is of the present passage encoder: `index_is_fresh` of the module,
    logged as `validation/index_is_fresh` (1 or 0). What a stale one gives is not compared with the start.

    Each index is saved with a fingerprint of the passage encoder's weights and the passages, and loaded
    instead of built where the fingerprint fits. A resumed run goes on with the index that its checkpoint was
    trained with, stale as it was; one that is gone or damaged is made again from the passage encoder that it
    was made of. Under DDP each process encodes a share of the passages, and all must see `folder`.

    Args:
        schedule: Atlas's syntax, see `RefreshSchedule`, or `when_stale`, see `WhenStale`.
        folder: of the run; each index gets a folder of its own below it.
        before_validation: also refresh before each validation, so that Hit Rate is the fresh retriever's
            and not that of an old index. Costs an encoding of all passages a validation.
        meter: measures how stale the index is; it must come before this callback, so that it sees the index
            before it is replaced.
        encoders: where the passage encoders of the indices made in training are kept, for as long as a
            checkpoint was trained with one; None = they are not.
        start_encoder: gives the weights of the passage encoder that the run started with.
        of_index: further fields of `IndexBuilder`.

    Raises:
        ValueError: a schedule that cannot be read, or `when_stale` without `meter`.
    """

    def __init__(
        self,
        schedule: str,
        folder: Path | str,
        before_validation: bool = False,
        meter: MeasureStaleness | None = None,
        encoders: Path | str | None = None,
        start_encoder: Callable[[], Mapping[str, Tensor]] | None = None,
        **of_index: Any,
    ) -> None:
        self.schedule = parse_refresh(schedule)
        if isinstance(self.schedule, WhenStale) and meter is None:
            raise ValueError(f"a refresh {schedule!r} needs a meter: give one, or a schedule of steps")
        self.builder = IndexBuilder(Path(folder), **of_index)
        self.before_validation = before_validation
        self.meter = meter
        self.encoders = None if encoders is None else Path(encoders)
        self.start_encoder = start_encoder
        self.num_refreshes = 0
        self.refresh_steps: list[int] = []
        self._fingerprint: str | None = None
        self._in_checkpoints: list[str | None] = []  # the last one, and the one before
        self._knows_checkpoints = False
        self._last_due_step = -1

    @property
    def own_folder(self) -> Path | None:
        """Of the index in use, in the run's folder; there is none where runs share it. None = no index."""
        return None if self._fingerprint is None else self.builder.folder_of(self._fingerprint)

    # ---- when ----

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        # not with the first batch: the meter looks at the index before this callback has its turn
        module = _checked(pl_module)
        self._knows_checkpoints = True
        wanted = self._in_checkpoints[-1] if self._in_checkpoints else None
        if wanted is not None and wanted != self._fingerprint:
            self._restore(trainer, module, wanted)
        elif module.index is None:
            self.refresh(trainer, module)

    def on_train_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int
    ) -> None:
        step = trainer.global_step
        # several batches share an optimizer step where gradients are accumulated
        if step != self._last_due_step and self._is_due(step):
            self._last_due_step = step
            self.refresh(trainer, _checked(pl_module))

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        module, step = _checked(pl_module), trainer.global_step
        is_due = self._is_stale(step)
        if trainer.state.fn == TrainerFn.FITTING and step != self._last_due_step and self._is_due(step):
            is_due, self._last_due_step = True, step  # the next training batch does not do it again
        if module.index is None or self.before_validation or is_due:
            self.refresh(trainer, module)
        # one whose passage encoder does not change is fresh whenever it was made
        fingerprint = _fingerprint(trainer, module)
        module.index_is_fresh = fingerprint == self._fingerprint

    def on_validation_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        pl_module.log("validation/index_is_fresh", float(_checked(pl_module).index_is_fresh))

    def on_test_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.refresh(trainer, _checked(pl_module))
        assert self._fingerprint is not None
        # also what was left by a build that was killed, when nothing had to be refreshed
        self._prune(trainer, self._fingerprint)
        if trainer.is_global_zero:
            self.builder.prune_shared()

    def _is_due(self, step: int) -> bool:
        if isinstance(self.schedule, WhenStale):
            return self._is_stale(step)
        return self.schedule.is_due(step)

    def _is_stale(self, step: int) -> bool:
        """Whether the index in use was measured just now, and found stale."""
        if not isinstance(self.schedule, WhenStale) or self.meter is None or self.meter.latest is None:
            return False
        return self.meter.measured_step == step and self.schedule.is_stale(self.meter.latest.overlap)

    # ---- how ----

    def refresh(self, trainer: Trainer, module: RetrievalModule) -> None:
        """Gives the module an index of its present passage encoder; nothing to do where it has one."""
        fingerprint = _fingerprint(trainer, module)
        if module.index is not None and fingerprint == self._fingerprint:
            if self._is_stale(trainer.global_step):
                log.warning(
                    "schedule when_stale: even a fresh index %r is stale, because it is approximate; it will "
                    "be refreshed at each measurement: ask for less overlap, or set factory to Flat",
                    self.builder.factory,
                )
            return
        # a resumed run whose steps are all done has no index yet, but a retriever that has learnt
        is_starts = module.index is None and not self._in_checkpoints
        is_first = module.index is None
        with module.timer.part("refresh_index"):
            module.index = None  # the old one is let go before the new one takes memory
            module.index = self.builder.load(trainer, module, fingerprint)
            if module.index is None:
                self._prune(trainer, fingerprint)
                module.index = self.builder.build(trainer, module, fingerprint, is_shared=is_starts)
        self._fingerprint = fingerprint
        if self.meter is not None:
            self.meter.keep(trainer, module)
        if not is_first and (trainer.training or trainer.validating):
            self.num_refreshes += 1
            self.refresh_steps.append(trainer.global_step)
        if trainer.is_global_zero and trainer.state.fn == TrainerFn.FITTING:
            self._keep_encoder(module, fingerprint)
        self._prune(trainer, fingerprint)

    def _keep_encoder(self, module: RetrievalModule, fingerprint: str) -> None:
        path = self._encoder_file(fingerprint)
        if path is not None and not path.is_file():
            save_sealed(module.retriever.passage_encoder.state_dict(), path)

    def _encoder_file(self, fingerprint: str) -> Path | None:
        return None if self.encoders is None else self.encoders / f"index-{fingerprint[:16]}.ckpt"

    def _prune(self, trainer: Trainer, fingerprint: str) -> None:
        """Keeps an index, maybe one that is being made, and that which the last checkpoint needs.

        Before another is made too, so that no more than two are on the disk: a run that is killed meanwhile
        goes on with that of its checkpoint. Of encoders that of the checkpoint before stays, too. Nothing
        goes while the start is measured: a run that goes on may do so before it knows its checkpoints.
        """
        if not trainer.is_global_zero or not (self._knows_checkpoints or self._has_no_checkpoints()):
            return
        needed = [name for name in (fingerprint, *self._in_checkpoints) if name is not None]
        last = [name for name in self._in_checkpoints[-1:] if name is not None]
        keep = {name for of in (fingerprint, *last) for name in self.builder.names_of(of)}
        for folder in self.builder.folder.iterdir() if self.builder.folder.is_dir() else ():
            # an encoding that has begun has a suffix
            if folder.is_dir() and folder.name.split(".")[0] not in keep:
                shutil.rmtree(folder)
        files = {self._encoder_file(fingerprint) for fingerprint in needed}
        for file in self.encoders.glob("index-*.ckpt") if self.encoders is not None else ():
            if file not in files:
                file.unlink()

    def _has_no_checkpoints(self) -> bool:
        return self.encoders is None or not any(self.encoders.glob("*.ckpt"))

    # ---- resuming ----

    def state_dict(self) -> dict[str, Any]:
        self._in_checkpoints = [*self._in_checkpoints[-1:], self._fingerprint]
        return {
            "fingerprints": list(self._in_checkpoints),
            "last_due_step": self._last_due_step,
            "num_refreshes": self.num_refreshes,
            "refresh_steps": list(self.refresh_steps),
        }

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self._in_checkpoints = list(state_dict["fingerprints"])
        self._knows_checkpoints = True  # also where all steps are done, and no training starts
        self._last_due_step = state_dict["last_due_step"]
        self.num_refreshes = state_dict["num_refreshes"]
        self.refresh_steps = list(state_dict["refresh_steps"])

    def _restore(self, trainer: Trainer, module: RetrievalModule, fingerprint: str) -> None:
        """Gives the module the index that its checkpoint was trained with."""
        with module.timer.part("refresh_index"):
            module.index = None
            index = self.builder.load(trainer, module, fingerprint)
            if index is None:
                index = self._make_again(trainer, module, fingerprint)
        if index is None:
            log.warning(
                "the index that the checkpoint was trained with is gone from %s, and the encoder that it was "
                "made of from %s; building one of the present retriever: this is not the same run any more, "
                "its numbers will differ from those of an uninterrupted one",
                self.builder.folder,
                self.encoders,
            )
            self.refresh(trainer, module)
            return
        module.index = index
        self._fingerprint = fingerprint

    def _make_again(self, trainer: Trainer, module: RetrievalModule, fingerprint: str) -> SearchIndex | None:
        """The index of an encoder that was: the checkpoint's own, one that was kept, or the start's."""
        encoder = module.retriever.passage_encoder
        present = copy.deepcopy(encoder.state_dict())
        try:
            for weights, is_start in self._candidates(present, fingerprint):
                encoder.load_state_dict(weights)
                if _fingerprint(trainer, module) == fingerprint:
                    log.warning("the index that the checkpoint was trained with is made again")
                    self._prune(trainer, fingerprint)
                    return self.builder.build(trainer, module, fingerprint, is_shared=is_start)
        finally:
            encoder.load_state_dict(present)
        return None

    def _candidates(
        self, present: Mapping[str, Tensor], fingerprint: str
    ) -> Iterator[tuple[Mapping[str, Tensor], bool]]:
        """(weights, whether they are the start's)."""
        yield present, False
        file = self._encoder_file(fingerprint)
        if file is not None and file.is_file():
            try:
                yield load_sealed(file, map_location="cpu"), False
            except DamagedFileError as error:
                log.warning("%s", error)
        if self.start_encoder is not None:
            yield self.start_encoder(), True


def searches_stale_index(module: LightningModule) -> bool:
    """Whether what the running validation retrieves is of an older passage encoder than the present one."""
    return isinstance(module, RetrievalModule) and not module.index_is_fresh


def _fingerprint(trainer: Trainer, module: RetrievalModule) -> str:
    """Of the embeddings as this trainer's precision computes them."""
    with trainer.precision_plugin.forward_context():
        return embeddings_fingerprint(module.retriever, module.knowledge_base)


def _checked(module: LightningModule) -> RetrievalModule:
    assert isinstance(module, RetrievalModule)
    return module
