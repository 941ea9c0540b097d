import pytest

from datamodules.token_pieces import token_pieces
from tests.tiny_models import tiny_tokenizer


@pytest.mark.parametrize("text", [" Peru is a country", "Zürich 東京\n🎉", " ends in half", ""])
def test_pieces_join_to_the_text(text):
    tokenizer = tiny_tokenizer()
    ids = tokenizer(text)["input_ids"]
    pieces = token_pieces(tokenizer, ids)
    assert len(pieces) == len(ids)
    assert "".join(pieces) == text


def test_a_piece_is_its_own_tokens_text():
    tokenizer = tiny_tokenizer()
    assert token_pieces(tokenizer, tokenizer(" Peru is a country")["input_ids"]) == [
        " Peru",
        " is",
        " a",
        " country",
    ]


def test_a_character_of_several_tokens_stands_at_the_last():
    tokenizer = tiny_tokenizer()
    assert token_pieces(tokenizer, tokenizer("ü!")["input_ids"]) == ["", "ü", "!"]


def test_text_that_is_cut_within_a_character_is_shown_so():
    tokenizer = tiny_tokenizer()
    pieces = token_pieces(tokenizer, tokenizer("aü")["input_ids"][:-1])
    assert pieces == ["a", "\N{REPLACEMENT CHARACTER}"]
