"""Exact search in a matrix of embeddings that need not fit into memory, or on the device where it does."""

from collections.abc import Iterable, Iterator

import numpy as np
import torch
from jaxtyping import Float, Float16, Float32, Int64
from torch import Tensor

from datamodules.best_scores import search_blocks
from datamodules.embedding_matrix import EmbeddingMatrix
from datamodules.errors import DataError
from datamodules.passage_index import EXACT, check_search

ROWS_ON_DEVICE = 262_144
"""Rows multiplied at a time there: their scores for 64 queries take 64 MB."""


class NoRoomOnDeviceError(DataError):
    """Embeddings that the memory of a GPU cannot hold."""


class MatrixIndex:
    """Maximum inner product search over an `EmbeddingMatrix`, exact for its half-precision embeddings.

    On the CPU the file is read block by block for each search, so memory does not grow with the knowledge
    base; many queries at a time cost hardly more than one. On a GPU the whole matrix is kept there.

    Args:
        matrix: of the embeddings.
        device: where to search.
        chunks: of the matrix, to search no others; None = all.

    Raises:
        DataError: the matrix cannot be read.
        NoRoomOnDeviceError: it does not fit on the GPU.
    """

    factory: str = EXACT

    def __init__(
        self,
        matrix: EmbeddingMatrix,
        device: torch.device | str = "cpu",
        chunks: range | None = None,
    ) -> None:
        self.matrix = matrix
        self.device = torch.device(device)
        self.dim = matrix.shape.dim
        self.chunks = range(len(matrix.shape.chunks)) if chunks is None else chunks
        searched = [matrix.shape.chunks[chunk] for chunk in self.chunks]
        self._first_row = searched[0].start if searched else 0
        self._num_rows = sum(map(len, searched))
        self._on_device: Tensor | None = None
        if self.device.type != "cpu":
            self._keep_on_device()

    def __len__(self) -> int:
        return self._num_rows

    def _keep_on_device(self) -> None:
        try:
            self._on_device = torch.empty(len(self), self.dim, dtype=torch.float16, device=self.device)
        except torch.OutOfMemoryError as error:
            raise NoRoomOnDeviceError(
                f"the embeddings of {len(self):,} passages take {len(self) * self.dim * 2 / 1e9:.1f} GB "
                "of GPU memory, which are not free; set index.gpu=false, or a smaller index such as "
                "index.factory=IVF16384,PQ64"
            ) from error
        for rows, block in self.matrix.blocks(self.chunks):
            start = rows.start - self._first_row
            self._on_device[start : start + len(rows)] = torch.from_numpy(block).to(self.device)

    def search(
        self, queries: Float32[np.ndarray, "batch dim"], k: int
    ) -> tuple[Float32[np.ndarray, "batch k"], Int64[np.ndarray, "batch k"]]:
        """The k passages with the highest inner product with each query, the best first.

        Of equal scores the lower row comes first, at the k-th place too.

        Args, Returns, Raises: as `PassageIndex.search`.
        """
        check_search(queries, k, len(self), self.dim)
        return search_on(self.device, queries, self._blocks(), k)

    def embeddings(self, rows: Int64[np.ndarray, " rows"]) -> Float16[np.ndarray, "rows dim"]:
        """See `SearchIndex.embeddings`."""
        return self.matrix.rows(rows)

    def _blocks(self) -> Iterator[tuple[int, Float[Tensor, "rows dim"]]]:
        """(number of the first row, rows)."""
        if self._on_device is None:
            for rows, block in self.matrix.blocks(self.chunks):
                yield rows.start, torch.from_numpy(block)
            return
        for start, kept in blocks_of(self._on_device):
            yield self._first_row + start, kept


def blocks_of(embeddings: Float[Tensor, "rows dim"]) -> Iterator[tuple[int, Float[Tensor, "rows dim"]]]:
    """(number of the first row, rows) of what is in memory, as many at a time as are multiplied together."""
    for start in range(0, len(embeddings), ROWS_ON_DEVICE):
        yield start, embeddings[start : start + ROWS_ON_DEVICE]


def search_on(
    device: torch.device,
    queries: Float32[np.ndarray, "batch dim"],
    blocks: Iterable[tuple[int, Float[Tensor, "rows dim"]]],
    k: int,
) -> tuple[Float32[np.ndarray, "batch k"], Int64[np.ndarray, "batch k"]]:
    """`search_blocks` where the blocks are; without a query none of them is looked at."""
    if len(queries) == 0:
        return np.zeros((0, k), dtype=np.float32), np.zeros((0, k), dtype=np.int64)
    return search_blocks(torch.from_numpy(np.ascontiguousarray(queries)).to(device), blocks, k)
