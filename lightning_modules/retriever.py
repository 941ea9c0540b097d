"""The retriever: embeddings of queries and passages."""

import contextlib
import copy
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint
from transformers import BatchEncoding, PreTrainedModel, PreTrainedTokenizerBase

from datamodules.batches import Passage
from lightning_modules.loading import fetch_retriever, load_encoder, save_pretrained
from lightning_modules.pooling import Pooling, pool
from lightning_modules.sentence_transformers_files import (
    EmbeddingSettings,
    read_embedding_settings,
    write_router_files,
    write_sentence_transformers_files,
)

QUERY_ENCODER = "queries"
PASSAGE_ENCODER = "passages"
"""Folders of untied encoders, inside the saved retriever's."""

_AT_ONCE_ON_CPU = 8
"""Texts of a training pass on a CPU: less padding is worth more there than larger products."""


class Retriever(nn.Module):
    """Encodes queries and passages; their dot product is s(n, Q) (Eq. 2).

    Args:
        encoder: an encoder of transformers whose output has `last_hidden_state`.
        tokenizer: its tokenizer.
        normalize: unit-length embeddings (cosine) instead of plain ones (Contriever).
        pooling: what of the hidden states an embedding is.
        query_prompt, passage_prompt: what each query, or passage, begins with ("query: " for E5).
        tied: one encoder for both sides; False = the passage encoder is a copy of its own.
        train_passage_encoder: False = query-side fine-tuning; only with `tied=False`.
        max_query_tokens, max_passage_tokens: longer texts are cut.
        num_at_once: texts whose activations are kept at a time where there is gradient; the passes of the
            others are made again backward (as GradCache does), so that memory does not grow with the batch.
            None = all are kept.

    Raises:
        ValueError: query-side fine-tuning of tied encoders.
    """

    def __init__(
        self,
        encoder: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        normalize: bool = False,
        tied: bool = True,
        train_passage_encoder: bool = True,
        max_query_tokens: int = 64,
        max_passage_tokens: int = 160,
        num_at_once: int | None = None,
        pooling: Pooling | str = Pooling.MEAN,
        query_prompt: str = "",
        passage_prompt: str = "",
    ) -> None:
        super().__init__()
        if tied and not train_passage_encoder:
            raise ValueError(
                "train_passage_encoder: query-side fine-tuning needs two encoders, so with "
                "train_passage_encoder=False set tied=False"
            )
        self.query_encoder = encoder
        self.passage_encoder = encoder if tied else copy.deepcopy(encoder)
        self.tokenizer = tokenizer
        self.embedding = EmbeddingSettings(Pooling(pooling), normalize, query_prompt, passage_prompt)
        self.tied = tied
        self.train_passage_encoder = train_passage_encoder
        self.max_query_tokens = max_query_tokens
        self.max_passage_tokens = max_passage_tokens
        self.num_at_once = num_at_once
        if not train_passage_encoder:
            self.passage_encoder.requires_grad_(False)

    @classmethod
    def load(
        cls,
        name: str | Path,
        *,
        num_layers: int | None = None,
        dropout: float | None = None,
        tied: bool = True,
        normalize: bool | None = None,
        pooling: Pooling | str | None = None,
        query_prompt: str | None = None,
        passage_prompt: str | None = None,
        **settings: Any,
    ) -> "Retriever":
        """A retriever from the hub or a folder, such as one that `save` wrote.

        Args:
            name: hub name or folder.
            num_layers: keep the first layers only; None = all.
            dropout: of hidden states and attention; None = as the model says.
            tied: see `Retriever`; a folder with a passage encoder of its own needs False.
            normalize, pooling, query_prompt, passage_prompt: see `Retriever`; None = as a model of
                sentence-transformers says, and the defaults of `Retriever` for any other.
            settings: further ones of `Retriever`.

        Raises:
            ModelError: not to be loaded, no encoder, or a model of sentence-transformers whose embeddings are
                made in another way.
            ValueError: the folder holds two encoders, and `tied` says one.
        """
        folder = fetch_retriever(name)
        told = read_embedding_settings(folder)
        given: dict[str, Any] = {
            "normalize": normalize,
            "pooling": None if pooling is None else Pooling(pooling),
            "query_prompt": query_prompt,
            "passage_prompt": passage_prompt,
        }
        embedding = replace(
            told or EmbeddingSettings(),
            **{key: value for key, value in given.items() if value is not None},
        )
        is_untied = (folder / PASSAGE_ENCODER).is_dir()
        if is_untied and tied:
            raise ValueError(
                f"tied: {name} holds two encoders, one for queries and one for passages; set tied=False"
            )
        has_query_folder = (folder / QUERY_ENCODER).is_dir()
        encoder, tokenizer = load_encoder(
            folder / QUERY_ENCODER if has_query_folder else name, num_layers, dropout, told is not None
        )
        retriever = cls(encoder, tokenizer, tied=tied, **vars(embedding), **settings)
        if is_untied:
            passage_encoder, _ = load_encoder(
                folder / PASSAGE_ENCODER, dropout=dropout, may_be_causal=told is not None
            )
            retriever.passage_encoder.load_state_dict(passage_encoder.state_dict())
        return retriever

    @property
    def normalize(self) -> bool:
        """Whether embeddings have length 1."""
        return self.embedding.normalize

    @property
    def dim(self) -> int:
        """Size of the embeddings."""
        return int(self.query_encoder.config.hidden_size)

    def encode_queries(self, texts: Sequence[str]) -> Float[Tensor, "batch dim"]:
        """Embeddings of questions, with gradient where grad mode is on."""
        prompted = [f"{self.embedding.query_prompt}{text}" for text in texts]
        return self._encode(self.query_encoder, self._tokenize(prompted, self.max_query_tokens))

    def encode_passages(self, passages: Sequence[Passage]) -> Float[Tensor, "batch dim"]:
        """Embeddings of "title text", with gradient unless the passage encoder is fixed."""
        return self.embed_passages(self.tokenize_passages(passages))

    def tokenize_passages(self, passages: Sequence[Passage]) -> BatchEncoding:
        """The first half of `encode_passages`, which needs no device."""
        prompt = self.embedding.passage_prompt
        texts = [f"{prompt}{passage.full_text}" for passage in passages]
        return self._tokenize(texts, self.max_passage_tokens)

    def embed_passages(self, tokens: BatchEncoding) -> Float[Tensor, "batch dim"]:
        """The second half of `encode_passages`."""
        with contextlib.nullcontext() if self.train_passage_encoder else torch.no_grad():
            return self._encode(self.passage_encoder, tokens)

    def train(self, mode: bool = True) -> "Retriever":
        """Train mode, with dropout, of what is trained: a fixed passage encoder stays in eval mode."""
        super().train(mode)
        if not self.train_passage_encoder:
            self.passage_encoder.eval()
        return self

    def save(self, folder: Path | str) -> None:
        """Writes the encoder, its tokenizer and how it embeds: a model of sentence-transformers.

        One encoder lies in the folder itself, where transformers loads it too. Two lie in its folders
        `queries` and `passages`, and `encode_query` and `encode_document` know which is for what.
        sentence-transformers has one maximum length for an encoder: that of queries, if it is shorter than
        that of passages, is not among what it is told.
        """
        folder = Path(folder)
        if self.tied:
            save_pretrained(self.query_encoder, self.tokenizer, folder)
            max_tokens = max(self.max_query_tokens, self.max_passage_tokens)
            write_sentence_transformers_files(folder, self.embedding, self.dim, max_tokens)
            return
        save_pretrained(self.query_encoder, self.tokenizer, folder / QUERY_ENCODER)
        save_pretrained(self.passage_encoder, self.tokenizer, folder / PASSAGE_ENCODER)
        of_each = {
            "query": (QUERY_ENCODER, self.max_query_tokens),
            "document": (PASSAGE_ENCODER, self.max_passage_tokens),
        }
        write_router_files(folder, self.embedding, self.dim, of_each)

    def _tokenize(self, texts: list[str], max_tokens: int) -> BatchEncoding:
        return self.tokenizer(
            texts, padding=True, truncation=True, max_length=max_tokens, return_tensors="pt"
        )

    def _encode(self, encoder: PreTrainedModel, tokens: BatchEncoding) -> Tensor:
        inputs = dict(tokens.to(next(encoder.parameters()).device))
        if not torch.is_grad_enabled():
            return self._embed(encoder, inputs)
        keeps_all = self.num_at_once is None or len(inputs["input_ids"]) <= self.num_at_once
        order, parts = training_parts(inputs, None if keeps_all else self.num_at_once)
        if keeps_all:
            embeddings = [self._embed(encoder, part) for part in parts]
        else:
            # the second pass draws the same dropout as the first
            embeddings = [checkpoint(self._embed, encoder, part, use_reentrant=False) for part in parts]
        return torch.cat(embeddings)[order.argsort()]

    def _embed(self, encoder: PreTrainedModel, inputs: dict[str, Tensor]) -> Tensor:
        mask = inputs["attention_mask"].bool()
        with plain_attention_backward(encoder):
            hidden = encoder(**inputs).last_hidden_state
        embeddings = pool(hidden.float(), mask, self.embedding.pooling)
        return F.normalize(embeddings, dim=-1) if self.embedding.normalize else embeddings


