"""The embeddings of all passages in one file: as large as they are, written in parts, read in parts."""

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, fields
from pathlib import Path

import numpy as np
from jaxtyping import Float16, Float32, Int

from datamodules.errors import DataError
from datamodules.passage_index import StaleIndexError, check_embeddings
from datamodules.sealed_files import DamagedFileError, crc, read_json, write_json

ROWS_A_CHUNK = 16384
_ZEROS = 1 << 24
"""Rows that are written, and whose checksum is kept, together."""

_MATRIX, _CHUNKS, _META = "embeddings.f16", "chunks.bin", "matrix.json"
_CHUNK = np.dtype([("is_written", "<u4"), ("crc", "<u4")])
_MEND = "delete the folder, and it is encoded anew"


@dataclass(frozen=True)
class MatrixShape:
    """What `matrix.json` says of the file beside it.

    Attributes:
        fingerprint: of the embeddings.
        num_passages: rows.
        dim: columns.
        rows_a_chunk: rows that were written together.
    """

    fingerprint: str
    num_passages: int
    dim: int
    rows_a_chunk: int = ROWS_A_CHUNK

    @property
    def num_bytes(self) -> int:
        """Of the matrix."""
        return self.num_passages * self.dim * 2

    @property
    def chunks(self) -> list[range]:
        """Rows of each chunk; the last may be shorter."""
        starts = range(0, self.num_passages, self.rows_a_chunk)
        return [range(start, min(start + self.rows_a_chunk, self.num_passages)) for start in starts]


