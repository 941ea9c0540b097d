"""Search of a question's passages, exact and approximate, beside one product and topk of torch.

Embeddings are made up: clusters of passages, and questions that lie near a passage each, as they do for a
retriever that has learnt something. Without clusters no approximate index finds anything.
"""

from collections.abc import Callable
from functools import partial
from tempfile import TemporaryDirectory

import numpy as np
import torch
from torch import Tensor

from datamodules.embedding_matrix import EmbeddingMatrix, MatrixShape
from datamodules.matrix_index import MatrixIndex
from datamodules.passage_index import PassageIndex, SearchIndex
from experiments.benchmarks.comparison import (
    AtMost,
    Comparison,
    Setting,
    Size,
    TimesFaster,
    in_turns,
)

_K = 5
_RECALL = 0.95
_QUESTIONS = (64, 1)
_PASSAGES_A_CLUSTER = 100
_SIZES = {
    Size.TINY: ((2_000,), 32, 16),
    Size.SMALL: ((10_000, 200_000), 768, 1024),
    Size.FULL: ((10_000, 1_000_000), 768, 4096),
}
"""Numbers of passages, dimensions, and cells of the approximate index."""


def measure(setting: Setting) -> list[Comparison]:
    """Exact search at every size, approximate search at the largest."""
    counts, dim, num_cells = _SIZES[setting.size]
    found: list[Comparison] = []
    for count in counts:
        passages, questions = _made_up(count, dim)
        found += _exact(passages, questions, setting)
        if count == counts[-1]:
            found += _approximate(passages, questions, num_cells, setting)
    return found


def _made_up(count: int, dim: int) -> tuple[np.ndarray, np.ndarray]:
    """Unit vectors in clusters; questions near some of them."""
    generator = np.random.default_rng(0)
    centres = generator.standard_normal((max(1, count // _PASSAGES_A_CLUSTER), dim), dtype=np.float32)
    passages = centres[generator.integers(len(centres), size=count)]
    passages += 1.5 * generator.standard_normal((count, dim), dtype=np.float32)
    passages /= np.linalg.norm(passages, axis=1, keepdims=True)
    near = passages[generator.integers(count, size=max(_QUESTIONS))]
    questions = near + 0.3 / np.sqrt(dim) * generator.standard_normal(near.shape, dtype=np.float32)
    questions /= np.linalg.norm(questions, axis=1, keepdims=True)
    return passages, questions.astype(np.float32)


def _exact(passages: np.ndarray, questions: np.ndarray, setting: Setting) -> list[Comparison]:
    """FAISS on the CPU, the matrix of half precision on a GPU."""
    if setting.device.type == "cpu":
        return _compare("Flat", PassageIndex.build(passages), passages, questions, AtMost(1.1), setting)
    with TemporaryDirectory() as folder:
        shape = MatrixShape("made up", *passages.shape)
        matrix = EmbeddingMatrix.begin(folder, shape)
        for chunk, rows in enumerate(shape.chunks):
            matrix.write(chunk, passages[rows.start : rows.stop])
        index = MatrixIndex(matrix, setting.device)
        return _compare("matrix", index, passages, questions, AtMost(1.1), setting)


def _approximate(
    passages: np.ndarray, questions: np.ndarray, num_cells: int, setting: Setting
) -> list[Comparison]:
    """With as few cells looked into as still find enough."""
    index = PassageIndex.build(passages, f"IVF{num_cells},Flat")
    _, wanted = PassageIndex.build(passages).search(questions, _K)
    for num_probes in (1, 2, 4, 8, 16, 32, 64):
        index.num_probes = num_probes
        if _recall(index, questions, wanted) >= _RECALL:
            break
    name = f"IVF{num_cells}, {num_probes} cell{'s' if num_probes > 1 else ''} looked into"
    return _compare(name, index, passages, questions, TimesFaster(5), setting)


def _compare(
    name: str,
    index: SearchIndex,
    passages: np.ndarray,
    questions: np.ndarray,
    reach: AtMost | TimesFaster,
    setting: Setting,
) -> list[Comparison]:
    on_device = torch.from_numpy(passages).to(setting.device)
    found = []
    for number in _QUESTIONS:
        asked = questions[:number]
        wanted = _by_product(on_device, asked).cpu().numpy()
        recall = _recall(index, asked, wanted)
        if recall < (_RECALL if isinstance(reach, TimesFaster) else 0.99):
            raise ValueError(f"{name} finds {recall:.3f} of the first {_K} that torch finds")
        works: dict[str, Callable[[], object]] = {
            "index": partial(index.search, asked, _K),
            "product": partial(_by_product, on_device, asked),
        }
        took = in_turns(works, setting)
        what = (
            f"{name}, {len(passages):,} x {passages.shape[1]}, {number} question{'s' if number > 1 else ''}"
        )
        agreement = f"recall@{_K} {recall:.3f}"
        found.append(Comparison(what, "product and topk", took["index"], took["product"], reach, agreement))
    return found


def _by_product(passages: Tensor, questions: np.ndarray) -> Tensor:
    asked = torch.from_numpy(questions).to(passages.device)
    return (asked @ passages.T).topk(_K).indices


def _recall(index: SearchIndex, questions: np.ndarray, wanted: np.ndarray) -> float:
    _, found = index.search(questions, _K)
    return float(np.mean([np.isin(one, other).mean() for one, other in zip(found, wanted, strict=True)]))
