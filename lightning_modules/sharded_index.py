"""Exact search in a matrix of embeddings of which each process of a run has a part."""

import numpy as np
import torch
from jaxtyping import Float16, Float32, Int64
from lightning import Trainer

from datamodules.embedding_matrix import EmbeddingMatrix
from datamodules.matrix_index import MatrixIndex
from datamodules.passage_index import EXACT, check_search, in_order
from lightning_modules.processes import gather


class ShardedIndex:
    """Maximum inner product search over an `EmbeddingMatrix`, each process searching a share of its rows.

    A search is for the queries of all processes. Each holds its rows on its own GPU, or reads them from the
    file, so that a matrix may be larger than one GPU, and a search takes a share of the time. The queries go
    to all processes, and of what these find the rows' numbers and scores alone come back. What is found is
    what one process would find.

    So all processes must search together and equally often, one that has no query too: with none.

    Args:
        trainer: of the processes.
        matrix: of the embeddings.
        device: where this process searches.

    Raises:
        DataError, NoRoomOnDeviceError: as `MatrixIndex`, of this process's share.
    """

    factory: str = EXACT

    def __init__(self, trainer: Trainer, matrix: EmbeddingMatrix, device: torch.device | str = "cpu") -> None:
        self.matrix = matrix
        self.dim = matrix.shape.dim
        self._trainer = trainer
        self.own = MatrixIndex(matrix, device, _share(len(matrix.shape.chunks), trainer))

    def __len__(self) -> int:
        return len(self.matrix)

    def search(
        self, queries: Float32[np.ndarray, "own dim"], k: int
    ) -> tuple[Float32[np.ndarray, "own k"], Int64[np.ndarray, "own k"]]:
        """What this process asks for; see `MatrixIndex.search`.

        Args:
            queries: of this process, maybe none.
            k: passages wanted for each of them.

        Raises:
            ValueError: as `PassageIndex.search`, in all processes if the queries of one are at fault.
        """
        asked = gather(self._trainer, [(queries, k)])
        for of_process, wanted in asked:
            check_search(of_process, wanted, len(self), self.dim)
        most = max(wanted for _, wanted in asked)
        found = gather(self._trainer, [self._search_own(np.concatenate([q for q, _ in asked]), most)])
        start = sum(len(of_process) for of_process, _ in asked[: self._trainer.global_rank])
        own = slice(start, start + len(queries))
        scores, rows = in_order(
            np.concatenate([of_rows[own] for of_rows, _ in found], axis=1),
            np.concatenate([of_rows[own] for _, of_rows in found], axis=1),
        )
        return scores[:, :k], rows[:, :k]

    def embeddings(self, rows: Int64[np.ndarray, " rows"]) -> Float16[np.ndarray, "rows dim"]:
        """See `SearchIndex.embeddings`; each process reads them from the file."""
        return self.matrix.rows(rows)

    def _search_own(
        self, queries: Float32[np.ndarray, "all dim"], k: int
    ) -> tuple[Float32[np.ndarray, "all found"], Int64[np.ndarray, "all found"]]:
        """The best of this process's rows, which may be fewer than k."""
        num_found = min(k, len(self.own))
        if num_found == 0:
            empty = np.zeros((len(queries), 0))
            return empty.astype(np.float32), empty.astype(np.int64)
        return self.own.search(queries, num_found)


def _share(num_chunks: int, trainer: Trainer) -> range:
    """Numbers of the chunks of this process, next to each other."""
    first, end = (num_chunks * (trainer.global_rank + end) // trainer.world_size for end in (0, 1))
    return range(first, end)
