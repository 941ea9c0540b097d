"""The best of many scores, and exact search by matrix products: the order of equal scores is certain."""

from collections.abc import Iterable

import numpy as np
import torch
from jaxtyping import Float, Float32, Int64
from torch import Tensor


def search_blocks(
    queries: Float32[Tensor, "batch dim"], blocks: Iterable[tuple[int, Float[Tensor, "rows dim"]]], k: int
) -> tuple[Float32[np.ndarray, "batch k"], Int64[np.ndarray, "batch k"]]:
    """The k rows with the highest inner product with each query, the best first; of equal ones the lower row.

    Args:
        queries: one row a query, on the device of the blocks.
        blocks: number of the first row, and rows, of any float type; scores of one block at a time are kept.
        k: rows wanted for each query, of all blocks together.

    Returns:
        The scores, and the rows' numbers.
    """
    scores = torch.empty(len(queries), 0, device=queries.device)
    rows = torch.empty(len(queries), 0, dtype=torch.int64, device=queries.device)
    for first, block in blocks:
        # in single precision, also where a training step's mixed precision surrounds it: halves would tie
        with torch.autocast(queries.device.type, enabled=False):
            products = queries @ block.float().T
        of_block, places = best_places(products, min(k, len(block)))
        scores, rows = in_order(torch.cat([scores, of_block], 1), torch.cat([rows, places + first], 1), k)
    return scores.cpu().numpy(), rows.cpu().numpy()


def best_places(
    scores: Float[Tensor, "batch rows"], k: int
) -> tuple[Float[Tensor, "batch k"], Int64[Tensor, "batch k"]]:
    """The k highest scores and their places; of those that tie at the k-th place the first ones.

    Args:
        scores: any.
        k: places wanted of each row, at most as many as there are.

    Returns:
        Both, of each row in an order that is not certain where scores are equal: `in_order` gives it one.
    """
    # topk takes any of those that tie at the last place: one more shows whether there are others
    best, places = scores.topk(min(k + 1, scores.shape[1]), dim=1)
    has_others = (best[:, k:] == best[:, k - 1 : k]).any(dim=1)
    best, places = best[:, :k], places[:, :k]
    if has_others.any():
        ordered, order = scores[has_others].sort(dim=1, descending=True, stable=True)
        best[has_others], places[has_others] = ordered[:, :k], order[:, :k]
    return best, places


def in_order(
    scores: Float[Tensor, "batch found"], rows: Int64[Tensor, "batch found"], k: int
) -> tuple[Float[Tensor, "batch k"], Int64[Tensor, "batch k"]]:
    """The k highest scores, the best first; of equal ones the lower row."""
    by_row = rows.argsort(dim=1)
    scores, order = scores.gather(1, by_row).sort(dim=1, descending=True, stable=True)
    return scores[:, :k], rows.gather(1, by_row).gather(1, order)[:, :k]
