"""A frozen reader reads a (question, answer, passage) once; from then on its output is kept."""

import hashlib
import inspect
import json
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers
from torch import Tensor

from datamodules.batches import Batch, Passage, PromptBatch, Question, in_batches
from datamodules.prompts import Shown
from lightning_modules.fingerprint import config_of_outputs, model_fingerprint
from lightning_modules.metrics.head_search import HeadSums
from lightning_modules.output_store import Arrays, OutputStore, key_of
from lightning_modules.processes import process_number
from lightning_modules.readers.base import Reader, TokenEmbeddings
from lightning_modules.readers.decoder_only import answer_tokens
from lightning_modules.readers.outputs import AnswerLikelihoods, SignalOutput, TokenOutput, WeightedPass
from lightning_modules.token_drops import TokenDrops

# Raise when what is kept, or how it is made, changes.
_VERSION = 1
_NAMES = ("row_scores", "question_scores", "label_log_probs")
_HEAD_NAMES = (*_NAMES, "answer_heads", "question_heads")
_ORDERS = ("passage_order", "padding_side")
"""Settings of prompts that make no difference where each shows one passage."""

_Pair = tuple[Question, str, Passage]


def why_not_kept(
    reader: Reader,
    is_trained: bool = False,
    token_embeddings: TokenEmbeddings | str = TokenEmbeddings.INPUT,
) -> str | None:
    """Why nothing of a reader can be kept, or what is kept is not enough; None = it can.

    Args:
        reader: as it is shown the passages.
        is_trained: whether it is.
        token_embeddings: what the indicators look at.
    """
    if is_trained:
        return "the reader is trained, so it reads differently every time"
    if not reader.reads_alone:
        return (
            "the reader sees all passages of a question together, so what it gives for one depends on the "
            "others and is read anew every time (a decoder-only reader with context independent reads each "
            "pair once)"
        )
    if TokenEmbeddings(token_embeddings) is TokenEmbeddings.CONTEXTUAL:
        return "token_embeddings=contextual looks at hidden states, which are not kept"
    return None


