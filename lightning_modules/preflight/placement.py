"""Where in its prompts a reader finds the passages, and where its attention goes."""

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from datamodules.batches import PromptBatch
from lightning_modules.readers.outputs import AttentionOutput
from lightning_modules.scores import sum_by_place


def prompt_positions(prompts: PromptBatch) -> Int[Tensor, "batch passages"]:
    """Where in its prompt each passage stands, 0 = first; 0 for all where prompts hold one each."""
    ranks = torch.arange(prompts.num_passages, device=prompts.block_of_token.device)
    is_of = prompts.block_of_token[:, None] == ranks[:, None]
    first_token = torch.where(is_of.any(dim=-1), is_of.int().argmax(dim=-1), prompts.input_ids.shape[1])
    if len(prompts.question_of_prompt) > prompts.num_questions:
        return torch.zeros_like(first_token).view(prompts.num_questions, -1, prompts.num_passages)[:, 0]
    return first_token.argsort(dim=-1).argsort(dim=-1)


@dataclass(frozen=True)
class AttentionShares:
    """Where in the prompt the answer's attention goes, question by question; the shares sum to 1.

    What goes to solved examples, which are no part of the prompt, is left out.

    Attributes:
        passages: titles and texts.
        first_token: the first token of the prompt, where attention that is meant for nothing often goes.
        rest: template words, the question, the answer's beginning.
    """

    passages: Float[Tensor, " batch"]
    first_token: Float[Tensor, " batch"]
    rest: Float[Tensor, " batch"]


def attention_shares(output: AttentionOutput) -> AttentionShares:
    """Shares of a question's token scores, over all its prompts."""
    prompts, scores = output.prompts, output.token_scores
    is_first = _first_tokens(prompts.attention_mask)
    in_passages = prompts.content_mask & ~is_first
    parts = [
        sum_by_place(
            scores.masked_fill(~mask, 0.0).sum(dim=-1), prompts.question_of_prompt, prompts.num_questions
        )
        for mask in (in_passages, is_first, ~in_passages & ~is_first)
    ]
    total = torch.stack(parts).sum(dim=0)
    return AttentionShares(*(part / total for part in parts))


def _first_tokens(mask: Bool[Tensor, "prompts tokens"]) -> Bool[Tensor, "prompts tokens"]:
    """The first real token of each prompt, whichever side is padded."""
    return mask & (mask.cumsum(dim=1) == 1)
