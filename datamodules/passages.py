"""The knowledge base D: passages on disk, memory-mapped, so that 21 million of them do not fill the RAM."""

import hashlib
import json
import logging
from array import array
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import islice
from operator import index
from pathlib import Path
from typing import SupportsIndex, overload

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from jaxtyping import Int64

from datamodules.batches import Passage
from datamodules.durable_files import cannot_write, durably
from datamodules.errors import DataError
from datamodules.passage_files import PassageFormat, read_passages
from datamodules.published import verified_passages
from datamodules.records import changed_at, existing_data
from datamodules.sealed_files import DamagedFileError, SealedFile, seal
from datamodules.sources import PassageSet
from datamodules.text_files import existing_file

__all__ = [
    "KnowledgeBase",
    "build_knowledge_base",
    "knowledge_base_from_file",
    "read_passages",
]

# Raise when the layout of the file changes: files of other versions are rebuilt.
_VERSION = b"2"
# Raise when how passage files are read changes: what was built from one is built anew.
_READING = 3
# Every record batch but the last has this many rows, which makes random access plain division.
_ROWS_PER_BATCH = 10_000
_COLUMNS = ("id", "title", "text")
_NUM_SLICED = 1024
_VERIFIED_AT_ONCE = 1 << 30
"""A file of at most so many bytes is verified as it is opened; of a larger one what is read, when it is."""
_MEND = "delete the file, and it is built anew"

log = logging.getLogger(__name__)


