"""An index of some passages of a knowledge base, that knows their rows in the whole."""

import numpy as np
from jaxtyping import Float, Float32, Int64

from datamodules.passage_index import PassageIndex


class PartialIndex(PassageIndex):
    """Exact search among some passages of a knowledge base.

    Args:
        embeddings: one row a passage.
        rows: of these passages in the knowledge base, ascending.

    Raises:
        ValueError: as `PassageIndex.build`.
    """

    def __init__(
        self,
        embeddings: Float[np.ndarray, "passages dim"],
        rows: Int64[np.ndarray, " passages"],
    ) -> None:
        built = PassageIndex.build(embeddings)
        super().__init__(built._index, built.factory)
        self.rows = rows

    def embeddings(self, rows: Int64[np.ndarray, " rows"]) -> None:
        """Nothing: of most rows of the knowledge base it has none."""

    def search(
        self, queries: Float32[np.ndarray, "batch dim"], k: int
    ) -> tuple[Float32[np.ndarray, "batch k"], Int64[np.ndarray, "batch k"]]:
        """See `PassageIndex.search`; the rows are those of the knowledge base."""
        scores, found = super().search(queries, k)
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