class EmbeddingMatrix:
    """Half-precision embeddings, one row a passage, in a file that need not fit into memory.

    The file has its size from the beginning, so that a full disk shows before hours are spent. Chunks of rows
    are written in any order and by several processes; each has a checksum, which says that it was written
    and is verified as it is read. A process that is killed loses the chunks that it was at.

    Made by `begin`, to write, or `open`, to read.

    Args:
        folder: of the matrix.
        shape: of the matrix.
    """

    def __init__(self, folder: Path, shape: MatrixShape) -> None:
        self.folder = folder
        self.shape = shape
        self._verified: set[int] = set()

    @property
    def file(self) -> Path:
        """Of the embeddings."""
        return self.folder / _MATRIX

    def __len__(self) -> int:
        return self.shape.num_passages

    # ---- writing ----

    @classmethod
    def begin(cls, folder: Path | str, shape: MatrixShape) -> "EmbeddingMatrix":
        """Room for a matrix, or the one that is there already and goes on.

        One of another shape, or one whose files are not of their size, is replaced.

        Args:
            folder: made where it is missing.
            shape: of the matrix.

        Raises:
            DataError: too little space, or the folder cannot be written.
        """
        folder = Path(folder)
        if _read_shape(folder) != shape or not _has_room(folder, shape):
            shutil.rmtree(folder, ignore_errors=True)
            try:
                folder.mkdir(parents=True, exist_ok=True)
                for name, num_bytes in _sizes(shape).items():
                    _reserve(folder / name, num_bytes)
                write_json(folder / _META, asdict(shape))  # last: without it there is none
            except (OSError, DataError) as error:
                shutil.rmtree(folder, ignore_errors=True)
                raise _no_room(folder, shape, error) from error
        return cls(folder, shape)

    @classmethod
    def attach(cls, folder: Path | str) -> "EmbeddingMatrix":
        """One that `begin` has made room for, maybe in another process.

        Raises:
            FileNotFoundError: there is none.
        """
        shape = _read_shape(Path(folder))
        if shape is None:
            raise FileNotFoundError(f"there is no matrix of embeddings in {folder}")
        return cls(Path(folder), shape)

    def missing(self) -> list[int]:
        """Numbers of the chunks that are not written yet."""
        return np.flatnonzero(self._chunk_table()["is_written"] == 0).tolist()

    def write(self, chunk: int, embeddings: Float32[np.ndarray, "rows dim"]) -> None:
        """Writes the rows of one chunk.

        Args:
            chunk: its number.
            embeddings: all its rows.

        Raises:
            UnusableEmbeddingsError: a row is all zeros, or holds NaN, infinity or what half precision cannot.
            DataError: it cannot be written.
        """
        rows = self.shape.chunks[chunk]
        assert embeddings.shape == (len(rows), self.shape.dim), "a chunk is written whole"
        with np.errstate(over="ignore"):
            halved = embeddings.astype(np.float16)
        check_embeddings(halved, np.arange(rows.start, rows.stop))
        record = np.array([(1, crc(halved.data))], dtype=_CHUNK)
        try:
            # the checksum says that the rows are there, so they must be there first
            _write_at(self.file, rows.start * self.shape.dim * 2, halved.tobytes())
            _write_at(self.folder / _CHUNKS, chunk * _CHUNK.itemsize, record.tobytes())
        except OSError as error:
            raise DataError(f"{self.folder}: embeddings cannot be written ({error.strerror})") from error

    def adopt(self, folder: Path | str) -> "EmbeddingMatrix":
        """Gives the finished matrix its name; what had it is replaced."""
        assert not self.missing(), "chunks are missing"
        folder = Path(folder)
        shutil.rmtree(folder, ignore_errors=True)
        self.folder.rename(folder)
        return EmbeddingMatrix(folder, self.shape)

    # ---- reading ----

    @classmethod
    def open(cls, folder: Path | str, fingerprint: str) -> "EmbeddingMatrix":
        """A finished matrix.

        Args:
            folder: of the matrix.
            fingerprint: of the embeddings that it should hold.

        Raises:
            FileNotFoundError: there is none.
            StaleIndexError: it holds other embeddings.
            DamagedFileError: it is not whole, or another than `matrix.json` says.
        """
        matrix = cls.attach(folder)
        folder, shape = matrix.folder, matrix.shape
        if shape.fingerprint != fingerprint:
            raise StaleIndexError(
                f"the embeddings in {folder} have the fingerprint {shape.fingerprint[:12]}, wanted are those "
                f"with {fingerprint[:12]}; encode them again"
            )
        path = folder / _MATRIX
        size = path.stat().st_size if path.is_file() else 0
        if size != shape.num_bytes or matrix.missing():
            raise DamagedFileError(
                f"{path} is not whole: it has {size:,} of {shape.num_bytes:,} bytes, and "
                f"{len(matrix.missing())} of {len(shape.chunks)} parts were not written; {_MEND}"
            )
        return matrix

    def blocks(self, chunks: range | None = None) -> Iterator[tuple[range, Float16[np.ndarray, "rows dim"]]]:
        """Rows in order, chunk by chunk, with their numbers; an array is good until the next one comes.

        Args:
            chunks: numbers of those to read; None = all.

        Raises:
            DamagedFileError: a chunk cannot be read, or is not what was written.
        """
        table = self._chunk_table()
        buffer = np.empty((self.shape.rows_a_chunk, self.shape.dim), dtype=np.float16)
        of_matrix = self.shape.chunks
        with _reading(self.file) as descriptor:
            for chunk in range(len(of_matrix)) if chunks is None else chunks:
                rows = of_matrix[chunk]
                block = buffer[: len(rows)]
                self._read(descriptor, rows.start, block)
                if chunk not in self._verified:
                    if crc(block.data) != int(table["crc"][chunk]):
                        raise DamagedFileError(
                            f"{self.file} is damaged in rows {rows.start:,} to {rows.stop - 1:,}; {_MEND}"
                        )
                    self._verified.add(chunk)
                yield rows, block

    def verify(self) -> None:
        """Reads it whole; what `rows` and `as_array` give is known to be good from then on.

        Raises:
            DamagedFileError: as `blocks`.
        """
        for _ in self.blocks():
            pass

    def rows(self, numbers: Int[np.ndarray, " rows"]) -> Float16[np.ndarray, "rows dim"]:
        """Some rows, in the order given.

        Raises:
            DamagedFileError: they cannot be read.
        """
        found = np.empty((len(numbers), self.shape.dim), dtype=np.float16)
        with _reading(self.file) as descriptor:
            for place in np.argsort(numbers, kind="stable"):
                self._read(descriptor, int(numbers[place]), found[place : place + 1])
        return found

    def as_array(self) -> Float16[np.ndarray, "passages dim"]:
        """All rows, memory-mapped, for what wants an array."""
        shape = (self.shape.num_passages, self.shape.dim)
        return np.memmap(self.file, dtype=np.float16, mode="r", shape=shape)

    def _read(self, descriptor: int, first_row: int, out: Float16[np.ndarray, "rows dim"]) -> None:
        # not memory-mapped: a file cut short, or a disk that fails, would end the process without a word
        start, wanted = first_row * self.shape.dim * 2, out.nbytes
        try:
            count = os.preadv(descriptor, [out.data], start)
        except OSError as error:
            raise DamagedFileError(f"{self.file} cannot be read ({error.strerror}); {_MEND}") from error
        if count != wanted:
            raise DamagedFileError(f"{self.file} ends after {start + count:,} bytes; {_MEND}")

    def _chunk_table(self) -> np.ndarray:
        path, count = self.folder / _CHUNKS, len(self.shape.chunks)
        table = np.fromfile(path, dtype=_CHUNK) if path.is_file() else np.zeros(0, dtype=_CHUNK)
        if len(table) != count:
            raise DamagedFileError(
                f"{path} is damaged: it should say of {count} parts what was written; {_MEND}"
            )
        return table


