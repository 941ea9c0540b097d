"""Builds, saves and finds the index of a passage encoder, whatever its size and however many processes."""

import logging
import os
import re
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float
from lightning import Trainer

from callbacks.progress import progress_bar
from callbacks.stop_on_interrupt import stop_if_interrupted
from datamodules.durable_files import age_s, delete_partials_of_dead, partial_beside
from datamodules.embedding_matrix import ROWS_A_CHUNK, EmbeddingMatrix, MatrixShape
from datamodules.errors import DataError
from datamodules.file_locks import try_lock
from datamodules.matrix_index import MatrixIndex
from datamodules.passage_index import (
    EXACT,
    PassageIndex,
    SearchIndex,
    StaleIndexError,
    UnusableEmbeddingsError,
)
from datamodules.qa_datamodule import QuestionDataModule
from datamodules.sealed_files import DamagedFileError
from lightning_modules.encoding import encode_rows
from lightning_modules.eval_mode import eval_mode
from lightning_modules.processes import failing_together, gather
from lightning_modules.retrieval import RetrievalModule
from lightning_modules.sharded_index import ShardedIndex

log = logging.getLogger(__name__)

_QUESTIONS_COMPARED = 100
_RECALL_AT = 5
_WEEK_S = 7 * 86400.0


@dataclass
class IndexBuilder:
    """Indices under the fingerprint of their embeddings, in the folder of a run and in one that runs share.

    Small knowledge bases are encoded in memory, and an exact index of them keeps single precision. Those of
    more than 1 GiB, and all on a GPU, are written as an `EmbeddingMatrix`: an exact index searches it in its
    file or on the GPU, each process a share of it; another is made from it. An encoding that was killed goes
    on where it was.

    Attributes:
        folder: of the run.
        start_folder: shared between runs, of the indices of starting checkpoints; None = nothing is shared.
        factory: `faiss.index_factory` string.
        use_gpu: search on the GPU.
        batch_size: passages encoded together.
        show_progress: a bar with rate and time left.
        largest_in_memory_bytes: embeddings in single precision that take more are a matrix.
    """

    folder: Path
    start_folder: Path | None = None
    factory: str = EXACT
    use_gpu: bool = False
    batch_size: int = 64
    show_progress: bool = True
    largest_in_memory_bytes: int = 1024**3

    def folder_of(self, fingerprint: str) -> Path:
        """Where the run keeps an index of its own."""
        return self.folder / self._name(fingerprint)

    def names_of(self, fingerprint: str) -> set[str]:
        """Of folders that hold an index of these embeddings, or the embeddings that it is made of."""
        return {self._name(fingerprint), fingerprint[:16]}

    def _name(self, fingerprint: str) -> str:
        """An approximate index stands beside the exact one of the same embeddings, not in its place."""
        kind = "" if self.factory == EXACT else "-" + re.sub(r"\W+", "-", self.factory)
        return f"{fingerprint[:16]}{kind}"

    def load(self, trainer: Trainer, module: RetrievalModule, fingerprint: str) -> SearchIndex | None:
        """The index of these embeddings, where there is a whole one; of a damaged one it is said.

        Args:
            trainer: whose processes all load it, or none of them does.
            module: with the retriever and the passages.
            fingerprint: of the embeddings.

        Raises:
            NoRoomOnDeviceError: it does not fit on the GPU.
        """
        for place in self._places(fingerprint):
            index = self._load_from(place, trainer, module, fingerprint)
            if all(gather(trainer, [index is not None])):
                return index
            index = None  # a GPU need not hold two where another process has found its part damaged
        return None

    def _places(self, fingerprint: str) -> list[Path]:
        folders = (self.folder, self.start_folder)
        return [folder / self._name(fingerprint) for folder in folders if folder is not None]

    def _load_from(
        self, place: Path, trainer: Trainer, module: RetrievalModule, fingerprint: str
    ) -> SearchIndex | None:
        try:
            if self._searches_matrix(module):
                matrix = EmbeddingMatrix.open(place, fingerprint)
                if not self.use_gpu:  # else each block is verified on its way there
                    matrix.verify()
                return self._search_in(matrix, trainer, module)
            index = PassageIndex.load(place, fingerprint, use_gpu=self.use_gpu)
        except (FileNotFoundError, StaleIndexError):
            return None
        except DamagedFileError as error:
            log.warning("%s; encoding all passages again", error)
            return None
        return index if index.factory == self.factory else None

    def build(
        self, trainer: Trainer, module: RetrievalModule, fingerprint: str, is_shared: bool
    ) -> SearchIndex:
        """Encodes all passages, makes the index and saves it.

        Args:
            trainer: whose processes encode a share each, in its precision.
            module: with the retriever and the passages.
            fingerprint: of the embeddings.
            is_shared: whether other runs may want it; needs `start_folder`.
        """
        folder = self.start_folder if is_shared and self.start_folder is not None else self.folder
        if self._searches_matrix(module):
            with self._place(trainer, folder, fingerprint) as place:
                # another run may have come to an end since `load` looked, and be searching it by now
                matrix = self._encoded_before(trainer, place, fingerprint) or self._encode_matrix(
                    trainer, module, fingerprint, place
                )
            return self._search_in(matrix, trainer, module)
        if self._is_large(module):
            partial = self.folder / f"{fingerprint[:16]}.embeddings"
            shared = folder / fingerprint[:16]  # where an exact index of the same embeddings is
            matrix = (
                self._encoded_before(trainer, shared, fingerprint)
                or self._encoded_before(trainer, partial, fingerprint)
                or self._encode_matrix(trainer, module, fingerprint, partial)
            )
            exact = MatrixIndex(matrix)  # in its file: a GPU need not hold it for one search
            index = self._index_rows(trainer, module, matrix.as_array(), exact, fingerprint, folder)
            if trainer.is_global_zero:
                shutil.rmtree(partial, ignore_errors=True)
            return index
        embeddings = encode_in_shares(
            trainer,
            module,
            range(len(module.knowledge_base)),
            self.batch_size,
            self.show_progress,
        )
        return self._index_rows(trainer, module, embeddings, None, fingerprint, folder)

    def prune_shared(self) -> None:
        """Removes from the shared folder what killed runs have left there half-written.

        Embeddings, which the run that was killed can go on with, after a week; an index at once, or after a
        day where its writer was on another machine.
        """
        if self.start_folder is None or not self.start_folder.is_dir():
            return
        delete_partials_of_dead(self.start_folder / "*")
        for place in self.start_folder.glob("[!.]*.partial"):
            if age_s(place) > _WEEK_S:
                with _lock(place.with_suffix(".lock")) as is_ours:
                    if is_ours:
                        log.info("%s, which a killed run has left behind a week ago, is removed", place)
                        shutil.rmtree(place, ignore_errors=True)

    # ---- what kind ----

    def _is_large(self, module: RetrievalModule) -> bool:
        return len(module.knowledge_base) * module.retriever.dim * 4 > self.largest_in_memory_bytes

    def _searches_matrix(self, module: RetrievalModule) -> bool:
        return self.factory == EXACT and (self.use_gpu or self._is_large(module))

    def _search_in(self, matrix: EmbeddingMatrix, trainer: Trainer, module: RetrievalModule) -> SearchIndex:
        device = module.device if self.use_gpu else torch.device("cpu")
        return (
            MatrixIndex(matrix, device) if trainer.world_size == 1 else ShardedIndex(trainer, matrix, device)
        )

    # ---- an index of FAISS ----

    def _index_rows(
        self,
        trainer: Trainer,
        module: RetrievalModule,
        embeddings: np.ndarray,
        exact: SearchIndex | None,
        fingerprint: str,
        folder: Path,
    ) -> SearchIndex:
        """Made and saved by the first process, loaded by the others."""
        with failing_together(trainer, UnusableEmbeddingsError):
            if trainer.is_global_zero:
                index = PassageIndex.build(embeddings, self.factory, use_gpu=self.use_gpu)
                if folder == self.start_folder:
                    self._share(index, fingerprint, folder)
                else:
                    index.save(self.folder_of(fingerprint), fingerprint)
                if self.factory != EXACT:
                    self._log_recall(trainer, module, index, exact or PassageIndex.build(embeddings))
        if not trainer.is_global_zero:
            loaded = (
                self._load_from(place, trainer, module, fingerprint) for place in self._places(fingerprint)
            )
            saved = next((index for index in loaded if index is not None), None)
            assert saved is not None, "the first process has saved it"
            return saved
        return index

    def _share(self, index: PassageIndex, fingerprint: str, folder: Path) -> None:
        """Saves an index where other runs may be saving the same one: the first to be whole stays."""
        place = folder / self._name(fingerprint)
        partial = partial_beside(place)
        index.save(partial, fingerprint)
        try:
            partial.rename(place)
        except OSError:  # there already
            try:
                is_same = PassageIndex.load(place, fingerprint).factory == self.factory
            except DamagedFileError:
                old = partial_beside(place)
                place.rename(old)
                partial.rename(place)
                shutil.rmtree(old)
                return
            except (FileNotFoundError, StaleIndexError):  # an index of another kind
                is_same = False
            shutil.rmtree(partial)
            if not is_same:
                index.save(self.folder_of(fingerprint), fingerprint)

    def _log_recall(
        self, trainer: Trainer, module: RetrievalModule, index: SearchIndex, exact: SearchIndex
    ) -> None:
        """How much of what exact search finds an approximate index finds, for validation questions."""
        datamodule = getattr(trainer, "datamodule", None)
        if not isinstance(datamodule, QuestionDataModule) or not datamodule.validation:
            return
        texts = [question.text for question in datamodule.validation[:_QUESTIONS_COMPARED]]
        with torch.no_grad(), eval_mode(module.retriever):
            queries = module.retriever.encode_queries(texts).float().cpu().numpy()
        k = min(_RECALL_AT, len(index))
        (_, found), (_, wanted) = index.search(queries, k), exact.search(queries, k)
        recall = float(np.mean([np.isin(a, b).mean() for a, b in zip(wanted, found, strict=True)]))
        log.info("index %s: recall@%d %.3f against exact search", self.factory, k, recall)
        for logger in trainer.loggers:
            logger.log_metrics({f"index/recall_at_{_RECALL_AT}": recall}, step=trainer.global_step)

    # ---- a matrix ----

    @contextmanager
    def _place(self, trainer: Trainer, folder: Path, fingerprint: str) -> Iterator[Path]:
        """Where to write the matrix: in a shared folder only while no other run is writing it there."""
        if folder == self.folder:
            yield self.folder_of(fingerprint)
            return
        folder.mkdir(parents=True, exist_ok=True)
        place = folder / fingerprint[:16]
        with _lock(place.with_suffix(".lock")) if trainer.is_global_zero else nullcontext(True) as is_ours:
            if not is_ours:
                other = "another run is encoding the same passages"
                why = other if is_ours is False else f"the file system of {folder} has no locks"
                log.warning("%s; this run encodes them for itself", why)
            is_ours = trainer.strategy.broadcast(is_ours)
            yield place if is_ours else self.folder_of(fingerprint)

    def _encoded_before(self, trainer: Trainer, place: Path, fingerprint: str) -> EmbeddingMatrix | None:
        """Embeddings that are whole: of another run, or one that was killed while FAISS made its index."""
        matrix: EmbeddingMatrix | None = None
        with suppress(FileNotFoundError, StaleIndexError, DamagedFileError):
            matrix = EmbeddingMatrix.open(place, fingerprint)
            matrix.verify()
        return matrix if all(gather(trainer, [matrix is not None])) else None

    def _encode_matrix(
        self, trainer: Trainer, module: RetrievalModule, fingerprint: str, place: Path
    ) -> EmbeddingMatrix:
        shape = MatrixShape(fingerprint, len(module.knowledge_base), module.retriever.dim)
        partial = place.with_name(f"{place.name}.partial")
        if trainer.is_global_zero:
            EmbeddingMatrix.begin(partial, shape)
        trainer.strategy.barrier("room for embeddings")
        try:
            matrix = EmbeddingMatrix.attach(partial)
        except FileNotFoundError as error:
            raise DataError(
                f"{partial} is not seen by process {trainer.global_rank}: all machines must see the folder "
                "of the runs; set runs to a shared one"
            ) from error
        # machines write records side by side, and a shared disk may lose one of another's
        while missing := trainer.strategy.broadcast(matrix.missing()):
            self._encode_parts(trainer, module, matrix, missing)
            trainer.strategy.barrier("passages encoded")
        if trainer.is_global_zero:
            matrix.adopt(place)
        trainer.strategy.barrier("embeddings adopted")
        return EmbeddingMatrix.open(place, fingerprint)

    def _encode_parts(
        self, trainer: Trainer, module: RetrievalModule, matrix: EmbeddingMatrix, missing: list[int]
    ) -> None:
        """Some chunks, of which each process encodes a share."""
        shape = matrix.shape
        if len(missing) < len(shape.chunks):
            log.info(
                "%d of %d parts are encoded already", len(shape.chunks) - len(missing), len(shape.chunks)
            )
        own = missing[trainer.global_rank :: trainer.world_size]
        is_shown = self.show_progress and trainer.is_global_zero
        total = sum(len(shape.chunks[chunk]) for chunk in own)
        with (
            progress_bar(total, "Encoding passages", "passages", is_shown) as bar,
            trainer.precision_plugin.forward_context(),
        ):
            for turn in range(-(-len(missing) // trainer.world_size)):
                stop_if_interrupted(trainer)  # what is written stays
                with failing_together(trainer, UnusableEmbeddingsError):
                    for chunk in own[turn : turn + 1]:
                        rows = shape.chunks[chunk]
                        matrix.write(
                            chunk,
                            encode_rows(
                                module.retriever, module.knowledge_base, rows, self.batch_size, bar.update
                            ),
                        )


@contextmanager
def _lock(path: Path) -> Iterator[bool | None]:
    """Inside, the lock is held; what is given says whether, see `try_lock`."""
    descriptor = os.open(path, os.O_CREAT | os.O_RDWR)
    try:
        yield try_lock(descriptor)
    finally:
        os.close(descriptor)


def encode_in_shares(
    trainer: Trainer,
    module: RetrievalModule,
    rows: Sequence[int],
    batch_size: int = 64,
    show_progress: bool = True,
    dtype: type[np.floating] = np.float32,
) -> Float[np.ndarray, "rows dim"]:
    """Embeddings of some passages, each process encoding a share, in the trainer's precision.

    Args:
        trainer: of the processes; all of them must call this together.
        module: with the retriever and the passages.
        rows: of the passages.
        batch_size: passages encoded together.
        show_progress: a bar with rate and time left.
        dtype: of the result.

    Raises:
        RunInterrupted: see `stop_if_interrupted`.
    """
    shares = np.array_split(np.asarray(rows), trainer.world_size)
    share = shares[trainer.global_rank].tolist()
    # all shares are as long as the first, which is the longest
    encoded = np.zeros((len(shares[0]), module.retriever.dim), dtype=dtype)
    is_shown = show_progress and trainer.is_global_zero
    with (
        progress_bar(len(share), "Encoding passages", "passages", is_shown) as bar,
        trainer.precision_plugin.forward_context(),
        np.errstate(over="ignore"),  # seen as infinite where an index is made of it
    ):
        for start in range(0, len(encoded), ROWS_A_CHUNK):
            stop_if_interrupted(trainer)
            part = share[start : start + ROWS_A_CHUNK]
            encoded[start : start + len(part)] = encode_rows(
                module.retriever, module.knowledge_base, part, batch_size, bar.update
            )
    if trainer.world_size == 1:
        return encoded
    gathered = trainer.strategy.all_gather(torch.from_numpy(encoded).to(module.device)).cpu().numpy()
    return np.concatenate([part[: len(own)] for part, own in zip(gathered, shares, strict=True)])
