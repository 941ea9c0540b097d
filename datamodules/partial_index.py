"""An index of some passages of a knowledge base, that knows their rows in the whole."""

import numpy as np
import torch
from jaxtyping import Float16, Float32, Int64
from torch import Tensor

from datamodules.matrix_index import ROWS_ON_DEVICE, NoRoomOnDeviceError, blocks_of, search_on
from datamodules.passage_index import EXACT, check_embeddings, check_search


class PartialIndex:
    """Exact search among some passages of a knowledge base, a `SearchIndex`.

    Args:
        embeddings: one row a passage, in half precision as large indices keep them; kept as they are, since a
            million in single precision beside them would take 4.6 GB.
        rows: of these passages in the knowledge base, ascending.
        device: where to search.

    Raises:
        UnusableEmbeddingsError: a row is all zeros, or holds NaN or infinity.
        NoRoomOnDeviceError: they do not fit on the GPU.
    """

    factory: str = EXACT

    def __init__(
        self,
        embeddings: Float16[np.ndarray, "passages dim"],
        rows: Int64[np.ndarray, " passages"],
        device: torch.device | str = "cpu",
    ) -> None:
        self.rows = rows
        self.dim: int = embeddings.shape[1]
        for start in range(0, len(rows), ROWS_ON_DEVICE):
            part = slice(start, start + ROWS_ON_DEVICE)
            check_embeddings(embeddings[part], rows[part])
        try:
            self._embeddings: Tensor = torch.from_numpy(embeddings).to(device)
        except torch.OutOfMemoryError as error:
            raise NoRoomOnDeviceError(
                f"the embeddings of the {len(rows):,} passages that validations search take "
                f"{embeddings.nbytes / 1e9:.1f} GB of GPU memory, which are not free; set "
                "index.validation_passages to fewer, or index.gpu=false"
            ) from error

    def __len__(self) -> int:
        return len(self.rows)

    def embeddings(self, rows: Int64[np.ndarray, " rows"]) -> None:
        """Nothing: of most rows of the knowledge base it has none."""

    def search(
        self, queries: Float32[np.ndarray, "batch dim"], k: int
    ) -> tuple[Float32[np.ndarray, "batch k"], Int64[np.ndarray, "batch k"]]:
        """See `PassageIndex.search`; the rows are those of the knowledge base."""
        check_search(queries, k, len(self), self.dim)
        scores, found = search_on(self._embeddings.device, queries, blocks_of(self._embeddings), k)
        return scores, self.rows[found]


def choose_rows(
    needed: list[list[int]], num_rows: int, num_passages: int, seed: int
) -> Int64[np.ndarray, " rows"]:
    """Rows of a fixed part of a knowledge base: what is needed, and a random sample of the rest.

    Args:
        needed: rankings of rows; the first of each come before the second of any.
        num_rows: wanted.
        num_passages: of the knowledge base.
        seed: of the sample.

    Returns:
        Ascending, each once; all there are where there are no more than `num_rows`.

    Example:
        >>> choose_rows([[7, 3], [7, 1]], num_rows=3, num_passages=9, seed=0).tolist()
        [1, 3, 7]
    """
    if num_rows >= num_passages:
        return np.arange(num_passages)
    chosen: dict[int, None] = {}
    for rank in range(max(map(len, needed), default=0)):
        for ranking in needed:
            if rank < len(ranking) and len(chosen) < num_rows:
                chosen[ranking[rank]] = None
    order = np.random.default_rng(seed).permutation(num_passages)
    others = order[~np.isin(order, list(chosen))][: num_rows - len(chosen)]
    return np.sort(np.concatenate([np.array(list(chosen), dtype=np.int64), others]))
