"""Token scores of likelihoods: what the answer loses when a token is masked, beside a pass for each token.

All tokens of a prompt are masked, since the indicators may be asked for attention as a share of the prompt's
(`attention_normalization`), also later, of what was saved. What this takes beyond masking the passages'
tokens alone stands in a row of its own.
"""

from collections.abc import Callable

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
from lightning_modules.token_drops import drops_by_masking

_WITHIN = 2e-3
"""Of differences between log-likelihoods that are a hundred times as large."""


def measure(setting: Setting) -> list[Comparison]:
    """Of a question with its passages, each alone."""
    reader, batch = _reader_and_batch(setting)
    prompts = reader.prompts.build(batch, Shown.EACH_ALONE).to(setting.device)
    suite, baseline = reader.read_drops(batch).token_scores, _one_by_one(reader, prompts)
    agreement = agreement_of("drops", suite, baseline, _WITHIN)
    works: dict[str, Callable[[], object]] = {
        "suite": lambda: reader.read_drops(batch),
        "passages": lambda: _of_passages(reader, batch),
        "baseline": lambda: _one_by_one(reader, prompts),
    }
    took = in_turns(works, setting, is_warm=True)
    what = f"{len(prompts.input_ids)} prompts of {prompts.input_ids.shape[1]} tokens"
    return [
        Comparison(what, "a pass for each token", took["suite"], took["baseline"], TimesFaster(3), agreement),
        Comparison(
            f"{what}, {int(prompts.content_mask.sum())} of passages",
            "masking the passages' alone",
            took["suite"],
            took["passages"],
        ),
    ]


def _reader_and_batch(setting: Setting) -> tuple[DecoderOnlyReader, Batch]:
    if setting.size is Size.TINY:
        model = made_up.smollm2(setting.device, torch.float32, 2, 32, 4, 2, 48, made_up.VOCABULARY)
        return made_up.decoder_only(model), made_up.made_up_batch(1, num_passages=2, passage_words=8)
    from datamodules import embedded
    from lightning_modules.loading import load_causal_lm

    model, tokenizer = load_causal_lm(embedded.reader_gguf())
    is_full = setting.size is Size.FULL
    prompts = PromptBuilder(tokenizer, Context.INDEPENDENT, max_tokens_per_passage=128 if is_full else 40)
    reader = DecoderOnlyReader(model, prompts).to(setting.device).eval()
    return reader, made_up.made_up_batch(1, num_passages=5 if is_full else 2, answer_words=2)


@torch.no_grad()
def _of_passages(reader: DecoderOnlyReader, batch: Batch) -> Tensor:
    made = reader.embed_each_alone(batch)
    return drops_by_masking(made.inputs, made.prompts.content_mask, made.log_likelihoods, made.rescore)


@torch.no_grad()
def _one_by_one(reader: DecoderOnlyReader, prompts: PromptBatch) -> Tensor:
    """As one would write it down: the embedding of each token set to 0, and the pass made again."""
    drops = torch.zeros(prompts.input_ids.shape, device=reader.device)
    for row in range(len(prompts.input_ids)):
        one = prompts.select(torch.tensor([row], device=reader.device))
        embedded = reader.model.get_input_embeddings()(one.input_ids)
        whole = _log_likelihood(reader, one, embedded)
        for place in one.attention_mask[0].nonzero()[:, 0].tolist():
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
