"""The passages that match a query best: a FAISS index that knows which embeddings it was built from."""

import re
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import numpy as np
from jaxtyping import Float, Float32, Int, Int64

from datamodules.durable_files import cannot_write, flush_to_disk
from datamodules.errors import MissingFaissError
from datamodules.sealed_files import DamagedFileError, SealedFile, read_json, seal, write_json

FAISS_PACKAGES = ("faiss-cpu", "faiss-gpu")
"""The builds of FAISS, of which one is to be installed."""

EXACT = "Flat"
"""FAISS's name of the index that misses nothing."""
_ROWS_A_CHUNK = 65536
_QUERIES_FOR_A_PRODUCT = 8
"""From so many on torch's matrix product is faster than FAISS's own search of all embeddings."""
_MOST_CELLS = 2**22
"""Four times what FAISS's guide advises for a billion vectors."""
_MOST_BITS = 16
_ANY_DIM = 64
"""Dimensions that a factory string is tried with."""
_META_FILE = "meta.json"
_MEND = "delete the folder, and the index is built again"


class UnusableEmbeddingsError(ValueError):
    """Embeddings that are all zeros, or hold NaN or infinity: those of a model that has diverged."""


class StaleIndexError(ValueError):
    """A saved index was built from other embeddings than the caller's."""


@dataclass(frozen=True)
class _Meta:
    """What `meta.json` says of the index file beside it."""

    fingerprint: str
    dim: int
    count: int
    factory: str
    faiss_version: str
    file: str


def require_faiss() -> Any:
    """FAISS, for whoever makes, reads or searches an index of it; a matrix is searched without.

    Raises:
        MissingFaissError: it is not installed, or cannot be imported.
    """
    try:
        import faiss
    except ImportError as error:
        raise MissingFaissError(error) from error
    return faiss


def check_factory(factory: str) -> None:
    """Refuses text that names no kind of index, before passages are encoded for one.

    Whether the kind fits the dimensions of the embeddings shows once there are some (`PassageIndex.build`).

    Raises:
        ValueError: FAISS does not know it, or it asks for more cells or centroids than an index can have.
    """
    if factory == EXACT:
        return
    numbers = [int(number) for number in re.findall(r"\d+", factory)]
    bits = [int(number) for number in re.findall(r"x(\d+)", factory)]
    if max(numbers, default=0) > _MOST_CELLS or max(bits, default=0) > _MOST_BITS:
        raise ValueError(
            f"{factory!r} asks for more than {_MOST_CELLS:,} cells, or codes of more than {_MOST_BITS} bits"
        )
    faiss = require_faiss()
    try:
        faiss.index_factory(_ANY_DIM, factory, faiss.METRIC_INNER_PRODUCT)
    except RuntimeError as error:
        if "could not parse" in str(error):
            raise ValueError(
                f"{factory!r} is no index that FAISS knows; write such as {EXACT} (exact), IVF4096,Flat or "
                "IVF4096,PQ64"
            ) from error
        # it knows the kind, for embeddings of other dimensions


@runtime_checkable
class SearchIndex(Protocol):
    """What finds passages: their rows in the knowledge base.

    The processes of a run may share one, and then search together: each searches whenever the others do, one
    that has no query by `search_for_none`.

    Attributes:
        dim: dimensions of the embeddings.
        factory: FAISS's name of the kind of index.
    """

    dim: int
    factory: str

    def __len__(self) -> int: ...

    def search(
        self, queries: Float32[np.ndarray, "batch dim"], k: int
    ) -> tuple[Float32[np.ndarray, "batch k"], Int64[np.ndarray, "batch k"]]:
        """See `PassageIndex.search`."""
        ...

    def embeddings(self, rows: Int64[np.ndarray, " rows"]) -> Float[np.ndarray, "rows dim"] | None:
        """What some rows were built from; None where the index does not keep it as it was."""
        ...


def search_for_none(index: SearchIndex) -> None:
    """Takes part in the search of other processes."""
    index.search(np.zeros((0, index.dim), dtype=np.float32), 1)