class KnowledgeBase(Sequence[Passage]):
    """Passages of an Arrow file that `build_knowledge_base` wrote, by row number.

    The file is memory-mapped, and processes on one machine share the pages. What is read has been compared
    with its checksum before: files up to 1 GiB as they are opened, larger ones 10,000 passages at a time.
    Pickling (for data loader workers) passes the path on.

    Args:
        path: the Arrow file.

    Attributes:
        path: the Arrow file.
        fingerprint: SHA-256 (hex) over all ids, titles and texts in order, the same wherever they came from.
        source: what the file was built from, as `build_knowledge_base` was told.

    Raises:
        DataError: no such file.
        DamagedFileError: not one that `build_knowledge_base` of this version wrote, or no longer.
    """

    def __init__(self, path: Path | str) -> None:
        self.path = existing_file(path, "knowledge base")
        try:
            self._sealed = SealedFile(self.path)
            if self._sealed.size <= _VERIFIED_AT_ONCE:
                self._sealed.verify()
            self._mapped = pa.memory_map(str(self.path))
            content = self._mapped.read_buffer(self._sealed.size)
            self._check_block(len(self._sealed.ends) - 1, content)  # before Arrow looks at it
            self._reader = pa.ipc.open_file(content)
            metadata = _read_metadata(self._reader)
        except DamagedFileError as error:
            raise DamagedFileError(f"{error}; {_MEND}") from error
        except (pa.ArrowException, OSError, KeyError, IndexError) as error:
            raise DamagedFileError(f"{self.path}: not a knowledge base ({error}); {_MEND}") from error
        self.fingerprint = metadata[b"fingerprint"].decode()
        self.source = metadata[b"source"].decode()
        self._num_passages = int(metadata[b"num_passages"])
        self._content: pa.Buffer | None = content
        self._columns: list[tuple[pa.Array, ...] | None] = [None] * (self._reader.num_record_batches - 1)

    def __len__(self) -> int:
        return self._num_passages

    @overload
    def __getitem__(self, row: SupportsIndex) -> Passage: ...
    @overload
    def __getitem__(self, row: slice) -> list[Passage]: ...
    def __getitem__(self, row: SupportsIndex | slice) -> Passage | list[Passage]:
        """The passage of a row, or a list of them for a slice, in constant time each."""
        if isinstance(row, slice):
            return self.select(range(len(self))[row])
        number = index(row)
        if not -len(self) <= number < len(self):
            raise IndexError(f"no row {number} among the {len(self)} passages of {self.path}")
        return self._passage(number % len(self))

    def __iter__(self) -> Iterator[Passage]:
        for chunk in self.chunks(_NUM_SLICED):
            yield from chunk

    def __reduce__(self) -> tuple[type["KnowledgeBase"], tuple[Path]]:
        return KnowledgeBase, (self.path,)

    def select(self, rows: Iterable[SupportsIndex]) -> list[Passage]:
        """The passages of some rows, in the order given.

        Raises:
            IndexError: a row is out of range. A negative one is too: a search that found too little
                returns -1, which must not become the last passage.
        """
        numbers = [index(row) for row in rows]
        for number in numbers:
            if not 0 <= number < len(self):
                raise IndexError(f"no row {number} among the {len(self)} passages of {self.path}")
        return [self._passage(number) for number in numbers]

    def find(self, ids: Iterable[str]) -> dict[str, Passage]:
        """Passages by their id, found in one pass over all ids; of several with one id the first.

        Raises:
            DataError: there is no passage of an id.
        """
        wanted = sorted(set(ids))
        rows = self.rows_of(wanted)
        missing = [passage_id for passage_id in wanted if passage_id not in rows]
        if missing:
            raise DataError(f"{self.path}: no passage has the id {missing[0]!r}")
        return {passage_id: self._passage(row) for passage_id, row in rows.items()}

    def rows_of(self, ids: Iterable[str]) -> dict[str, int]:
        """The rows of some ids, found in one pass over all ids; of several with one id the first; without
        those of none."""
        wanted = pa.array(sorted(set(ids)), pa.string())
        found: dict[str, int] = {}
        for number in range(len(self._columns) if len(wanted) else 0):
            batch_ids, *_ = self._batch(number)
            for row in np.flatnonzero(pc.is_in(batch_ids, value_set=wanted)):
                found.setdefault(str(batch_ids[row].as_py()), number * _ROWS_PER_BATCH + int(row))
        return found

    def titled(self, titles: Iterable[str]) -> dict[str, list[Passage]]:
        """The passages of some titles, in order, found in one pass over all titles; without those of none."""
        return {title: self.select(rows) for title, rows in self.rows_titled(titles).items()}

    def rows_titled(self, titles: Iterable[str]) -> dict[str, list[int]]:
        """Their rows, likewise."""
        wanted = pa.array(sorted(set(titles)), pa.string())
        found: dict[str, list[int]] = {}
        for number in range(len(self._columns) if len(wanted) else 0):
            _, batch_titles, _ = self._batch(number)
            for row in np.flatnonzero(pc.is_in(batch_titles, value_set=wanted)):
                title = str(batch_titles[row].as_py())
                found.setdefault(title, []).append(number * _ROWS_PER_BATCH + int(row))
        return found

    def chunks(self, size: int) -> Iterator[list[Passage]]:
        """Yields all passages in order, `size` at a time (the last chunk may be shorter).

        Raises:
            DataError: `size` is below 1.
        """
        if size < 1:
            raise DataError(f"chunks of {size} passages; give 1 or more")
        for start in range(0, len(self), size):
            yield self[start : start + size]

    def close(self) -> None:
        """Lets go of the file; the passages cannot be read any more."""
        self._columns = [None] * len(self._columns)
        self._content = None
        self._mapped.close()

    def _passage(self, number: int) -> Passage:
        batch, row = divmod(number, _ROWS_PER_BATCH)
        return Passage(*(column[row].as_py() for column in self._batch(batch)))

    def _batch(self, number: int) -> tuple[pa.Array, ...]:
        """The columns of a record batch, compared with its checksum before Arrow looks at it."""
        found = self._columns[number]
        if found is None:
            if self._content is None:
                raise ValueError(f"the knowledge base {self.path} is closed")
            try:
                self._check_block(number, self._content)
            except DamagedFileError as error:
                raise DamagedFileError(f"{error}; {_MEND}") from error
            batch = self._reader.get_batch(number)
            found = self._columns[number] = tuple(batch.column(name) for name in _COLUMNS)
        return found

    def _check_block(self, number: int, content: pa.Buffer) -> None:
        if self._sealed.size > _VERIFIED_AT_ONCE:  # else all of it was compared
            start = self._sealed.ends[number - 1] if number else 0
            self._sealed.check(number, content.slice(start, self._sealed.ends[number] - start))


def build_knowledge_base(
    rows: Iterable[Passage],
    path: Path | str,
    progress: Callable[[int], None] | None = None,
    source: str = "",
) -> KnowledgeBase:
    """Writes passages to an Arrow file, holding 10,000 of them at a time, and opens it.

    The file appears under its name only when it is whole: an error or Ctrl-C leaves nothing, or the file
    that was there before.

    Args:
        rows: the passages.
        path: file to write; missing folders are made.
        progress: called after each 10,000 passages with how many are written so far.
        source: kept in the file, to tell later what it was built from.

    Raises:
        DataError: there is no passage, two have one id, or the file cannot be written.
    """
    path = Path(path).expanduser()
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with durably(path) as partial:
            seal(partial, _write(rows, partial, progress, source))
    except OSError as error:
        raise cannot_write(path, error) from error
    return KnowledgeBase(path)


