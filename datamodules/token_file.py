"""What was measured of each token, as a Parquet file: a row for each unit (question, retrieved passage)."""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from datamodules.answer_matching import AnswerMatch
from datamodules.durable_files import delete_partials_of_dead, flush_to_disk, partial_beside
from datamodules.errors import DataError
from datamodules.records import PARQUET_ERRORS
from datamodules.sealed_parquet import seal_parquet, verify_parquet
from datamodules.text_files import existing_file, parse_json
from datamodules.token_units import SCHEMA, TokenUnit

VERSION = 2
"""Raise it when the columns or their meaning change. Version 1 had no `log_p_attn`."""

_INFO, _COMPLETE = b"token_file", b"complete"
_UNITS_PER_ROW_GROUP = 500


class TokenFileWriter:
    """Writes a token file as the units come; memory does not grow with their number.

    The file appears under its name only when `close` was called; leaving the `with` block by an error, or
    `discard`, leaves nothing behind.

    Args:
        path: of the file; missing folders are made.
        info: what was measured and how; anything that JSON holds. `TokenFile` needs `num_passages`, the units
            of each question.

    Raises:
        DataError: the file cannot be written.
    """

    def __init__(self, path: Path | str, info: Mapping[str, Any]) -> None:
        self.path = Path(path)
        self._partial = partial_beside(self.path)
        self._waiting: list[TokenUnit] = []
        content = json.dumps({"version": VERSION, **info})
        if self.path.is_dir():
            raise DataError(f"{self.path}: is a folder; name a file with --out")
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            delete_partials_of_dead(self.path)
            self._writer = pq.ParquetWriter(
                self._partial, SCHEMA.with_metadata({_INFO: content}), compression="zstd"
            )
        except OSError as error:
            raise DataError(
                f"{self.path}: cannot be written ({error.strerror or error}); choose another file with --out"
            ) from error

    def __enter__(self) -> "TokenFileWriter":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is None:
            self.close()
        else:
            self.discard()

    def write(self, units: Sequence[TokenUnit]) -> None:
        """Adds the units of whole questions: no question lies in two row groups."""
        self._waiting += units
        if len(self._waiting) >= _UNITS_PER_ROW_GROUP:
            self._flush()

    def close(self) -> None:
        """Ends the file and gives it its name."""
        self._flush()
        self._writer.add_key_value_metadata({_COMPLETE: b"true"})
        self._writer.close()
        seal_parquet(self._partial)
        flush_to_disk(self._partial)
        self._partial.replace(self.path)

    def discard(self) -> None:
        """Takes the unfinished file away."""
        self._writer.close()
        self._partial.unlink(missing_ok=True)

    def _flush(self) -> None:
        if not self._waiting:
            return
        columns = [
            pa.array([getattr(unit, field.name) for unit in self._waiting], field.type) for field in SCHEMA
        ]
        self._writer.write_table(pa.Table.from_arrays(columns, schema=self._writer.schema))
        self._waiting = []


@dataclass(frozen=True)
class TokenBatch:
    """Units of whole questions, padded on the right.

    Attributes:
        question_ids: B questions.
        question_of_unit: 0..B-1; the units of a question are its K passages by rank.
        mask: True = token of the unit's passage. Empty for a passage that the reader saw no token of.
        token_scores: s_t.
        prompt_total: of the units' prompts; NaN where passages' tokens alone have a score.
        answer_similarity: similarity of each token to the answer; NaN where there is no target.
        noun_similarity: to the question's nouns.
        log_p_attn: log of the teacher's distribution.
        holds_answer: True = the passage holds an answer.
    """

    question_ids: list[str]
    question_of_unit: Int[Tensor, " units"]
    mask: Bool[Tensor, "units tokens"]
    token_scores: Float[Tensor, "units tokens"]
    prompt_total: Float[Tensor, " units"]
    answer_similarity: Float[Tensor, "units tokens"]
    noun_similarity: Float[Tensor, "units tokens"]
    log_p_attn: Float[Tensor, "batch passages"]
    holds_answer: Bool[Tensor, "batch passages"]


