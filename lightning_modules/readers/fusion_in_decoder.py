"""Fusion-in-Decoder readers: T5 encodes the passages one by one, its decoder attends to all of them."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from transformers import (
    Cache,
    DynamicCache,
    EncoderDecoderCache,
    PreTrainedConfig,
    PreTrainedModel,
    T5ForConditionalGeneration,
)
from transformers.cache_utils import DynamicLayer
from transformers.modeling_outputs import BaseModelOutput

from datamodules.batches import AnswerBatch, Batch, PromptBatch, Question
from datamodules.fusion_prompts import FusionPromptBuilder
from datamodules.prompts import Context, Shown
from lightning_modules.answer_attention import AnswerAttention
from lightning_modules.attention_heads import HeadSource
from lightning_modules.eval_mode import eval_mode
from lightning_modules.loading import load_seq2seq
from lightning_modules.readers.base import Reader, log_probs_of
from lightning_modules.readers.outputs import (
    AnswerLikelihoods,
    AnswerOutput,
    AttentionOutput,
    EmbeddedPass,
    HeadOutput,
    ReaderOutput,
    TargetTokens,
    mean_log_prob,
)


class FusionInDecoderReader(Reader):
    """A T5 whose decoder cross-attends to the concatenated encodings of question + passage (FiD, Atlas).

    The answer rows are all decoder positions that predict a label, the end of the answer included, as in
    Atlas (`src/fid.py`, `aggregate_value`); decoder-only readers leave the end out. T5's attention has no
    1 / sqrt(dim), and no position bias between decoder and encoder.

    Args:
        model: loaded with `attn_implementation="sdpa"`.
        prompts: how it sees the passages.
        attention_heads: the decoder's cross-attention heads that make the token scores; None = all.

    Raises:
        ValueError: another architecture, or a model that lacks a chosen head.
    """

    family: ClassVar[str] = "fusion_in_decoder"

    prompts: FusionPromptBuilder

    def __init__(
        self,
        model: PreTrainedModel,
        prompts: FusionPromptBuilder,
        attention_heads: HeadSource | None = None,
    ) -> None:
        if not isinstance(model, T5ForConditionalGeneration):
            name = type(model).__name__
            raise ValueError(f"a Fusion-in-Decoder reader is built on T5ForConditionalGeneration, not {name}")
        super().__init__(model, prompts, attention_heads)

    @classmethod
    def accepts(cls, config: PreTrainedConfig) -> bool:
        return bool(config.is_encoder_decoder)

    @classmethod
    def load(
        cls,
        name: str | Path,
        attention_heads: HeadSource | None = None,
        dtype: torch.dtype = torch.float32,
        **prompts: Any,
    ) -> "FusionInDecoderReader":
        if prompts.get("examples"):
            raise ValueError(
                "examples can be shown to decoder-only readers alone: Fusion-in-Decoder encodes each passage "
                "by itself; give none, or take another reader"
            )
        model, tokenizer = load_seq2seq(name, dtype)
        # there is one way of showing passages, and no order in which
        left_out = ("context", "passage_order", "examples")
        own = {key: value for key, value in prompts.items() if key not in left_out}
        return cls(model, FusionPromptBuilder(tokenizer, **own), attention_heads)

    @property
    def contexts(self) -> Sequence[Context | None]:
        return [None]

    @property
    def context(self) -> Context | None:
        return None

    @property
    def reads_alone(self) -> bool:
        return False

    @property
    def num_layers_and_heads(self) -> tuple[int, int]:
        return len(self.model.decoder.block), self.model.config.num_heads

    @property
    def embedding_matrix(self) -> Float[Tensor, "vocabulary dim"]:
        """See `Reader.embedding_matrix`."""
        return self.model.encoder.get_input_embeddings().weight.detach()

    # ---- passes ----

    def read(self, batch: Batch) -> AttentionOutput:
        """See `Reader.read`. The decoder ends within the last layer that a chosen head is in.

        The hidden states are the encoder's, which it does not touch; the vocabulary's projection is not
        computed at all.
        """
        return self.read_prompts(*self._tokenised(batch))

    def read_prompts(self, prompts: PromptBatch, labels: AnswerBatch) -> AttentionOutput:
        """`read` of tokenised prompts and answers."""
        encoded = self._encode(prompts)
        states, mask = _concatenate(encoded, prompts)
        attention = self._attention(labels, mask, ends_pass=True)
        with attention:
            self.model.decoder(
                input_ids=self._decoder_inputs(labels),
                encoder_hidden_states=states,
                encoder_attention_mask=mask.long(),
                use_cache=False,
            )
        return AttentionOutput(**self._attended(prompts, labels, encoded, attention))

    def read_answer(self, batch: Batch) -> AnswerOutput:
        """See `Reader.read_answer`."""
        return self.read_answer_prompts(*self._tokenised(batch))

    def read_answer_prompts(self, prompts: PromptBatch, labels: AnswerBatch) -> AnswerOutput:
        """`read_answer` of tokenised prompts and answers."""
        fields, _ = self._answered(prompts, labels)
        return AnswerOutput(**fields)

    def read_heads(self, batch: Batch) -> HeadOutput:
        """See `Reader.read_heads`."""
        return self.read_heads_prompts(*self._tokenised(batch))

    def read_heads_prompts(self, prompts: PromptBatch, labels: AnswerBatch) -> HeadOutput:
        """`read_heads` of tokenised prompts and answers."""
        fields, attention = self._answered(prompts, labels, by_head=True)
        return HeadOutput(**fields, head_scores=_by_prompt(attention.head_scores(), prompts))

    def answer_likelihoods(self, batch: Batch, shown: Shown, temperature: float = 1.0) -> AnswerLikelihoods:
        """See `Reader.answer_likelihoods`. A passage is left out by hiding its encoding from the decoder."""
        return self.prompt_likelihoods(*self._tokenised(batch), shown, temperature)

    def prompt_likelihoods(
        self, prompts: PromptBatch, labels: AnswerBatch, shown: Shown, temperature: float = 1.0
    ) -> AnswerLikelihoods:
        """`answer_likelihoods` of tokenised prompts and answers."""
        encoded = self._encode(prompts)
        if shown is Shown.EACH_LEFT_OUT:
            by_passage = self._likelihoods_without_each(encoded, prompts, labels, temperature)
        else:
            repeated = _repeat(labels, prompts.num_passages)
            logits = self._decode(encoded, prompts.attention_mask, repeated)
            by_passage = log_probs_of(logits, repeated.ids, temperature).unflatten(
                0, (prompts.num_questions, prompts.num_passages)
            )
        by_passage = by_passage.masked_fill(~labels.label_mask[:, None], 0.0)
        return AnswerLikelihoods(by_passage, labels.label_mask, shown is Shown.EACH_LEFT_OUT)

    def embed_each_alone(self, batch: Batch) -> EmbeddedPass:
        """See `Reader.embed_each_alone`."""
        prompts, labels = self._tokenised(batch)
        prompts = replace(prompts, is_fused=False)  # the answer is decoded from one passage at a time
        repeated = _repeat(labels, prompts.num_passages)
        inputs = self.model.encoder.get_input_embeddings()(prompts.input_ids).detach().requires_grad_()

        def log_likelihoods(of: PromptBatch, said: AnswerBatch, given: Tensor) -> tuple[Tensor, Tensor]:
            encoded = self._encode(of, given)
            logits = self._decode(encoded, of.attention_mask, said)
            log_probs = log_probs_of(logits, said.ids) * said.label_mask
            return encoded, mean_log_prob(log_probs[:, None], said.label_mask)[:, 0]

        encoded, whole = log_likelihoods(prompts, repeated, inputs)
        return EmbeddedPass(
            prompts,
            _answer_tokens(repeated),
            encoded.detach(),
            inputs,
            whole,
            # an encoder's tokens all see each other, so all of them are read again
            rescore=lambda rows, given, first: log_likelihoods(
                prompts.select(rows), repeated.select(rows), given
            )[1],
        )

    def embed_answer(self, output: ReaderOutput) -> Float[Tensor, "prompts targets dim"]:
        """See `Reader.embed_answer`: those of the answer encoded alone.

        The decoder's states of it live in another space than the encoder's of the passages.
        """
        times = output.prompts.num_passages
        ids, mask = output.answer.ids[::times], output.answer.token_mask[::times]
        with torch.no_grad():
            states = self.model.encoder(input_ids=ids, attention_mask=mask.long()).last_hidden_state
        return states.repeat_interleave(times, dim=0)

    def _tokenised(self, batch: Batch) -> tuple[PromptBatch, AnswerBatch]:
        prompts = self.prompts.build(batch).to(self.device)
        return prompts, self.prompts.build_answers(batch.answers).to(self.device)

    def _attention(
        self,
        labels: AnswerBatch,
        mask: Bool[Tensor, "batch keys"],
        by_head: bool = False,
        ends_pass: bool = False,
    ) -> AnswerAttention:
        layers = [block.layer[1].EncDecAttention for block in self.model.decoder.block]
        return AnswerAttention(
            labels.label_mask,
            len(layers),
            num_keys=mask.shape[1],
            within=layers,
            heads=self.heads_mask,
            by_head=by_head,
            ends_pass=ends_pass,
        )

    def _answered(
        self, prompts: PromptBatch, labels: AnswerBatch, by_head: bool = False
    ) -> tuple[dict[str, Any], AnswerAttention]:
        """The fields of an `AnswerOutput`, and the attention that was seen."""
        encoded = self._encode(prompts)
        states, mask = _concatenate(encoded, prompts)
        attention = self._attention(labels, mask, by_head)
        with attention:
            logits = self._decode(states, mask, labels)
        fields = self._attended(prompts, labels, encoded, attention)
        fields["label_log_probs"] = log_probs_of(logits, labels.ids) * labels.label_mask
        fields["label_mask"] = labels.label_mask
        return fields, attention

    def _attended(
        self,
        prompts: PromptBatch,
        labels: AnswerBatch,
        encoded: Float[Tensor, "prompts tokens dim"],
        attention: AnswerAttention,
    ) -> dict[str, Any]:
        """The fields of an `AttentionOutput`."""
        return {
            "prompts": prompts,
            "answer": _answer_tokens(_repeat(labels, prompts.num_passages)),
            "hidden": encoded.detach(),
            "token_scores": _by_prompt(attention.token_scores(), prompts),
            "row_scores": _by_prompt(attention.row_scores(), prompts),
            "row_mask": attention.row_mask.repeat_interleave(prompts.num_passages, dim=0),
        }

    def _likelihoods_without_each(
        self,
        encoded: Float[Tensor, "prompts tokens dim"],
        prompts: PromptBatch,
        labels: AnswerBatch,
        temperature: float,
    ) -> Float[Tensor, "batch passages labels"]:
        """One pass of the decoder a question, of whose encodings keys and values are made once."""
        states, mask = _concatenate(encoded, prompts)
        times = prompts.num_passages
        left_out = torch.eye(times, dtype=torch.bool, device=mask.device)[..., None]
        by_question = []
        for question in range(prompts.num_questions):
            row = torch.tensor([question], device=mask.device)
            others = (mask[question].view(times, -1) & ~left_out).flatten(1)
            repeated = _repeat(labels.select(row), times)
            of_question = states[row]
            cache = EncoderDecoderCache(DynamicCache(), self._cross_attention_cache(of_question, times))
            logits = self._decode(of_question.expand(times, -1, -1), others, repeated, cache)
            by_question.append(log_probs_of(logits, repeated.ids, temperature))
        return torch.stack(by_question)

    def _cross_attention_cache(self, states: Float[Tensor, "1 keys dim"], times: int) -> Cache:
        """Keys and values of the encodings in every layer, the same memory for so many rows."""
        layers: list[Any] = []
        for block in self.model.decoder.block:
            attention = block.layer[1].EncDecAttention
            keys, values = (
                project(states).unflatten(-1, (-1, attention.key_value_proj_dim)).transpose(1, 2)
                for project in (attention.k, attention.v)
            )
            layer = DynamicLayer()
            layer.lazy_initialization(keys, values)
            layer.keys, layer.values = (of.expand(times, -1, -1, -1) for of in (keys, values))
            layers.append(layer)
        return Cache(layers=layers)

    def _encode(
        self, prompts: PromptBatch, inputs: Float[Tensor, "prompts tokens dim"] | None = None
    ) -> Float[Tensor, "prompts tokens dim"]:
        """Each prompt by itself, from its tokens or their embeddings."""
        source = {"input_ids": prompts.input_ids} if inputs is None else {"inputs_embeds": inputs}
        mask = prompts.attention_mask.long()
        return self.model.encoder(**source, attention_mask=mask).last_hidden_state

    def _decode(
        self,
        states: Float[Tensor, "batch keys dim"],
        mask: Bool[Tensor, "batch keys"],
        labels: AnswerBatch,
        cache: EncoderDecoderCache | None = None,
    ) -> Float[Tensor, "batch labels vocabulary"]:
        cached = {} if cache is None else {"cache": cache}
        return self.model(
            encoder_outputs=BaseModelOutput(last_hidden_state=states),
            attention_mask=mask.long(),
            decoder_input_ids=self._decoder_inputs(labels),
            use_cache=cache is not None,
            **cached,
        ).logits

    def _decoder_inputs(self, labels: AnswerBatch) -> Tensor:
        """Labels shifted right; padding becomes T5's own."""
        return self.model._shift_right(labels.ids.masked_fill(~labels.label_mask, -100))

    # ---- answers ----

    def answer_loss(
        self, output: AnswerOutput, log_p_retr: Float[Tensor, "batch passages"]
    ) -> Float[Tensor, ""]:
        """Mean over questions of the mean label token's negative log-likelihood, given all passages."""
        per_question = output.label_log_probs.sum(dim=1) / output.label_mask.sum(dim=1)
        return -per_question.mean()

    @torch.no_grad()
    def generate(
        self, batch: Batch, log_p_retr: Float[Tensor, "batch passages"], max_new_tokens: int = 32
    ) -> list[str]:
        """Greedy answers from all passages at once; p_RETR plays no part."""
        return self._answer(self.prompts.build(batch), max_new_tokens)

    @torch.no_grad()
    def generate_closed_book(self, questions: Sequence[Question], max_new_tokens: int = 32) -> list[str]:
        """See `Reader.generate_closed_book`."""
        return self._answer(self.prompts.build_closed_book(questions), max_new_tokens)

    def _answer(self, prompts: PromptBatch, max_new_tokens: int) -> list[str]:
        prompts = prompts.to(self.device)
        with eval_mode(self.model):
            states, mask = _concatenate(self._encode(prompts), prompts)
            # sized by the decoder: the model's own configuration counts the encoder's layers
            caches = [DynamicCache(config=self.model.decoder.config) for _ in range(2)]
            output = self.model.generate(
                encoder_outputs=BaseModelOutput(last_hidden_state=states),
                attention_mask=mask.long(),
                max_new_tokens=max_new_tokens,
                min_new_tokens=1,
                do_sample=False,
                cache=EncoderDecoderCache(*caches),
            )
        texts = self.prompts.tokenizer.batch_decode(output, skip_special_tokens=True)
        return [" ".join(text.split()) for text in texts]


def _concatenate(
    encoded: Float[Tensor, "prompts tokens dim"], prompts: PromptBatch
) -> tuple[Float[Tensor, "batch keys dim"], Bool[Tensor, "batch keys"]]:
    """The encodings of a question's prompts one after the other, and which of their tokens are real."""
    states = encoded.reshape(prompts.num_questions, -1, encoded.shape[-1])
    return states, prompts.attention_mask.reshape(prompts.num_questions, -1)


def _by_prompt(scores: Float[Tensor, "batch *parts keys"], prompts: PromptBatch) -> Tensor:
    """[prompts, *parts, tokens]: what the decoder gave to the concatenated tokens, prompt by prompt."""
    split = scores.unflatten(-1, (prompts.num_passages, -1))
    return split.movedim(-2, 1).flatten(0, 1)


def _answer_tokens(labels: AnswerBatch) -> TargetTokens:
    """The answer beside each prompt."""
    return TargetTokens(labels.ids, labels.target_mask, labels.label_mask)


def _repeat(labels: AnswerBatch, times: int) -> AnswerBatch:
    """Each answer `times` times, once for each prompt of its question."""
    return AnswerBatch(*(tensor.repeat_interleave(times, dim=0) for tensor in vars(labels).values()))
