"""The text that names attention heads, there and back, and what it says to mistakes."""

import doctest
import itertools

import pytest
import torch

from lightning_modules import attention_heads as module
from lightning_modules.attention_heads import AttentionHeads

LAYERS, HEADS = 4, 12


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("0.0", {(0, 0)}),
        ("1.10,1.1", {(1, 10), (1, 1)}),
        ("2.*", set(itertools.product([2], range(HEADS)))),
        ("0-1.*,3.2", {*itertools.product([0, 1], range(HEADS)), (3, 2)}),
        ("1-3.4", {(1, 4), (2, 4), (3, 4)}),
        ("0-1.10-11", {(0, 10), (0, 11), (1, 10), (1, 11)}),
        ("2.3,2.3,2.*", set(itertools.product([2], range(HEADS)))),
    ],
)
def test_names_heads_and_gives_the_text_back(text, expected):
    heads = AttentionHeads.parse(text)
    mask = heads.mask(LAYERS, HEADS)
    assert {tuple(place) for place in mask.nonzero().tolist()} == expected
    assert str(heads) == text
    assert AttentionHeads.parse(str(heads)) == heads


@pytest.mark.parametrize(
    ("text", "same"), [("layers:1-2", "1-2.*"), ("layers:3", "3.*"), (" layers:0-1 ,3.2", "0-1.*,3.2")]
)
def test_layers_are_all_of_their_heads(text, same):
    assert AttentionHeads.parse(text) == AttentionHeads.parse(same)
    assert str(AttentionHeads.parse(text)) == same


def test_blanks_and_ranges_of_one_are_tidied():
    assert str(AttentionHeads.parse(" 1-1.2 , 3.*")) == "1.2,3.*"


@pytest.mark.parametrize(
    "text",
    ["", "12", "1.", ".3", "*.3", "1,2", "1.2,", "-1.2", "a.b", "1.2.3", "1:2"],
)
def test_malformed_text_is_refused(text):
    with pytest.raises(ValueError, match=r"names no attention head; write layer\.head, such as 12\.3"):
        AttentionHeads.parse(text)


@pytest.mark.parametrize("text", ["layers:", "layers:1.2", "layers:*", "layer:1"])
def test_malformed_layers_are_refused(text):
    with pytest.raises(ValueError, match=r"names no attention head; .*, or layers:0-3$"):
        AttentionHeads.parse(text)


@pytest.mark.parametrize("text", ["3-1.*", "0.5-2", "layers:3-1"])
def test_ranges_that_run_backwards_are_refused(text):
    with pytest.raises(ValueError, match="runs backwards"):
        AttentionHeads.parse(text)


@pytest.mark.parametrize(("text", "missing"), [("0.1,4.0", "4.0"), ("2-4.*", "2-4.*"), ("3.12", "3.12")])
def test_heads_that_the_model_lacks_are_refused(text, missing):
    message = f"attention_heads={text}: the reader has no {missing}; its layers are 0 to 3, the heads"
    with pytest.raises(ValueError) as error:  # noqa: PT011 the whole message is compared
        AttentionHeads.parse(text).mask(LAYERS, HEADS)
    assert str(error.value).startswith(message)


def test_masks_become_heads_and_masks_again():
    mask = torch.rand(LAYERS, HEADS, generator=torch.Generator().manual_seed(0)) < 0.2
    mask[2] = True
    heads = AttentionHeads.from_mask(mask)
    assert torch.equal(AttentionHeads.parse(str(heads)).mask(LAYERS, HEADS), mask)
    assert "2.*" in str(heads)
    assert "1.*" not in str(heads)


def test_docstring_examples():
    assert doctest.testmod(module).failed == 0
