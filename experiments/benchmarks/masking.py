"""Token scores of likelihoods: what the answer loses when a token is masked, beside a pass for each token.

Of the passages' tokens, as validation measures them (`token_drops=masked`), and of the whole prompt, as
attention that is a share of the prompt's needs them (`masked_prompt`).
"""

from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor

from datamodules.batches import Batch, PromptBatch
from datamodules.prompts import Context, PromptBuilder, Shown
from experiments.benchmarks import made_up
from experiments.benchmarks.comparison import (
    Comparison,
    Setting,
    Size,
    TimesFaster,
    agreement_of,
    in_turns,
)
from lightning_modules.readers.base import log_probs_of
from lightning_modules.readers.decoder_only import DecoderOnlyReader
from lightning_modules.readers.outputs import mean_log_prob
from lightning_modules.token_drops import TokenDrops

_WITHIN = 2e-3
"""Of differences between log-likelihoods that are a hundred times as large."""


def measure(setting: Setting) -> list[Comparison]:
    """Of a question with its passages, each alone."""
    reader, batch = _reader_and_batch(setting)
    prompts = reader.prompts.build(batch, Shown.EACH_ALONE).to(setting.device)
    masks = {TokenDrops.MASKED: prompts.content_mask, TokenDrops.MASKED_PROMPT: prompts.attention_mask}
    works: dict[str, Callable[[], object]] = {}
    agreements = {}
    for how, mask in masks.items():
        works[how] = partial(reader.read_drops, batch, how)
        works[f"{how}, by passes"] = partial(_one_by_one, reader, prompts, mask)
        suite, baseline = reader.read_drops(batch, how).token_scores, _one_by_one(reader, prompts, mask)
        agreements[how] = agreement_of("drops", suite[mask], baseline[mask], _WITHIN)
    took = in_turns(works, setting, is_warm=True)
    of_passages, of_all = took[TokenDrops.MASKED], took[TokenDrops.MASKED_PROMPT]
    each_of_passages, each = (took[f"{how}, by passes"] for how in masks)
    num_prompts, width = prompts.input_ids.shape
    prompts_of = f"{num_prompts} prompts of {width} tokens"
    shown = f"{prompts_of}: the {int(prompts.content_mask.sum())} of passages"
    whole = f"{prompts_of}: all {int(prompts.attention_mask.sum())}"
    agreed, of_whole = agreements[TokenDrops.MASKED], agreements[TokenDrops.MASKED_PROMPT]
    return [
        Comparison(shown, "a pass for each token of the prompts", of_passages, each, TimesFaster(3), agreed),
        Comparison(shown, "a pass for each of them", of_passages, each_of_passages, TimesFaster(3)),
        Comparison(whole, "a pass for each of them", of_all, each, TimesFaster(3), of_whole),
    ]


def _reader_and_batch(setting: Setting) -> tuple[DecoderOnlyReader, Batch]:
    if setting.size is Size.TINY:
        model = made_up.smollm2(setting.device, torch.float32, 2, 32, 4, 2, 48, made_up.VOCABULARY)
        return made_up.decoder_only(model), made_up.made_up_batch(1, num_passages=2, passage_words=8)
    from datamodules import embedded
    from lightning_modules.loading import load_causal_lm

    model, tokenizer = load_causal_lm(embedded.reader_gguf())
    is_full = setting.size is Size.FULL
    prompts = PromptBuilder(tokenizer, Context.INDEPENDENT, max_tokens_per_passage=128 if is_full else 64)
    reader = DecoderOnlyReader(model, prompts).to(setting.device).eval()
    return reader, made_up.made_up_batch(1, num_passages=5 if is_full else 2, answer_words=2)


@torch.no_grad()
def _one_by_one(reader: DecoderOnlyReader, prompts: PromptBatch, mask: Tensor) -> Tensor:
    """As one would write it down: the embedding of each token set to 0, and the pass made again."""
    drops = torch.zeros(prompts.input_ids.shape, device=reader.device)
    for row in range(len(prompts.input_ids)):
        one = prompts.select(torch.tensor([row], device=reader.device))
        embedded = reader.model.get_input_embeddings()(one.input_ids)
        whole = _log_likelihood(reader, one, embedded)
        for place in mask[row].nonzero()[:, 0].tolist():
            masked = embedded.clone()
            masked[0, place] = 0.0
            drops[row, place] = whole - _log_likelihood(reader, one, masked)
    return drops.clamp(min=0.0)


def _log_likelihood(reader: DecoderOnlyReader, prompt: PromptBatch, inputs: Tensor) -> Tensor:
    mask = prompt.attention_mask.long()
    positions = (mask.cumsum(dim=1) - 1).clamp(min=0)
    logits = reader.model(
        inputs_embeds=inputs, attention_mask=mask, position_ids=positions, use_cache=False
    ).logits
    of_labels = log_probs_of(logits[:, :-1], prompt.input_ids[:, 1:])[:, None]
    return mean_log_prob(of_labels, prompt.label_mask[:, :-1])[0, 0]