def _read_shape(folder: Path) -> MatrixShape | None:
    """Of the matrix in a folder; None where there is none, or nothing that can be told."""
    try:
        content = read_json(folder / _META)
    except (FileNotFoundError, DamagedFileError):
        return None
    kinds = {name: type(value) for name, value in content.items()}
    expected = {field.name: str if field.name == "fingerprint" else int for field in fields(MatrixShape)}
    return MatrixShape(**content) if kinds == expected else None


def _sizes(shape: MatrixShape) -> dict[str, int]:
    """Bytes of each file."""
    return {_MATRIX: shape.num_bytes, _CHUNKS: len(shape.chunks) * _CHUNK.itemsize}


def _has_room(folder: Path, shape: MatrixShape) -> bool:
    """Whether the files are there, in their sizes."""
    paths = {folder / name: num_bytes for name, num_bytes in _sizes(shape).items()}
    return all(path.is_file() and path.stat().st_size == size for path, size in paths.items())


def _reserve(path: Path, num_bytes: int) -> None:
    """A file of zeros that has its space on the disk."""
    with path.open("wb") as file:
        if hasattr(os, "posix_fallocate"):
            os.posix_fallocate(file.fileno(), 0, num_bytes)
            return
        for start in range(0, num_bytes, _ZEROS):  # not on macOS
            file.write(bytes(min(_ZEROS, num_bytes - start)))


def _write_at(path: Path, start: int, data: bytes) -> None:
    descriptor = os.open(path, os.O_WRONLY)
    try:
        view = memoryview(data)
        while view:
            written = os.pwrite(descriptor, view, start)
            view, start = view[written:], start + written
        getattr(os, "fdatasync", os.fsync)(descriptor)  # not on macOS
    finally:
        os.close(descriptor)


@contextmanager
def _reading(path: Path) -> Iterator[int]:
    try:
        descriptor = os.open(path, os.O_RDONLY)
    except OSError as error:
        raise DamagedFileError(f"{path} cannot be read ({error.strerror}); {_MEND}") from error
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def _no_room(folder: Path, shape: MatrixShape, error: Exception) -> DataError:
    reason = getattr(error, "strerror", error)
    free = shutil.disk_usage(next(parent for parent in folder.parents if parent.is_dir())).free
    return DataError(
        f"{folder}: there is no room for the embeddings of {shape.num_passages:,} passages "
        f"({reason}): {shape.num_bytes / 1e9:.1f} GB are needed, {free / 1e9:.1f} GB are free; "
        "free the disk, or set runs to a folder on another one"
    )