class PassageIndex:
    """Maximum inner product search over passage embeddings; row i is the i-th passage of the knowledge base.

    Made by `build` or `load`.

    Attributes:
        dim: dimensions of the embeddings.
        factory: FAISS's name of the kind of index, such as `Flat` or `IVF4096,PQ64`.
    """

    def __init__(self, index: Any, factory: str, on_gpu: bool = False) -> None:
        self._index = index
        self._on_gpu = on_gpu
        self.dim: int = index.d
        self.factory = factory

    def __len__(self) -> int:
        return self._index.ntotal

    @property
    def num_probes(self) -> int | None:
        """Cells of an `IVF...` index that a search looks into; None for other kinds."""
        cells = _cells(self._index)
        return None if cells is None else int(cells.nprobe)

    @num_probes.setter
    def num_probes(self, number: int) -> None:
        cells = _cells(self._index)
        if cells is None or number < 1:
            raise ValueError(
                f"num_probes={number}: an index {self.factory!r} has no cells; 1 or more of an IVF... can be"
            )
        cells.nprobe = min(number, cells.nlist)

    @classmethod
    def build(
        cls,
        embeddings: Float[np.ndarray, "passages dim"],
        factory: str = EXACT,
        *,
        use_gpu: bool = False,
        num_train: int = 1_000_000,
        num_probes: int = 64,
        seed: int = 0,
    ) -> "PassageIndex":
        """Indexes the embeddings of all passages.

        They are read in chunks, so that a memory-mapped array (`numpy.load(path, mmap_mode="r")`) of any
        float type need not fit into memory, unless `factory` keeps the vectors themselves, as `Flat` does.

        Args:
            embeddings: one row a passage.
            factory: a string for `faiss.index_factory`: `Flat` is exact; `IVF...` and `PQ...` are
                approximate, smaller or faster, and trained here on a sample of the rows.
            use_gpu: keep the index on the current GPU; the extra `gpu` brings the FAISS that can.
            num_train: most rows to train on; FAISS uses 256 a centroid at most.
            num_probes: cells of an `IVF...` index that a search looks into, FAISS's `nprobe`; more is slower
                and misses less.
            seed: of the sample to train on.

        Raises:
            ValueError: no passages; a row that is all zeros, or holds NaN or infinity; a `factory` that
                FAISS does not know, or that does not fit the embeddings; `use_gpu` without GPU.
        """
        count, dim = embeddings.shape
        if count == 0:
            raise ValueError("there are no passages to index: the embeddings have no rows")
        if num_probes < 1:
            raise ValueError(f"a search must look into at least 1 cell, num_probes is {num_probes}")
        if use_gpu:
            _require_gpu()
        faiss = require_faiss()
        with _faiss_errors(f"cannot make an index {factory!r} of {dim} dimensions"):
            index = faiss.index_factory(dim, factory, faiss.METRIC_INNER_PRODUCT)
        if use_gpu:
            index = _to_gpu(index)
        with _faiss_errors(f"cannot put {count} passages of {dim} dimensions into an index {factory!r}"):
            if not index.is_trained:
                rows = np.arange(count)
                if count > num_train:
                    rows = np.sort(np.random.default_rng(seed).choice(count, num_train, replace=False))
                index.train(_read_rows(embeddings, rows))
            for start in range(0, count, _ROWS_A_CHUNK):
                rows = np.arange(start, min(start + _ROWS_A_CHUNK, count))
                index.add(_read_rows(embeddings, rows))
        built = cls(index, factory, on_gpu=use_gpu)
        if built.num_probes is not None:
            built.num_probes = num_probes
        return built

    def search(
        self, queries: Float32[np.ndarray, "batch dim"], k: int
    ) -> tuple[Float32[np.ndarray, "batch k"], Int64[np.ndarray, "batch k"]]:
        """The k passages with the highest inner product with each query, the best first.

        An `IVF...` index may find fewer than k passages in the cells that it looks into; such a query is
        searched again in all cells. Of equal scores that are returned the lower row comes first; which of
        them are, where the k-th place is tied and there are few queries, is up to FAISS.

        Args:
            queries: one row a query.
            k: passages wanted for each query.

        Returns:
            The scores, and the passages' rows in the embeddings that the index was built from.

        Raises:
            ValueError: fewer than k passages, or k < 1; queries of other dimensions, or that hold NaN or
                infinity; an approximate index that does not find k passages even so.
        """
        check_search(queries, k, len(self), self.dim)
        queries = np.ascontiguousarray(queries)
        if self.factory == EXACT and not self._on_gpu and len(queries) >= _QUERIES_FOR_A_PRODUCT:
            return self._search_by_product(queries, k)
        with _faiss_errors(f"cannot search the index {self.factory!r}"):
            scores, rows = self._index.search(queries, k)
            short = (rows < 0).any(axis=1)
            if short.any():
                scores[short], rows[short] = self._search_all_cells(queries[short], k)
        if (rows < 0).any():
            raise ValueError(f"the index {self.factory!r} found fewer than k = {k} passages: use 'Flat'")
        return in_order(scores, rows)

    def _search_by_product(
        self, queries: Float32[np.ndarray, "batch dim"], k: int
    ) -> tuple[Float32[np.ndarray, "batch k"], Int64[np.ndarray, "batch k"]]:
        """Over the embeddings where FAISS has them, without a copy."""
        import torch

        from datamodules.best_scores import search_blocks

        faiss = require_faiss()
        stored = faiss.rev_swig_ptr(faiss.downcast_index(self._index).get_xb(), len(self) * self.dim)
        kept = stored.reshape(len(self), self.dim)
        blocks = (
            (start, torch.from_numpy(kept[start : start + _ROWS_A_CHUNK]))
            for start in range(0, len(self), _ROWS_A_CHUNK)
        )
        return search_blocks(torch.from_numpy(queries), blocks, k)

    def embeddings(self, rows: Int64[np.ndarray, " rows"]) -> Float32[np.ndarray, "rows dim"] | None:
        """See `SearchIndex.embeddings`."""
        if self.factory != EXACT or self._on_gpu:
            return None
        kept: np.ndarray = self._index.reconstruct_batch(rows)
        return kept

    def _search_all_cells(
        self, queries: Float32[np.ndarray, "batch dim"], k: int
    ) -> tuple[Float32[np.ndarray, "batch k"], Int64[np.ndarray, "batch k"]]:
        cells = _cells(self._index)
        if cells is None:
            return self._index.search(queries, k)
        num_probes, cells.nprobe = cells.nprobe, cells.nlist
        try:
            return self._index.search(queries, k)
        finally:
            cells.nprobe = num_probes

    def save(self, folder: Path | str, fingerprint: str) -> None:
        """Writes the index into `folder`, so that it holds a whole index, the old or the new, at any moment.

        `meta.json` names the index file; replacing it is what makes the new index the folder's. Both have
        checksums, which `load` compares. One process may save at a time.

        Args:
            folder: made where it is missing.
            fingerprint: of the embeddings (see `fingerprint`).

        Raises:
            DataError: the folder cannot be written, for want of space, say.
        """
        folder = Path(folder)
        faiss = require_faiss()
        index = faiss.index_gpu_to_cpu(self._index) if self._on_gpu else self._index
        file = folder / f"index-{uuid.uuid4().hex}.faiss"
        meta = _Meta(fingerprint, self.dim, len(self), self.factory, faiss.__version__, file.name)
        try:
            folder.mkdir(parents=True, exist_ok=True)
            _write_index(index, file)
            seal(file)
            flush_to_disk(file)
            write_json(folder / _META_FILE, asdict(meta))
        except BaseException as error:
            file.unlink(missing_ok=True)
            if isinstance(error, OSError):
                raise cannot_write(folder, error) from error
            raise
        for left_over in set(folder.glob("index-*.faiss")) - {file}:
            left_over.unlink(missing_ok=True)

    @classmethod
    def load(cls, folder: Path | str, fingerprint: str, *, use_gpu: bool = False) -> "PassageIndex":
        """Reads an index back, provided that it was saved with the same fingerprint.

        Args:
            folder: as given to `save`.
            fingerprint: of the embeddings that the index should have been built from.
            use_gpu: as in `build`.

        Raises:
            FileNotFoundError: the folder holds no index.
            StaleIndexError: the fingerprints differ.
            DamagedFileError: the folder's files are not what was written.
            ValueError: `use_gpu` without GPU.
        """
        folder = Path(folder)
        if use_gpu:
            _require_gpu()
        meta = _read_meta(folder)
        if meta.fingerprint != fingerprint:
            raise StaleIndexError(
                f"the passage index in {folder} is stale: it was built from embeddings with fingerprint"
                f" {meta.fingerprint[:12]}, wanted are those with {fingerprint[:12]}; build it again"
            )
        file = folder / Path(meta.file).name
        try:
            SealedFile(file).verify()  # before FAISS looks at it, which trusts what it reads
        except FileNotFoundError as error:
            raise DamagedFileError(f"{file} is gone, though {_META_FILE} names it; {_MEND}") from error
        except DamagedFileError as error:
            raise DamagedFileError(f"{error}; {_MEND}") from error
        try:
            index = require_faiss().read_index(str(file))
        except RuntimeError as error:  # of a kind that this FAISS does not know
            raise DamagedFileError(f"{file}: FAISS cannot read it ({error}); {_MEND}") from error
        if (index.ntotal, index.d) != (meta.count, meta.dim):
            raise DamagedFileError(
                f"the passage index {file} holds {index.ntotal} passages of {index.d} dimensions,"
                f" {folder / _META_FILE} says {meta.count} of {meta.dim}; {_MEND}"
            )
        return cls(_to_gpu(index) if use_gpu else index, meta.factory, on_gpu=use_gpu)


