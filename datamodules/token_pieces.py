"""Tokens as pieces of the text that they make up."""

from transformers import PreTrainedTokenizerBase

_UNFINISHED = "\N{REPLACEMENT CHARACTER}"
"""What a tokenizer decodes the first bytes of a character to."""


def token_pieces(tokenizer: PreTrainedTokenizerBase, ids: list[int]) -> list[str]:
    """The text of each token, spaces as they stand; the pieces join to the decoded text.

    A token is decoded with its predecessor, since alone it may lose its space. A character of several
    tokens stands at the last of them; the others are empty.

    Args:
        tokenizer: of the reader.
        ids: tokens in a row.
    """
    pieces = []
    first = read = 0
    for end in range(1, len(ids) + 1):
        before = str(tokenizer.decode(ids[first:read]))
        after = str(tokenizer.decode(ids[first:end]))
        if after.endswith(_UNFINISHED) and end < len(ids):
            pieces.append("")
            continue
        pieces.append(after[len(before) :])
        first, read = read, end
    return pieces