def training_parts(
    inputs: dict[str, Tensor], num_at_once: int | None = None
) -> tuple[Int[Tensor, " texts"], list[dict[str, Tensor]]]:
    """The texts' order, and in this order those that make one pass each where there is gradient.

    Args:
        inputs: as in `parts_of_similar_length`.
        num_at_once: texts of a pass; None = what is fastest: on a CPU a few, on a GPU all.
    """
    mask = inputs["attention_mask"]
    if num_at_once is None and mask.device.type != "cpu":
        return torch.arange(len(mask), device=mask.device), [inputs]
    return parts_of_similar_length(inputs, num_at_once or _AT_ONCE_ON_CPU)


def parts_of_similar_length(
    inputs: Mapping[str, Tensor], size: int
) -> tuple[Int[Tensor, " texts"], list[dict[str, Tensor]]]:
    """The texts' order by length, and so many at a time in this order, without what pads all of these.

    Args:
        inputs: tokens of texts with their `attention_mask`, padded on either side.
        size: texts of a part.
    """
    mask = inputs["attention_mask"]
    order = mask.sum(dim=1).argsort(stable=True)
    starts, ends = mask.argmax(dim=1), mask.shape[1] - mask.flip(1).argmax(dim=1)
    # at once: a GPU is waited for
    bounds = torch.stack([starts[order], ends[order]]).tolist()
    parts = []
    for start in range(0, len(order), size):
        first, last = min(bounds[0][start : start + size]), max(bounds[1][start : start + size])
        rows = order[start : start + size]
        parts.append({name: tensor[rows, first:last] for name, tensor in inputs.items()})
    return order, parts


@contextlib.contextmanager
def plain_attention_backward(encoder: PreTrainedModel) -> Iterator[None]:
    """Plain attention where there is gradient on a CPU: backward, the fused kernel takes longer there."""
    is_fused = encoder.config._attn_implementation == "sdpa"
    if not (is_fused and torch.is_grad_enabled() and encoder.device.type == "cpu"):
        yield
        return
    encoder.set_attn_implementation("eager")
    try:
        yield
    finally:
        encoder.set_attn_implementation("sdpa")