def knowledge_base_from_file(
    path: Path | str,
    cache_dir: Path | str,
    format: PassageFormat | str = PassageFormat.AUTO,
    progress: Callable[[int], None] | None = None,
    published: PassageSet | None = None,
) -> KnowledgeBase:
    """The knowledge base of a passage file, built on first use.

    A built one is used again as long as the passage file has the same path, size and modification time.
    Processes that build it at the same moment do not harm each other, but each does the whole work.

    Args:
        path: passage file or folder, see `read_passages`.
        cache_dir: folder for the built file, about as large as the passage file.
        format: format of the passage file.
        progress: as for `build_knowledge_base`.
        published: what the file must hold, see `verified_passages`.

    Raises:
        DataError: as `read_passages`, `build_knowledge_base` and `verified_passages`.
    """
    path = existing_data(path, "passage file").resolve()
    verified = [published.num_passages] if published else []
    source = json.dumps([str(path), *changed_at(path), PassageFormat(format), _READING, *verified])
    built = knowledge_base_path(path, cache_dir)
    if built.is_file():
        try:
            knowledge_base = KnowledgeBase(built)
        except DamagedFileError as error:
            log.warning("%s", error)
        else:
            if knowledge_base.source == source:
                return knowledge_base
            knowledge_base.close()
    passages = read_passages(path, format)
    if published:
        passages = verified_passages(path, passages, published)
    return build_knowledge_base(passages, built, progress, source)


def knowledge_base_path(path: Path | str, cache_dir: Path | str) -> Path:
    """Where `knowledge_base_from_file` keeps what it builds.

    One name for each passage file, so that a rebuilt one replaces the old instead of filling the disk.
    """
    path = Path(path).resolve()
    name = f"{path.name}-{hashlib.sha256(str(path).encode()).hexdigest()[:12]}.arrow"
    return Path(cache_dir).expanduser() / name


def _read_metadata(reader: pa.ipc.RecordBatchFileReader) -> dict[bytes, bytes]:
    """That of the schema and of the closing batch together."""
    metadata = reader.schema.metadata or {}
    if metadata.get(b"version") != _VERSION:
        raise pa.ArrowInvalid("another kind or version of file")
    _, closing = reader.get_batch_with_custom_metadata(reader.num_record_batches - 1)
    return {**metadata, **dict(closing)}


def _write(
    rows: Iterable[Passage], path: Path, progress: Callable[[int], None] | None, source: str
) -> list[int]:
    """Returns where each record batch ends, and the file."""
    schema = pa.schema(
        [(name, pa.string()) for name in _COLUMNS], metadata={"version": _VERSION, "source": source}
    )
    remaining = iter(rows)
    digest = hashlib.sha256()
    num_written = 0
    ends = []
    hashes = array("q")  # of the ids, which take ten times as much memory
    with pa.OSFile(str(path), "wb") as file:
        with pa.ipc.new_file(file, schema) as writer:
            while chunk := list(islice(remaining, _ROWS_PER_BATCH)):
                writer.write_batch(_record_batch(chunk, schema))
                ends.append(file.tell())
                digest.update(_content(chunk))
                hashes.extend(hash(passage.id) for passage in chunk)
                num_written += len(chunk)
                if progress:
                    progress(num_written)
            if not num_written:
                raise DataError("a knowledge base needs at least one passage, none came; check its source")
            # The schema is written first, when this is not known yet; an empty last batch carries it.
            known = {"fingerprint": digest.hexdigest(), "num_passages": str(num_written)}
            writer.write_batch(_record_batch([], schema), known)
        ends.append(file.tell())
    _refuse_repeated_ids(path, np.frombuffer(hashes, dtype=np.int64))
    return ends


def _refuse_repeated_ids(path: Path, hashes: Int64[np.ndarray, " passages"]) -> None:
    """Files of scores and judgements, and what a run keeps, know a passage by its id alone.

    Args:
        path: of the file as it was written.
        hashes: of its ids, in order; they are sorted in place.

    Raises:
        DataError: two passages have one id; names both.
    """
    hashes.sort()
    repeated = set(hashes[1:][hashes[1:] == hashes[:-1]].tolist())
    if not repeated:
        return
    first: dict[str, int] = {}  # of the ids whose hashes are repeated, which can be by chance
    with pa.memory_map(str(path)) as mapped, pa.ipc.open_file(mapped) as reader:
        ids = (id for i in range(reader.num_record_batches) for id in reader.get_batch(i)["id"].to_pylist())
        for number, id in enumerate(ids, 1):
            if hash(id) in repeated and first.setdefault(id, number) != number:
                raise DataError(
                    f"passages {first[id]} and {number} (counted from 1, in the order of their source) have "
                    f"the same id {id!r}; give each its own, or leave all ids out of a file that may have "
                    "none: its lines are numbered then"
                )


def _record_batch(chunk: list[Passage], schema: pa.Schema) -> pa.RecordBatch:
    columns = [pa.array([getattr(p, name) for p in chunk], pa.string()) for name in _COLUMNS]
    return pa.record_batch(columns, schema=schema)


def _content(chunk: list[Passage]) -> bytes:
    """What the fingerprint is made of; the lengths keep ("ab", "c") apart from ("a", "bc")."""
    return "".join(
        f"{len(p.id)},{len(p.title)},{len(p.text)}:{p.id}{p.title}{p.text}" for p in chunk
    ).encode()
