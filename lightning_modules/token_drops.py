"""How much of an answer's likelihood hangs on each token: the token scores of perplexity distillation."""

from collections.abc import Callable
from typing import assert_never

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from datamodules.choices import Choice
from lightning_modules.readers.outputs import EmbeddedPass

_AT_LEAST_AT_ONCE = 16
"""Prompts read again in one pass: what is left of few is too little work for a pass of its own."""


class TokenDrops(Choice):
    """How the drop in the answer's log-likelihood is found when a token's embedding is masked (set to 0)."""

    MASKED = "masked"
    """By masking the passages' tokens one by one: a forward pass for each of them. What stands around the
    passages has no score (NaN)."""
    MASKED_PROMPT = "masked_prompt"
    """By masking every token of the prompt, as attention normalised over the prompt needs."""
    GRADIENT = "gradient"
    """To first order, all tokens from one backward pass. Exact for small changes only, and masking is none:
    on SmolLM2-135M the two do not agree at all (`experiments.benchmarks.token_drops`)."""

    @property
    def needs_gradient(self) -> bool:
        """Whether the pass must record gradients."""
        return self is TokenDrops.GRADIENT

    @property
    def is_of_prompt(self) -> bool:
        """Whether also what stands around the passages has a score."""
        return self is not TokenDrops.MASKED


def drops_of_pass(made: EmbeddedPass, how: TokenDrops) -> Float[Tensor, "prompts tokens"]:
    """The drop of every token of a pass, at least 0; 0 on padding.

    NaN on what stands around the passages where `how` leaves it out: its sum is no total of the prompt.
    """
    tokens = made.prompts.attention_mask
    match how:
        case TokenDrops.MASKED:
            of_passages = made.prompts.content_mask
            drops = drops_by_masking(made.inputs, of_passages, made.log_likelihoods, made.rescore)
            return drops.masked_fill(tokens & ~of_passages, torch.nan)
        case TokenDrops.MASKED_PROMPT:
            return drops_by_masking(made.inputs, tokens, made.log_likelihoods, made.rescore)
        case TokenDrops.GRADIENT:
            (gradients,) = torch.autograd.grad(made.log_likelihoods.sum(), made.inputs)
            drops = first_order_drops(gradients.float(), made.inputs.detach().float())
            return drops.masked_fill(~tokens, 0.0)
        case _:
            assert_never(how)


def first_order_drops(
    gradients: Float[Tensor, "prompts tokens dim"], embeddings: Float[Tensor, "prompts tokens dim"]
) -> Float[Tensor, "prompts tokens"]:
    """How much of the answer's log-likelihood is lost when a token is masked, to first order, at least 0.

    Replacing a token's embedding e by zeros changes the log-likelihood by -gradient . e to first order. For
    perplexity distillation the indicators take the loss for the token score s_t.

    Args:
        gradients: of the answer's log-likelihood with respect to the input embeddings.
        embeddings: the input embeddings e.
    """
    return (gradients * embeddings).sum(dim=-1).clamp(min=0.0)


def drops_by_masking(
    inputs: Float[Tensor, "prompts tokens dim"],
    mask: Bool[Tensor, "prompts tokens"],
    whole: Float[Tensor, " prompts"],
    log_likelihoods_of: Callable[
        [Int[Tensor, " rows"], Float[Tensor, "rows tokens dim"], int], Float[Tensor, " rows"]
    ],
) -> Float[Tensor, "prompts tokens"]:
    """How much of the answer's log-likelihood is lost when a token is masked for real, at least 0.

    Args:
        inputs: input embeddings.
        mask: True = token to be masked; the others' drop is 0.
        whole: log-likelihoods of the answers, nothing masked.
        log_likelihoods_of: of the answers of some prompts, by row, given their input embeddings and the first
            place at which one of them has changed. It is called with as many prompts at a time as there are,
            or with 16 where there are fewer.
    """
    drops = torch.zeros(mask.shape, device=inputs.device)
    masked_tokens = mask.nonzero()
    # in the order of their places: a causal reader has read what stands before them already
    in_order = masked_tokens[masked_tokens[:, 1].argsort(stable=True)]
    at_once = max(len(inputs), _AT_LEAST_AT_ONCE)
    first_places = in_order[::at_once, 1].tolist()  # together: a GPU is waited for
    for of_batch, first in zip(in_order.split(at_once), first_places, strict=True):
        rows, tokens = of_batch.unbind(dim=1)
        masked = inputs[rows]
        masked[torch.arange(len(rows), device=inputs.device), tokens] = 0.0
        drops[rows, tokens] = (whole[rows] - log_likelihoods_of(rows, masked, first)).float()
    return drops.clamp(min=0.0)
