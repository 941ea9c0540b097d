"""Each kind of file that a run reads back: how one comes to be, and what is read of it."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from callbacks.checkpoint_files import load_sealed, save_sealed
from callbacks.validate_on_part import read_rows
from datamodules.bm25 import BM25Index
from datamodules.embedding_matrix import EmbeddingMatrix, MatrixShape
from datamodules.errors import DataError
from datamodules.passage_index import PassageIndex, StaleIndexError
from datamodules.passages import KnowledgeBase
from datamodules.sealed_files import checksums_of, read_json, verify_files, write_json
from experiments.config import ConfigError, load_config, read_config, save_config
from lightning_modules.output_store import OutputStore
from tests.tiny_models import toy_knowledge_base

NOTICED = (DataError, ConfigError, StaleIndexError, FileNotFoundError)
"""What says that a file is not what it was; a run makes it anew, takes another, or refuses."""


@dataclass(frozen=True)
class Kind:
    """A kind of file.

    Attributes:
        name: of the kind.
        write: makes one in an empty folder.
        read: gives all of it, in a form that can be compared.
        may_lose: whether what is damaged may be left out, since it is made anew where it is missing.
    """

    name: str
    write: Callable[[Path], object]
    read: Callable[[Path], Any]
    may_lose: bool = False

    def read_or_notice(self, folder: Path) -> tuple[Any, Exception | None]:
        """What is read, or what was noticed."""
        try:
            return self.read(folder), None
        except NOTICED as error:
            return None, error

    def is_same(self, found: Any, expected: Any) -> bool:
        """Whether nothing that was read is another thing than what was written."""
        if self.may_lose:
            return all(expected.get(key) == value for key, value in found.items())
        return found == expected


def _embeddings(count: int = 40, dim: int = 6) -> np.ndarray:
    return np.random.default_rng(0).standard_normal((count, dim)).astype(np.float32)


# ---- a writer and a reader a kind ----


def _write_checkpoint(folder: Path) -> None:
    torch.manual_seed(0)
    weights = {"a.weight": torch.randn(8, 8), "b.bias": torch.randn(8)}
    save_sealed({"state_dict": weights, "global_step": 4, "callbacks": {"SaveBest": 0.5}}, folder / "x.ckpt")


def _read_checkpoint(folder: Path) -> Any:
    found = load_sealed(folder / "x.ckpt")
    weights = {name: weight.tolist() for name, weight in found.pop("state_dict").items()}
    return weights, found


def _read_index(folder: Path) -> Any:
    scores, rows = PassageIndex.load(folder, "of-these").search(_embeddings(), 40)
    return scores.tolist(), rows.tolist()


def _write_matrix(folder: Path) -> None:
    matrix = EmbeddingMatrix.begin(folder / "partial", MatrixShape("of-these", 40, 6, rows_a_chunk=16))
    for chunk, rows in enumerate(matrix.shape.chunks):
        matrix.write(chunk, _embeddings()[rows.start : rows.stop])
    matrix.adopt(folder / "matrix")


def _read_matrix(folder: Path) -> Any:
    matrix = EmbeddingMatrix.open(folder / "matrix", "of-these")
    return [block.tolist() for _, block in matrix.blocks()]


def _read_knowledge_base(folder: Path) -> Any:
    found = KnowledgeBase(folder / "toy.arrow")
    passages = list(found), found.fingerprint, found.source
    found.close()
    return passages


def _write_bm25(folder: Path) -> None:
    (folder.parent / "kb").mkdir(exist_ok=True)
    BM25Index.build(toy_knowledge_base(folder.parent / "kb")).save(folder / "bm25")


def _read_bm25(folder: Path) -> Any:
    scores, rows = BM25Index.load(folder / "bm25").search(["the capital of Peru", "rivers"], 24)
    return scores.tolist(), rows.tolist()


def _write_outputs(folder: Path) -> None:
    store = OutputStore(folder / "kept", ["scores"])
    for number in range(4):
        key = bytes([number]) * 16
        store.put({key: {"scores": _embeddings()[number]}})
    store.close()


def _read_outputs(folder: Path) -> Any:
    store = OutputStore(folder / "kept", ["scores"])
    keys = [bytes([number]) * 16 for number in range(4)]
    found = {key: store[key]["scores"].tolist() for key in keys if key in store}
    assert len(store) <= 4
    return found


def _write_predictions(folder: Path) -> None:
    (folder / "predictions.jsonl").write_text('{"id": "q1", "em": 1.0}\n{"id": "q2", "em": 0.0}\n')
    write_json(folder / "summary.json", {"checksums": checksums_of(folder, folder.glob("predictions*"))})


def _read_predictions(folder: Path) -> Any:
    verify_files(folder, read_json(folder / "summary.json")["checksums"])
    return (folder / "predictions.jsonl").read_text()


START = {"test": {"test/hr_at_5": 0.25}, "validation": {"validation/kl": 1.5}, "candidates": {"q1": ["c1"]}}

KINDS = (
    Kind("checkpoint", _write_checkpoint, _read_checkpoint),
    Kind(
        "FAISS index", lambda folder: PassageIndex.build(_embeddings()).save(folder, "of-these"), _read_index
    ),
    Kind("embedding matrix", _write_matrix, _read_matrix),
    Kind("knowledge base", toy_knowledge_base, _read_knowledge_base),
    Kind("BM25 index", _write_bm25, _read_bm25),
    Kind("reader outputs", _write_outputs, _read_outputs, may_lose=True),
    Kind(
        "start.json, summary.json",
        lambda folder: write_json(folder / "start.json", START),
        lambda folder: {key: read_json(folder / "start.json").get(key) for key in START},
    ),
    Kind(
        "passages of validations",
        lambda folder: write_json(folder / "rows.json", {"rows": [1, 5, 17]}),
        lambda folder: read_rows(folder / "rows.json", 24).tolist(),
    ),
    Kind(
        "config.yaml",
        lambda folder: save_config(load_config("quickstart"), folder / "config.yaml"),
        lambda folder: read_config(folder / "config.yaml"),
    ),
    Kind("predictions, trained models", _write_predictions, _read_predictions),
)


def files_of(folder: Path) -> Iterator[Path]:
    """All files below a folder that hold something, in order."""
    yield from (path for path in sorted(folder.rglob("*")) if path.is_file() and path.stat().st_size)


def with_byte_changed(content: bytes, place: int, by: int) -> bytes:
    """A copy with one byte changed; `by` from 1 to 255."""
    return content[:place] + bytes([(content[place] + by) % 256]) + content[place + 1 :]
