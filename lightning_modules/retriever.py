"""The retriever: mean-pooled embeddings of queries and passages."""

import contextlib
import copy
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint
from transformers import BatchEncoding, PreTrainedModel, PreTrainedTokenizerBase

from datamodules.batches import Passage
from lightning_modules.loading import load_encoder, save_pretrained

PASSAGE_ENCODER = "passages"
"""Folder of an untied passage encoder, inside the saved retriever's."""


def mean_pool(
    hidden: Float[Tensor, "batch tokens dim"], mask: Bool[Tensor, "batch tokens"]
) -> Float[Tensor, "batch dim"]:
    """Mean of the hidden states of real tokens (Contriever)."""
    weights = mask[..., None].to(hidden.dtype)
    return (hidden * weights).sum(dim=1) / weights.sum(dim=1).clamp(min=1)


class Retriever(nn.Module):
    """Encodes queries and passages; their dot product is s(n, Q) (Eq. 2).

    Args:
        encoder: an encoder of transformers whose output has `last_hidden_state`.
        tokenizer: its tokenizer.
        normalize: unit-length embeddings (cosine) instead of plain ones (Contriever).
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
        self.normalize = normalize
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
        **settings: Any,
    ) -> "Retriever":
        """A retriever from the hub or a folder, such as one that `save` wrote.

        Args:
            name: hub name or folder.
            num_layers: keep the first layers only; None = all.
            dropout: of hidden states and attention; None = as the model says.
            tied: see `Retriever`; a folder with a passage encoder of its own needs False.
            settings: further ones of `Retriever`.

        Raises:
            ModelError: not to be loaded, or no encoder.
            ValueError: the folder holds two encoders, and `tied` says one.
        """
        encoder, tokenizer = load_encoder(name, num_layers, dropout)
        retriever = cls(encoder, tokenizer, tied=tied, **settings)
        own_passage_encoder = Path(name) / PASSAGE_ENCODER
        if own_passage_encoder.is_dir():
            if tied:
                raise ValueError(
                    f"tied: {name} holds two encoders, one for queries and one for passages; set tied=False"
                )
            passage_encoder, _ = load_encoder(own_passage_encoder, dropout=dropout)
            retriever.passage_encoder.load_state_dict(passage_encoder.state_dict())
        return retriever

    @property
    def dim(self) -> int:
        """Size of the embeddings."""
        return int(self.query_encoder.config.hidden_size)

    def encode_queries(self, texts: Sequence[str]) -> Float[Tensor, "batch dim"]:
        """Embeddings of questions, with gradient where grad mode is on."""
        return self._encode(self.query_encoder, self._tokenize(list(texts), self.max_query_tokens))

    def encode_passages(self, passages: Sequence[Passage]) -> Float[Tensor, "batch dim"]:
        """Embeddings of "title text", with gradient unless the passage encoder is fixed."""
        return self.embed_passages(self.tokenize_passages(passages))

    def tokenize_passages(self, passages: Sequence[Passage]) -> BatchEncoding:
        """The first half of `encode_passages`, which needs no device."""
        texts = [f"{passage.title} {passage.text}".strip() for passage in passages]
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
        """Writes the encoder and its tokenizer; an untied passage encoder goes to `folder/passages`."""
        folder = Path(folder)
        save_pretrained(self.query_encoder, self.tokenizer, folder)
        if not self.tied:
            save_pretrained(self.passage_encoder, self.tokenizer, folder / PASSAGE_ENCODER)

    def _tokenize(self, texts: list[str], max_tokens: int) -> BatchEncoding:
        return self.tokenizer(
            texts, padding=True, truncation=True, max_length=max_tokens, return_tensors="pt"
        )

    def _encode(self, encoder: nn.Module, tokens: BatchEncoding) -> Tensor:
        inputs, count = tokens.to(next(encoder.parameters()).device), len(tokens["input_ids"])
        if self.num_at_once is None or not torch.is_grad_enabled() or count <= self.num_at_once:
            return self._embed(encoder, dict(inputs))
        parts = [
            {name: tensor[start : start + self.num_at_once] for name, tensor in inputs.items()}
            for start in range(0, count, self.num_at_once)
        ]
        # the second pass draws the same dropout as the first
        return torch.cat([checkpoint(self._embed, encoder, part, use_reentrant=False) for part in parts])

    def _embed(self, encoder: nn.Module, inputs: dict[str, Tensor]) -> Tensor:
        hidden = encoder(**inputs).last_hidden_state
        embeddings = mean_pool(hidden.float(), inputs["attention_mask"].bool())
        return F.normalize(embeddings, dim=-1) if self.normalize else embeddings
