"""The knowledge base through the passage encoder: the embeddings that the index is built from."""

import hashlib
import json
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace

import numpy as np
import torch
from jaxtyping import Float32
from transformers import BatchEncoding

from datamodules.batches import Passage, in_batches
from datamodules.passage_index import PassageIndex
from datamodules.passages import KnowledgeBase
from lightning_modules.eval_mode import eval_mode
from lightning_modules.fingerprint import config_of_outputs, tokenizer_fingerprint
from lightning_modules.memory import give_memory_back
from lightning_modules.retriever import Retriever, parts_of_similar_length

_PASSAGES_SORTED_TOGETHER = 20_000
_TOKENIZED_TOGETHER = 1024
"""Passages, or a batch of more: a GPU waits for the first ones of each call."""


def encode_rows(
    retriever: Retriever,
    knowledge_base: KnowledgeBase,
    rows: Sequence[int],
    batch_size: int = 64,
    progress: Callable[[int], object] | None = None,
) -> Float32[np.ndarray, "rows dim"]:
    """Embeddings of some passages of a knowledge base, in eval mode.

    Passages of similar length share a batch, which saves the padding; they are sorted within 20,000
    neighbours, so that memory does not grow with the knowledge base.

    Args:
        retriever: its passage encoder is used.
        knowledge_base: D.
        rows: of the passages.
        batch_size: passages a batch.
        progress: called after each batch with the number of passages in it.
    """
    out = np.zeros((len(rows), retriever.dim), dtype=np.float32)
    for start in range(0, len(rows), _PASSAGES_SORTED_TOGETHER):
        passages = knowledge_base.select(rows[start : start + _PASSAGES_SORTED_TOGETHER])
        out[start : start + len(passages)] = encode_passages(retriever, passages, batch_size, progress)
        give_memory_back()
    return out


def build_index(retriever: Retriever, knowledge_base: KnowledgeBase, batch_size: int = 64) -> PassageIndex:
    """An exact index of all passages, in memory: for knowledge bases whose embeddings fit into it.

    Args:
        retriever, knowledge_base, batch_size: as in `encode_rows`.

    Raises:
        ValueError: there are no passages.
    """
    return PassageIndex.build(encode_rows(retriever, knowledge_base, range(len(knowledge_base)), batch_size))


@torch.no_grad()
def encode_passages(
    retriever: Retriever,
    passages: list[Passage],
    batch_size: int = 64,
    progress: Callable[[int], object] | None = None,
) -> Float32[np.ndarray, "passages dim"]:
    """Embeddings of some passages, in eval mode; batches hold passages of similar length.

    Args:
        retriever, batch_size, progress: as in `encode_rows`.
        passages: few enough for their embeddings to fit into memory.
    """
    out = np.zeros((len(passages), retriever.dim), dtype=np.float32)
    with eval_mode(retriever):
        for places, tokens in _batches_by_length(retriever, passages, batch_size):
            out[places] = retriever.embed_passages(tokens).float().cpu().numpy()
            if progress is not None:
                progress(len(places))
    return out


def _batches_by_length(
    retriever: Retriever, passages: list[Passage], batch_size: int
) -> Iterator[tuple[list[int], BatchEncoding]]:
    """Batches of passages of similar length, with their places; the next are tokenised while one is encoded.

    Characters sort all of them, tokens those that are tokenised together.
    """
    order = sorted(range(len(passages)), key=lambda i: len(passages[i].title) + len(passages[i].text))
    with ThreadPoolExecutor(1) as pool:
        waiting: deque[tuple[list[int], Future[BatchEncoding]]] = deque()
        for places in in_batches(order, max(1, _TOKENIZED_TOGETHER // batch_size) * batch_size):
            waiting.append((places, pool.submit(retriever.tokenize_passages, [passages[i] for i in places])))
            if len(waiting) > 1:
                yield from _parts(*waiting.popleft(), batch_size)
        for places, tokens in waiting:
            yield from _parts(places, tokens, batch_size)


def _parts(
    places: list[int], tokens: Future[BatchEncoding], batch_size: int
) -> Iterator[tuple[list[int], BatchEncoding]]:
    order, parts = parts_of_similar_length(tokens.result(), batch_size)
    for some, part in zip(order.split(batch_size), parts, strict=True):
        yield [places[i] for i in some.tolist()], BatchEncoding(part)


def embeddings_fingerprint(retriever: Retriever, knowledge_base: KnowledgeBase) -> str:
    """SHA-256 over all that the embeddings depend on: encoder, tokenizer, settings, precision, passages.

    Versions of libraries are not in it: what they change of an embedding is rounding, and all of a large
    knowledge base would be encoded anew for it.
    """
    digest = hashlib.sha256()
    embedding = replace(retriever.embedding, query_prompt="")  # no part of passages
    settings = (embedding, retriever.max_passage_tokens, knowledge_base.fingerprint)
    digest.update(repr(settings).encode())
    digest.update(tokenizer_fingerprint(retriever.tokenizer).encode())
    digest.update(json.dumps(config_of_outputs(retriever.passage_encoder.config), sort_keys=True).encode())
    device = next(retriever.passage_encoder.parameters()).device.type
    if torch.is_autocast_enabled(device):
        digest.update(f"{torch.get_autocast_dtype(device)}".encode())
    for name, weight in sorted(retriever.passage_encoder.state_dict().items()):
        digest.update(f"{name} {tuple(weight.shape)} {weight.dtype}".encode())
        digest.update(weight.detach().cpu().contiguous().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()
