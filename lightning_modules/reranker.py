"""A cross-encoder scores a question and a passage in one pass of an encoder; readers are compared with it."""

from collections.abc import Sequence
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor, nn
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from datamodules.batches import Batch, in_batches
from lightning_modules.eval_mode import eval_mode
from lightning_modules.loading import ModelError, load_cross_encoder


class Reranker(nn.Module):
    """Scores passages as rerankers do that were trained on relevance labels.

    Args:
        name: what it is called.
        model: gives one logit, or two of which the second is for relevant passages.
        tokenizer: its tokenizer.
        max_tokens: of question and passage together; the passage is cut.

    Raises:
        ModelError: a classifier of more than two classes.
    """

    def __init__(
        self,
        name: str,
        model: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        max_tokens: int = 256,
    ) -> None:
        super().__init__()
        if int(model.config.num_labels or 0) > 2:
            raise ModelError(
                f"reranker {name}: it has {model.config.num_labels} classes; a reranker has one score, "
                "or two classes of which the second is relevant"
            )
        self.name = name
        self.model = model
        self.tokenizer = tokenizer
        self.max_tokens = max_tokens

    @classmethod
    def load(cls, name: str | Path) -> "Reranker":
        """A cross-encoder of sentence-transformers or transformers, from the hub or a folder.

        Raises:
            ModelError: not to be loaded, or no cross-encoder.
        """
        return cls(str(name), *load_cross_encoder(name))

    @torch.no_grad()
    def scores(self, batch: Batch, num_at_once: int = 32) -> Float[Tensor, "batch passages"]:
        """The higher, the more relevant; in eval mode.

        Args:
            batch: answers are not looked at.
            num_at_once: passages in one pass.
        """
        pairs = [
            (question.text, passage.full_text)
            for question, found in zip(batch.questions, batch.passages, strict=True)
            for passage in found
        ]
        with eval_mode(self):
            logits = torch.cat([self._logits(some) for some in in_batches(pairs, num_at_once)])
        return logits.view(len(batch), batch.num_passages)

    def _logits(self, pairs: Sequence[tuple[str, str]]) -> Float[Tensor, " pairs"]:
        questions, passages = zip(*pairs, strict=True)
        inputs = self.tokenizer(
            list(questions),
            list(passages),
            padding=True,
            truncation="only_second",
            max_length=self.max_tokens,
            return_tensors="pt",
        ).to(self.model.device)
        logits = self.model(**inputs).logits.float()
        return logits[:, 0] if logits.shape[1] == 1 else logits[:, 1] - logits[:, 0]