def _read_rows(
    embeddings: Float[np.ndarray, "passages dim"], rows: Int[np.ndarray, " rows"]
) -> Float32[np.ndarray, "rows dim"]:
    """In blocks: a million rows in half precision beside themselves in single take half as much again."""
    made = np.empty((len(rows), embeddings.shape[1]), dtype=np.float32)
    for start in range(0, len(rows), _ROWS_A_CHUNK):
        block = slice(start, start + _ROWS_A_CHUNK)
        made[block] = embeddings[rows[block]]
        check_embeddings(made[block], rows[block])
    return made


def check_embeddings(embeddings: Float[np.ndarray, "rows dim"], rows: Int[np.ndarray, " rows"]) -> None:
    """Refuses embeddings that nothing can be found by.

    Args:
        embeddings: of some passages.
        rows: their numbers, for the message.

    Raises:
        UnusableEmbeddingsError: names the first passage at fault.
    """
    for problem, at_fault in (
        ("holds NaN or infinity: has the retriever diverged?", ~np.isfinite(embeddings).all(axis=1)),
        ("is all zeros: was this passage embedded?", ~embeddings.any(axis=1)),
    ):
        if at_fault.any():
            raise UnusableEmbeddingsError(
                f"the embedding of the passage in row {rows[at_fault.argmax()]} {problem}"
            )


