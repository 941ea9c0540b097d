"""Biased attention against attention matrices written out, and whom it leaves alone."""

import math

import pytest
import torch
import torch.nn.functional as F

from lightning_modules.injected_attention import InjectedAttention
from tests.tiny_models import tiny_llama

PROMPTS, HEADS, KV_HEADS, TOKENS, DIM = 2, 4, 2, 5, 3
ROWS = torch.tensor([[False, False, True, False, True], [False, False, False, True, True]])
CHOSEN = torch.tensor([[True, False, False, True]])
GENERATOR = torch.Generator().manual_seed(0)


def drawn(*shape):
    return torch.randn(*shape, generator=GENERATOR, dtype=torch.float64)


def causal():
    return torch.ones(TOKENS, TOKENS, dtype=torch.bool).tril()


MASKS = {
    "causal": {"is_causal": True},
    "bool": {"attn_mask": causal() & torch.tensor([[True] * 5, [False] + [True] * 4])[:, None, None]},
    "float": {"attn_mask": drawn(PROMPTS, HEADS, TOKENS, TOKENS).masked_fill(~causal(), -math.inf)},
    "scaled": {"is_causal": True, "scale": 0.37},
}


def written_out(query, key, value, bias, heads, attn_mask=None, is_causal=False, scale=None):
    """Attention row by row, with a matrix of everything that is added to the logits."""
    added = torch.zeros(PROMPTS, HEADS, TOKENS, TOKENS, dtype=torch.float64)
    if is_causal:
        added = added.masked_fill(~causal(), -math.inf)
    elif attn_mask.dtype == torch.bool:
        added = added.masked_fill(~attn_mask, -math.inf)
    else:
        added = added + attn_mask
    prompts = []
    for p in range(PROMPTS):
        of_heads = []
        for h in range(HEADS):
            shared = h // (HEADS // KV_HEADS)
            of_rows = []
            for row in range(TOKENS):
                logits = (
                    query[p, h, row] @ key[p, shared].T * (scale or 1 / math.sqrt(DIM)) + added[p, h, row]
                )
                if ROWS[p, row] and heads[0, h]:
                    logits = logits + bias[p]
                # a row that may look at nothing looks at nothing
                alpha = logits.exp() / logits.exp().sum() if logits.isfinite().any() else 0 * bias[p]
                of_rows.append(alpha @ value[p, shared])
            of_heads.append(torch.stack(of_rows))
        prompts.append(torch.stack(of_heads))
    return torch.stack(prompts)


@pytest.mark.parametrize("heads", [None, CHOSEN], ids=["all heads", "some heads"])
@pytest.mark.parametrize("mask", list(MASKS))
def test_attention_and_gradient_equal_those_written_out(mask, heads):
    query, key, value = (drawn(PROMPTS, count, TOKENS, DIM) for count in (HEADS, KV_HEADS, KV_HEADS))
    bias = drawn(PROMPTS, TOKENS).requires_grad_()
    with InjectedAttention(bias, ROWS, num_layers=1, heads=heads):
        found = F.scaled_dot_product_attention(query, key, value, **MASKS[mask], enable_gqa=True)
    every = torch.ones(1, HEADS, dtype=torch.bool)
    expected = written_out(query, key, value, bias, every if heads is None else heads, **MASKS[mask])
    torch.testing.assert_close(found, expected)
    weights = drawn(*found.shape)
    of_found, of_expected = (torch.autograd.grad((out * weights).sum(), bias)[0] for out in (found, expected))
    assert of_expected.abs().max() > 0.1
    torch.testing.assert_close(of_found, of_expected)


def test_other_rows_other_heads_and_other_calls_are_left_alone():
    query, key, value = (drawn(PROMPTS, HEADS, TOKENS, DIM) for _ in range(3))
    plain = F.scaled_dot_product_attention(query, key, value)
    with InjectedAttention(drawn(PROMPTS, TOKENS), ROWS, num_layers=1, heads=CHOSEN):
        found = F.scaled_dot_product_attention(query, key, value)
        shorter = F.scaled_dot_product_attention(query, key[:, :, :3], value[:, :, :3])
    changed = (found - plain).abs().amax(dim=-1) > 1e-9
    assert torch.equal(changed, CHOSEN[..., None] & ROWS[:, None])
    assert torch.equal(shorter, F.scaled_dot_product_attention(query, key[:, :, :3], value[:, :, :3]))
    unchosen = InjectedAttention(drawn(PROMPTS, TOKENS), ROWS, num_layers=1, heads=~CHOSEN & CHOSEN)
    with unchosen:
        assert torch.equal(F.scaled_dot_product_attention(query, key, value), plain)


def test_a_reader_that_bypasses_the_function_is_noticed():
    model = tiny_llama(20)
    model.set_attn_implementation("eager")
    ids = torch.tensor([[3, 4, 5]])
    rows = torch.tensor([[False, False, True]])
    with (
        pytest.raises(ValueError, match="saw 0 attention calls where the reader has 2 layers"),
        InjectedAttention(torch.zeros(1, 3), rows, num_layers=2),
    ):
        model(ids)
    with (
        pytest.raises(ValueError, match="saw 2 attention calls where the reader has 1 layers"),
        InjectedAttention(torch.zeros(1, 3), rows, num_layers=1, heads=torch.tensor([[True] * 4])),
    ):
        tiny_llama(20)(ids)
    with (
        pytest.raises(KeyError, match="the reader's own"),
        InjectedAttention(torch.zeros(1, 3), rows, num_layers=2),
    ):
        raise KeyError("the reader's own error is not replaced")
