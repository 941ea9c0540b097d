"""Tokens that are white space alone, which say nothing of what they stand beside."""

import torch
from jaxtyping import Bool, Int
from torch import Tensor
from transformers import PreTrainedTokenizerBase


class BlankTokens:
    """Knows which tokens of a tokenizer are white space alone; each is looked up once.

    Tokenizers that split digits make a token of the space before a number, SentencePiece's may of any space.
    All such tokens are equal, so as part of a target they make every other one like it.

    Args:
        tokenizer: whose tokens they are.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase) -> None:
        self._tokenizer = tokenizer
        self._is_blank: dict[int, bool] = {}

    def left_out(
        self, ids: Int[Tensor, "rows tokens"], mask: Bool[Tensor, "rows tokens"]
    ) -> Bool[Tensor, "rows tokens"]:
        """Those tokens of `mask` that are not white space alone; where a row has no other, all of them."""
        kept = mask.clone()
        for row, column in mask.nonzero().tolist():
            token = int(ids[row, column])
            if token not in self._is_blank:
                self._is_blank[token] = not str(self._tokenizer.decode([token])).strip()
            kept[row, column] = not self._is_blank[token]
        return torch.where(kept.any(dim=-1, keepdim=True), kept, mask)
