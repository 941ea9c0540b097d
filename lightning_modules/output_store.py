"""Arrays by key, on disk: what a frozen reader made of each prompt, for every run that asks again."""

import hashlib
import json
import logging
import os
import re
import uuid
import weakref
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
from jaxtyping import Float32

from datamodules.durable_files import write_durably
from datamodules.errors import DataError
from datamodules.file_locks import try_lock
from datamodules.sealed_files import checksum

log = logging.getLogger(__name__)

KEY_BYTES = 16
FILE_BYTES = 256 << 20
"""A file that has become so large, or a quarter of the bound, is followed by another one."""
_SUMS = ".sums"
_DATA = "*.arrows"

_LAST_BITS = ": with others than before, so the last bits of what a run measures may differ"

Arrays = Mapping[str, Float32[np.ndarray, " _"]]


def key_of(*texts: str) -> bytes:
    """A key of some texts; the lengths keep ("ab", "c") apart from ("a", "bc")."""
    digest = hashlib.blake2b(digest_size=KEY_BYTES)
    for text in texts:
        encoded = text.encode("utf-8", "surrogatepass")
        digest.update(len(encoded).to_bytes(8, "little") + encoded)
    return digest.digest()


class OutputStore:
    """Named float32 arrays of any length by key, in Arrow files of one folder (the streaming format).

    A process appends to a file of its own, so that several runs may share the folder: each sees what the
    others had written when it opened it. What was written survives a killed process. Beside each file one
    with the ending `.sums` has a line for each record batch: where it begins, how long it is, and its digest.
    A batch that does not have its digest is left out before Arrow looks at it.

    Of the other processes of its own run it sees nothing: they write while it reads, so what it found would
    depend on when it was opened, and the numbers of a run that goes on would be others, in their last bits,
    than those of one that was not interrupted (what is read together is not always the same).

    Args:
        folder: of this one kind of arrays; made at the first write.
        names: of the arrays of each key.
        max_bytes: files of all stores in `bounded`, together. Whoever begins a file deletes the oldest ones
            that nobody writes to, until there is room for it; other processes that write may go beyond
            the bound by a file each.
        about: what they are of, for whoever looks into the folder (`about.json`).
        writer: the run and its process, from 0; None = of no run.
        bounded: folder that `max_bytes` is of, with `folder` somewhere in it; None = `folder` alone.
    """

    def __init__(
        self,
        folder: Path | str,
        names: Sequence[str],
        max_bytes: int = 8 << 30,
        about: Mapping[str, object] | None = None,
        writer: tuple[str, int] | None = None,
        bounded: Path | None = None,
    ) -> None:
        self.folder = Path(folder)
        self.names = tuple(names)
        self.max_bytes = max_bytes
        self.about = about or {}
        self.writer = writer
        self.bounded = bounded or self.folder
        self._file_bytes = min(FILE_BYTES, max_bytes // 4)
        self._places: dict[bytes, tuple[pa.RecordBatch, int]] = {}
        self._own: _OwnFile | None = None
        self._schema = pa.schema(
            [("key", pa.binary(KEY_BYTES)), *((name, pa.list_(pa.float32())) for name in self.names)]
        )
        for path in sorted(self.folder.glob(_DATA)):
            if self._is_of_another_process(path):
                continue
            for batch in self._read(path):
                self._places |= {key.as_py(): (batch, row) for row, key in enumerate(batch.column("key"))}

    def __len__(self) -> int:
        return len(self._places)

    def __contains__(self, key: bytes) -> bool:
        return key in self._places

    def __getitem__(self, key: bytes) -> Arrays:
        """The arrays of a key, read-only."""
        batch, row = self._places[key]
        return {name: batch.column(name)[row].values.to_numpy() for name in self.names}

    def put(self, arrays: Mapping[bytes, Arrays]) -> None:
        """Writes the arrays of some keys.

        Raises:
            DataError: the folder cannot be written to.
        """
        columns: list[pa.Array] = [pa.array(list(arrays), pa.binary(KEY_BYTES))]
        for name in self.names:
            of_keys = [of_key[name] for of_key in arrays.values()]
            ends = np.cumsum([0, *map(len, of_keys)], dtype=np.int32)
            columns.append(pa.ListArray.from_arrays(ends, np.concatenate(of_keys)))
        batch = pa.RecordBatch.from_arrays(columns, schema=self._schema)
        try:
            if self._own is not None and self._own.size >= self._file_bytes:
                self.close()
            if self._own is None:
                self._own = _OwnFile(self.folder, self._schema, self.writer)
                write_durably(self.folder / "about.json", json.dumps(self.about, indent=2) + "\n")
                self._delete_oldest()
            self._own.append(batch)
        except OSError as error:
            raise DataError(
                f"{self.folder}: what the reader gave cannot be kept ({error}); free the disk, or set "
                "read_once=False"
            ) from error
        self._places |= {key: (batch, row) for row, key in enumerate(arrays)}

    def close(self) -> None:
        """Ends the file that this process has written to; a later `put` begins another one."""
        if self._own is not None:
            self._own.close()
        self._own = None

    def _is_of_another_process(self, path: Path) -> bool:
        """Whether a file is of this run, and not of this process."""
        if self.writer is None:
            return False
        run, process = self.writer
        found = re.fullmatch(rf"[0-9a-f]+-{re.escape(run)}-process(\d+)", path.stem)
        return found is not None and int(found[1]) != process

    def _read(self, path: Path) -> Iterator[pa.RecordBatch]:
        """The record batches of a file that have their digests."""
        num_damaged = 0
        try:
            mapped = pa.memory_map(str(path)).read_buffer()
            lines = path.with_suffix(_SUMS).read_text().splitlines(keepends=True)
        except (OSError, ValueError) as error:
            log.warning("%s cannot be read (%s); what it held is read anew%s", path, error, _LAST_BITS)
            return
        for line in lines:
            if not line.endswith("\n"):  # torn by a kill
                continue
            try:
                start, length, digest = line.removesuffix("\n").split(" ")
                part = mapped.slice(int(start), int(length))
            except (ValueError, IndexError, OverflowError, pa.ArrowException):
                num_damaged += 1
                continue
            if part.size != int(length) or checksum(part) != digest:
                num_damaged += 1
                continue
            yield pa.ipc.read_record_batch(part, self._schema)
        if num_damaged:
            log.warning(
                "%s is damaged in %d places; what they held is read anew%s", path, num_damaged, _LAST_BITS
            )

    def _delete_oldest(self) -> None:
        """Makes room for the file that was begun; what is deleted stays readable to who has it open."""
        found = []
        for path in self.bounded.rglob(_DATA):
            try:
                status = path.stat()
            except OSError:  # another process has deleted it
                continue
            if self._own is not None and path != self._own.path:
                found.append((status.st_mtime_ns, status.st_size, path))
        total = sum(size for _, size, _ in found)
        for _, size, path in sorted(found):
            if total + self._file_bytes <= self.max_bytes:
                break
            sums = path.with_suffix(_SUMS)
            try:
                if _is_written(sums):
                    continue
                for part in (path, sums):
                    part.unlink(missing_ok=True)
            except PermissionError:  # another user's
                continue
            total -= size


class _OwnFile:
    """The file that one process appends to, with its sums, which it has locked until both are closed."""

    def __init__(self, folder: Path, schema: pa.Schema, writer: tuple[str, int] | None) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        whose = f"{os.getpid()}" if writer is None else f"{writer[0]}-process{writer[1]}"
        self.path = folder / f"{uuid.uuid4().hex}-{whose}.arrows"
        self._sums = self.path.with_suffix(_SUMS).open("a")
        weakref.finalize(self, self._sums.close)
        try_lock(self._sums)  # before there is a file that could be deleted
        self._file: pa.NativeFile = pa.OSFile(str(self.path), "wb")
        self._writer = pa.ipc.new_stream(self._file, schema)

    @property
    def size(self) -> int:
        return int(self._file.tell())

    def append(self, batch: pa.RecordBatch) -> None:
        encoded = batch.serialize()
        self._writer.write_batch(batch)  # the first one after the schema, as late as this
        self._file.flush()
        start = self.size - encoded.size
        self._sums.write(f"{start} {encoded.size} {checksum(encoded)}\n")
        self._sums.flush()

    def close(self) -> None:
        self._writer.close()
        self._file.close()
        self._sums.close()


def _is_written(sums: Path) -> bool:
    """Whether a process still appends to the file of some sums; none does again once it has ended.

    Where there are no locks, none does: what is lost while it is written is read again.
    """
    try:
        with sums.open("r+") as file:
            return try_lock(file) is False
    except FileNotFoundError:  # nobody can read what has none
        return False
