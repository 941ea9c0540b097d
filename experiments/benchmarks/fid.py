"""Fusion-in-Decoder: what each objective takes of the reader, beside how Atlas takes it.

The model is of T5-small's size with random weights. The baseline is the same model on eager attention, as
Atlas's is: for attention it keeps the matrices of all layers and sums the scores from them; for leave-one-out
it decodes once with all passages and then once without each (Atlas `src/atlas.py`, `eval_score`,
`perplexity_score`, `emdr_score`, `loop_score`). Prompts and labels are tokenised beforehand for both.
"""

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from transformers.modeling_outputs import BaseModelOutput

from datamodules.batches import AnswerBatch, PromptBatch
from datamodules.prompts import Shown
from experiments.benchmarks import made_up
from experiments.benchmarks.comparison import (
    AtMost,
    Comparison,
    Reach,
    Setting,
    Size,
    agreement_of,
    in_turns,
)
from lightning_modules.objectives.emdr2 import log_p_posterior
from lightning_modules.readers.base import log_probs_of
from lightning_modules.readers.fusion_in_decoder import FusionInDecoderReader
from lightning_modules.readers.outputs import mean_log_prob

_WITHIN = 1e-4


@torch.no_grad()
def measure(setting: Setting) -> list[Comparison]:
    """Of five passages of 128 tokens each, and an answer of eight."""
    work = _work(setting)
    ways: list[tuple[str, Callable[[], Tensor], Callable[[], Tensor], Reach | None]] = [
        ("ADist", work.attention, work.attention_as_atlas, AtMost(0.7)),
        ("LOOP", work.without_each, work.without_each_as_atlas, AtMost(0.5)),
        ("PDist", work.each_alone, work.each_alone_as_atlas, None),
        ("EMDR2", work.posterior, work.posterior_as_atlas, None),
    ]
    found = []
    for name, suite, baseline, reach in ways:
        agreement = agreement_of("scores", suite(), baseline(), _WITHIN)
        took = in_turns({"suite": suite, "baseline": baseline}, setting)
        what = f"{name}, {work.what}"
        found.append(Comparison(what, "Atlas's way", took["suite"], took["baseline"], reach, agreement))
    # what every way must do, and the rest of it
    took = in_turns({"suite": work.attention, "encoder": work.encoded}, setting)
    found.append(Comparison(f"ADist, {work.what}", "the encoder alone", took["suite"], took["encoder"]))
    return found


def _work(setting: Setting) -> "_Work":
    small = {"num_layers": 2, "dim": 32, "num_heads": 4, "feed_forward": 48, "vocabulary": made_up.VOCABULARY}
    is_tiny = setting.size is Size.TINY
    model = made_up.t5_small(setting.device, torch.float32, **(small if is_tiny else {}))
    batch = made_up.made_up_batch(1, passage_words=20 if is_tiny else 150)
    reader = made_up.fusion_in_decoder(model)
    prompts = reader.prompts.build(batch).to(setting.device)
    return _Work(reader, prompts, reader.prompts.build_answers(batch.answers).to(setting.device))