def check_search(queries: Float32[np.ndarray, "batch dim"], k: int, num_passages: int, dim: int) -> None:
    """Refuses what cannot be searched for; see `PassageIndex.search`."""
    if not 1 <= k <= num_passages:
        raise ValueError(f"cannot retrieve k = {k} passages from an index of {num_passages}")
    if queries.shape[1] != dim:
        raise ValueError(f"queries have {queries.shape[1]} dimensions, the index has {dim}")
    if not np.isfinite(queries).all():
        raise UnusableEmbeddingsError(
            "the queries' embeddings hold NaN or infinity: has the retriever diverged?"
        )


def in_order(
    scores: Float32[np.ndarray, "batch k"], rows: Int64[np.ndarray, "batch k"]
) -> tuple[Float32[np.ndarray, "batch k"], Int64[np.ndarray, "batch k"]]:
    """The best first; of equal scores the lower row."""
    order = np.lexsort((rows, -scores))
    return np.take_along_axis(scores, order, axis=1), np.take_along_axis(rows, order, axis=1)


def _cells(index: Any) -> Any:
    """The part of an `IVF...` index that has `nprobe` and `nlist`; None for other kinds."""
    faiss = require_faiss()
    on_cpu = faiss.try_extract_index_ivf(index)
    if on_cpu is not None:
        return on_cpu
    part = faiss.downcast_index(index)
    while isinstance(part, faiss.IndexPreTransform):
        part = faiss.downcast_index(part.index)
    return part if hasattr(part, "nprobe") else None


def why_not_on_gpu() -> str | None:
    """Why FAISS cannot search on a GPU here, and what to install where that helps; None = it can."""
    faiss = require_faiss()
    if not hasattr(faiss, "StandardGpuResources"):
        return (
            "the FAISS that is installed is for the CPU only (pip uninstall faiss-cpu, then "
            "pip install -e '.[gpu]')"
        )
    return None if faiss.get_num_gpus() > 0 else "FAISS sees no GPU on this machine"


def _require_gpu() -> None:
    reason = why_not_on_gpu()
    if reason is not None:
        raise ValueError(f"use_gpu=True, but {reason}; or set use_gpu=False")


def _to_gpu(index: Any) -> Any:
    import torch

    faiss = require_faiss()
    device = torch.cuda.current_device() if torch.cuda.is_available() else 0
    with _faiss_errors("cannot move the passage index to the GPU"):
        return faiss.index_cpu_to_gpu(faiss.StandardGpuResources(), device, index)


@contextmanager
def _faiss_errors(what: str) -> Iterator[None]:
    """FAISS's errors as the user's, without the C++ signature that they begin with."""
    try:
        yield
    except RuntimeError as error:
        reason = str(error).rsplit(": ", maxsplit=1)[-1]
        raise ValueError(f"{what}: {reason}") from error


def _write_index(index: Any, path: Path) -> None:
    """Raises OSError where `faiss.write_index` by a file's name leaves half of it without a word."""
    faiss = require_faiss()
    with path.open("wb") as file, _faiss_errors(f"cannot write the passage index {path}"):
        faiss.write_index(index, faiss.PyCallbackIOWriter(file.write))


def _read_meta(folder: Path) -> _Meta:
    path = folder / _META_FILE
    try:
        content = read_json(path)
    except FileNotFoundError as error:
        raise FileNotFoundError(f"there is no passage index in {folder}: {_META_FILE} is missing") from error
    except DamagedFileError as error:
        raise DamagedFileError(f"{error}; {_MEND}") from error
    kinds = {field.name: field.type for field in fields(_Meta)}
    if {name: type(value) for name, value in content.items()} != kinds:
        raise DamagedFileError(f"{path} is damaged (it should hold {', '.join(kinds)}); {_MEND}")
    return _Meta(**content)