class ReadOnce:
    """The passes of a frozen reader over passages read one by one, each pair made once.

    All signals of a pass are kept, so that any objective, seed, rate or temperature, the validations and the
    check find them. Prompts are made anew, which costs little; hidden states are not kept.

    Args:
        reader: for which `why_not_kept` has no reason.
        folder: of what is kept, of any number of readers.
        max_bytes: of what is kept there, of all readers; the oldest goes beyond it.
        num_at_once: prompts in one pass.
        run: that it is of, if of one.

    Attributes:
        num_read: pairs that the reader has read.
        num_found: pairs that were found kept.
    """

    def __init__(
        self,
        reader: Reader,
        folder: Path | str,
        max_bytes: int = 8 << 30,
        num_at_once: int = 32,
        run: str | None = None,
    ) -> None:
        refusal = why_not_kept(reader)
        if refusal is not None:
            raise ValueError(refusal)
        self.reader = reader
        self.num_at_once = num_at_once
        self.num_read = self.num_found = 0
        self.run = run
        self._folder = Path(folder)
        self._max_bytes = max_bytes
        self._stores: dict[tuple[str, str, tuple[str, ...]], OutputStore] = {}

    # ---- passes ----

    def read(self, batch: Batch) -> SignalOutput:
        """See `Reader.read`."""
        return self.read_signals(batch)

    def read_drops(self, batch: Batch, how: TokenDrops = TokenDrops.MASKED) -> TokenOutput:
        """See `Reader.read_drops`; not kept."""
        return self.reader.read_drops(batch, how)

    def read_weighted(self, batch: Batch) -> WeightedPass:
        """See `Reader.read_weighted`; not for passages that are read one by one."""
        return self.reader.read_weighted(batch)

    def answer_likelihoods(self, batch: Batch, shown: Shown, temperature: float = 1.0) -> AnswerLikelihoods:
        """See `Reader.answer_likelihoods`; those at another temperature are not kept."""
        if temperature != 1.0:
            return self.reader.answer_likelihoods(batch, shown, temperature)
        return self.read_signals(batch).each_alone()

    def read_signals(self, batch: Batch) -> SignalOutput:
        """See `Reader.read_signals`."""
        kept, of_heads = self._store(_NAMES), self._store(_HEAD_NAMES)
        keys = self._read_missing(batch, kept, has=lambda key: key in kept or key in of_heads)
        prompts = self.reader.prompts.build(batch).to(self.reader.device)
        return self._output(prompts, [(kept if key in kept else of_heads)[key] for key in keys])

    def read_question(self, batch: Batch) -> SignalOutput:
        """See `Reader.read_question`; the whole pass is made, and all of it kept."""
        return self.read_signals(batch)

    def read_heads(self, batch: Batch) -> tuple[SignalOutput, HeadSums]:
        """See `Reader.read_question_heads`; of every head the passages' sums are kept."""
        kept = self._store(_HEAD_NAMES)
        keys = self._read_missing(batch, kept, has=lambda key: key in kept)
        prompts = self.reader.prompts.build(batch).to(self.reader.device)
        found = [kept[key] for key in keys]
        answer, question = (
            _joined(found, name, self.reader.device)
            .view(len(batch), batch.num_passages, *self.reader.num_layers_and_heads)
            .movedim(1, -1)
            for name in ("answer_heads", "question_heads")
        )
        return self._output(prompts, found), HeadSums(answer, question)

    def _read_missing(self, batch: Batch, store: OutputStore, has: Callable[[bytes], bool]) -> list[bytes]:
        """Reads the pairs that are not kept, and gives the keys of all."""
        pairs = [
            (question, answer, passage)
            for question, answer, found in zip(batch.questions, batch.answers, batch.passages, strict=True)
            for passage in found
        ]
        keys = [key_of(question.text, answer, p.title, p.text) for question, answer, p in pairs]
        missing = {key: pair for key, pair in zip(keys, pairs, strict=True) if not has(key)}
        self.num_read += len(missing)
        self.num_found += len(keys) - len(missing)
        for some in _in_parts(missing, self.num_at_once):
            store.put(dict(zip(some, self._read(list(some.values()), store.names), strict=True)))
        return keys

    def _read(self, pairs: list[_Pair], names: Sequence[str]) -> Iterator[Arrays]:
        """Each pair in a prompt of its own."""
        questions, answers, passages = zip(*pairs, strict=True)
        batch = Batch(questions, [[passage] for passage in passages], answers)
        sums = None
        if names == _NAMES:
            output = self.reader.read_signals(batch)
        else:
            output = self.reader.read_question_heads(batch)
            sums = HeadSums.of(output)
        for i, mask in enumerate(output.prompts.attention_mask):
            kept = [
                output.row_scores[i][output.row_mask[i]][:, mask],
                output.question_scores[i][mask],
                output.label_log_probs[i][output.label_mask[i]],
            ]
            if sums is not None:
                assert sums.question is not None, "this reader has rows of the question"
                kept += [sums.answer[i], sums.question[i]]
            yield {
                name: array.float().flatten().cpu().numpy() for name, array in zip(names, kept, strict=True)
            }

    def _output(self, prompts: PromptBatch, found: list[Arrays]) -> SignalOutput:
        """The output of a pass over the prompts, from what was kept of each."""
        device, mask = self.reader.device, prompts.attention_mask
        row_mask = _left_aligned(prompts.answer_rows_mask.sum(dim=1))
        label_mask = _left_aligned(prompts.label_mask.sum(dim=1))
        shape = (*row_mask.shape, mask.shape[1])
        rows = torch.zeros(shape, device=device).masked_scatter(
            row_mask[..., None] & mask[:, None], _joined(found, "row_scores", device)
        )
        weights = row_mask / row_mask.sum(dim=1, keepdim=True)
        return SignalOutput(
            prompts=prompts,
            answer=answer_tokens(prompts),
            hidden=None,
            token_scores=(rows * weights[..., None]).sum(dim=1),
            row_scores=rows,
            row_mask=row_mask,
            label_log_probs=torch.zeros(label_mask.shape, device=device).masked_scatter(
                label_mask, _joined(found, "label_log_probs", device)
            ),
            label_mask=label_mask,
            question_scores=torch.zeros(mask.shape, device=device).masked_scatter(
                mask, _joined(found, "question_scores", device)
            ),
        )

    # ---- whose ----

    def _store(self, names: Sequence[str]) -> OutputStore:
        """Of this reader as it computes now: another device, or mixed precision, gives other numbers."""
        device = self.reader.device.type
        precision = str(torch.get_autocast_dtype(device)) if torch.is_autocast_enabled(device) else "none"
        key = device, precision, tuple(names)
        if key not in self._stores:
            about = {
                **describe_reader(self.reader),
                "autocast": precision,
                "kept": names,
                "version": _VERSION,
            }
            digest = hashlib.sha256(json.dumps(about, sort_keys=True).encode()).hexdigest()[:16]
            writer = None if self.run is None else (self.run, process_number())
            self._stores[key] = OutputStore(
                self._folder / digest, names, self._max_bytes, about, writer, bounded=self._folder
            )
        return self._stores[key]


def describe_reader(reader: Reader) -> dict[str, Any]:
    """All that what a reader makes of a pair depends on.

    The versions are in it since how a family attends is code of transformers, and kernels are torch's: after
    an upgrade everything is read anew.
    """
    prompts = reader.prompts
    settings = {name: getattr(prompts, name) for name in inspect.signature(type(prompts)).parameters}
    tokenizer = settings.pop("tokenizer")
    # as the tokenizer's chat template wraps it up, where it is a chat
    settings["template"] = prompts.forms
    text = json.dumps([tokenizer.backend_tokenizer.to_str(), tokenizer.eos_token_id, tokenizer.bos_token_id])
    return {
        "model": model_fingerprint(reader.model),
        "config": config_of_outputs(reader.model.config),
        "versions": {"torch": str(torch.__version__), "transformers": transformers.__version__},
        "dtype": str(reader.model.dtype),
        "device": reader.device.type,
        "tokenizer": hashlib.sha256(text.encode()).hexdigest(),
        "attention_heads": None if reader.attention_heads is None else str(reader.attention_heads),
        "prompts": {
            "kind": type(prompts).__name__,
            **{name: str(value) for name, value in settings.items() if name not in _ORDERS},
        },
    }


def _left_aligned(counts: Tensor) -> Tensor:
    """[rows, most]: True in the first so many places of each row."""
    return torch.arange(int(counts.max()), device=counts.device) < counts[:, None]


def _joined(found: list[Arrays], name: str, device: torch.device) -> Tensor:
    return torch.from_numpy(np.concatenate([arrays[name] for arrays in found])).to(device)


def _in_parts(pairs: dict[bytes, _Pair], size: int) -> Iterator[dict[bytes, _Pair]]:
    """Parts of similar length, which need little padding."""
    for keys in in_batches(sorted(pairs, key=lambda key: len(pairs[key][2].text)), size):
        yield {key: pairs[key] for key in keys}