@dataclass(frozen=True)
class _Work:
    """A question with its passages, and its answer."""

    reader: FusionInDecoderReader
    prompts: PromptBatch
    labels: AnswerBatch

    @property
    def what(self) -> str:
        passages, tokens = self.prompts.input_ids.shape
        return f"{passages}x{tokens} tokens, {self.labels.ids.shape[1] - 1} of the answer"

    # ---- the suite ----

    def attention(self) -> Tensor:
        """Token scores."""
        return self.reader.read_prompts(self.prompts, self.labels).token_scores

    def encoded(self) -> Tensor:
        """The passages' encodings, without which there is nothing."""
        return self._encoded()

    def without_each(self) -> Tensor:
        """Mean log-likelihoods of the answer, without each passage."""
        return self._likelihoods(Shown.EACH_LEFT_OUT)

    def each_alone(self) -> Tensor:
        """Given each passage alone."""
        return self._likelihoods(Shown.EACH_ALONE)

    def posterior(self) -> Tensor:
        """Which passage the answer's tokens came from."""
        found = self.reader.prompt_likelihoods(self.prompts, self.labels, Shown.EACH_ALONE)
        return log_p_posterior(found.log_probs, found.mask, self._uniform())

    def _likelihoods(self, shown: Shown) -> Tensor:
        found = self.reader.prompt_likelihoods(self.prompts, self.labels, shown)
        return mean_log_prob(found.log_probs, found.mask)

    def _uniform(self) -> Tensor:
        shape = (self.prompts.num_questions, self.prompts.num_passages)
        return torch.zeros(shape, device=self.prompts.input_ids.device).log_softmax(dim=-1)

    # ---- as Atlas does it ----

    def attention_as_atlas(self) -> Tensor:
        """From the matrices of all layers, and the norms of the values."""
        model, values = self.reader.model, []
        hooks = [
            block.layer[1].EncDecAttention.v.register_forward_hook(
                lambda module, args, output: values.append(output)
            )
            for block in model.decoder.block
        ]
        with self._eager():
            encoded = self._encoded(output_attentions=True)
            output = self._decoded(encoded, self._mask(), self.labels, output_attentions=True)
        for hook in hooks:
            hook.remove()
        scores = []
        for attention, of_layer in zip(output.cross_attentions, values, strict=True):
            norms = of_layer.unflatten(-1, (attention.shape[1], -1)).transpose(1, 2).norm(dim=-1)
            scores.append((attention * norms[:, :, None]).mean(dim=(1, 2)))
        return torch.stack(scores).mean(dim=0).view(self.prompts.input_ids.shape)

    def without_each_as_atlas(self) -> Tensor:
        """A pass with all passages, whose encodings are kept, and a decoder's pass without each."""
        with self._eager():
            encoded = self._encoded()
            self._decoded(encoded, self._mask(), self.labels)
            found = []
            for number in range(self.prompts.num_passages):
                others = self.prompts.attention_mask.clone()
                others[number :: self.prompts.num_passages] = False
                logits = self._decoded(encoded, others.view(1, -1), self.labels).logits
                found.append(log_probs_of(logits, self.labels.ids))
        return mean_log_prob(torch.stack(found, dim=1), self.labels.label_mask)

    def each_alone_as_atlas(self) -> Tensor:
        """A pass over each passage."""
        return mean_log_prob(self._each_alone(), self.labels.label_mask)

    def posterior_as_atlas(self) -> Tensor:
        """From the same passes."""
        return log_p_posterior(self._each_alone(), self.labels.label_mask, self._uniform())

    def _each_alone(self) -> Tensor:
        times = self.prompts.num_passages
        ids, label_mask = (
            tensor.repeat_interleave(times, dim=0) for tensor in (self.labels.ids, self.labels.label_mask)
        )
        repeated = AnswerBatch(ids, label_mask, label_mask, label_mask)
        with self._eager():
            encoded = self._encoded()
            by_prompt = encoded.view(*self.prompts.input_ids.shape, -1)
            logits = self._decoded(by_prompt, self.prompts.attention_mask, repeated).logits
        return (
            log_probs_of(logits, ids)
            .unflatten(0, (-1, times))
            .masked_fill(~self.labels.label_mask[:, None], 0.0)
        )

    @contextlib.contextmanager
    def _eager(self) -> Iterator[None]:
        self.reader.model.set_attn_implementation("eager")
        try:
            yield
        finally:
            self.reader.model.set_attn_implementation("sdpa")

    def _mask(self) -> Tensor:
        return self.prompts.attention_mask.view(self.prompts.num_questions, -1)

    def _encoded(self, **asked: bool) -> Tensor:
        """The passages' encodings one after the other."""
        mask = self.prompts.attention_mask.long()
        states = self.reader.model.encoder(input_ids=self.prompts.input_ids, attention_mask=mask, **asked)[0]
        return states.reshape(self.prompts.num_questions, -1, states.shape[-1])

    def _decoded(self, states: Tensor, mask: Tensor, labels: AnswerBatch, **asked: bool) -> Any:
        model = self.reader.model
        return model(
            encoder_outputs=BaseModelOutput(last_hidden_state=states),
            attention_mask=mask.long(),
            decoder_input_ids=model._shift_right(labels.ids.masked_fill(~labels.label_mask, -100)),
            use_cache=False,
            **asked,
        )