class TokenFile:
    """A token file, read a row group at a time.

    Args:
        path: of a file that `TokenFileWriter` finished.

    Attributes:
        path: of the file.
        info: what the writer was told.

    Raises:
        DataError: no such file, another kind of file, an unfinished one, or one of a newer version.
        DamagedFileError: it is not what was written.
    """

    def __init__(self, path: Path | str) -> None:
        self.path = existing_file(path, "token file")
        verify_parquet(self.path)
        try:
            self._file = pq.ParquetFile(self.path)
            metadata = self._file.metadata.metadata or {}
        except PARQUET_ERRORS as error:
            raise DataError(
                f"{self.path}: not a token file, or a damaged one ({error}); write one with "
                "`python -m experiments.analyse --run RUN`"
            ) from error
        if _INFO not in metadata:
            raise DataError(
                f"{self.path}: a Parquet file, but no token file; write one with "
                "`python -m experiments.analyse --run RUN`"
            )
        self.info: dict[str, Any] = parse_json(
            metadata[_INFO].decode(errors="replace"), f"{self.path}, metadata", "write it anew"
        )
        if self.info["version"] > VERSION:
            raise DataError(
                f"{self.path}: of version {self.info['version']}, and this program knows versions up to "
                f"{VERSION}; update it"
            )
        if metadata.get(_COMPLETE) != b"true":
            raise DataError(f"{self.path}: incomplete, its writing was cut short; write it anew")

    def batches(self, embeddings: str, match: AnswerMatch | str) -> Iterator[TokenBatch]:
        """All units in order, at most some hundreds together.

        Args:
            embeddings: whose similarities, `input` or `contextual`.
            match: when a passage holds an answer.

        Raises:
            DataError: the file lacks them.
        """
        wanted = {
            "question_id": "question_id",
            "token_scores": "token_scores",
            "prompt_total": "prompt_total",
            "log_p_attn": "log_p_attn" if self._has_log_p else "p_attn",
            "answer_similarity": f"answer_similarity_{embeddings}",
            "noun_similarity": f"noun_similarity_{embeddings}",
            "holds_answer": f"holds_answer_{AnswerMatch(match)}",
        }
        for column in wanted.values():
            if column not in self._file.schema_arrow.names:
                raise DataError(f"{self.path}: lacks the column {column}; ask for others, or write it anew")
        for group in range(self._file.num_row_groups):
            table = self._file.read_row_group(group, columns=list(wanted.values())).combine_chunks()
            columns = {name: table[column] for name, column in wanted.items()}
            if not self._has_log_p:
                columns["log_p_attn"] = pc.ln(columns["log_p_attn"])
            yield _batch(columns, self.info["num_passages"])

    def units(self, num_questions: int) -> list[TokenUnit]:
        """All that is known of the first questions' units."""
        rows: list[dict[str, Any]] = []
        num_units = num_questions * self.info["num_passages"]
        for group in range(self._file.num_row_groups):
            if len(rows) >= num_units:
                break
            table = self._file.read_row_group(group, columns=SCHEMA.names)
            if not self._has_log_p:
                table = table.append_column("log_p_attn", pc.ln(table["p_attn"]))
            rows += table.to_pylist()
        return [TokenUnit(**row) for row in rows[:num_units]]

    @property
    def _has_log_p(self) -> bool:
        return self.info["version"] > 1


def _batch(columns: Mapping[str, pa.ChunkedArray], num_passages: int) -> TokenBatch:
    scores = columns["token_scores"].combine_chunks()
    lengths = _lengths(scores)
    width = int(lengths.max(initial=1))

    def flat(name: str) -> Tensor:
        return torch.from_numpy(columns[name].to_numpy().copy())

    return TokenBatch(
        question_ids=columns["question_id"].to_pylist()[::num_passages],
        question_of_unit=torch.arange(len(scores)) // num_passages,
        mask=torch.from_numpy(np.arange(width) < lengths[:, None]),
        token_scores=_padded(scores, width, 0.0),
        prompt_total=flat("prompt_total"),
        answer_similarity=_padded(columns["answer_similarity"].combine_chunks(), width, np.nan),
        noun_similarity=_padded(columns["noun_similarity"].combine_chunks(), width, np.nan),
        log_p_attn=flat("log_p_attn").view(-1, num_passages),
        holds_answer=flat("holds_answer").view(-1, num_passages),
    )


def _lengths(lists: pa.ListArray) -> np.ndarray:
    return lists.value_lengths().fill_null(0).to_numpy(zero_copy_only=False)


def _padded(lists: pa.ListArray, width: int, fill: float) -> Float[Tensor, "units tokens"]:
    padded = np.full((len(lists), width), fill, dtype=np.float32)
    padded[np.arange(width) < _lengths(lists)[:, None]] = lists.flatten().to_numpy(zero_copy_only=False)
    return torch.from_numpy(padded)
