"""Fusion-in-Decoder readers: T5 encodes the passages one by one, its decoder attends to all of them."""

from collections.abc import Sequence

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from transformers import DynamicCache, EncoderDecoderCache, PreTrainedModel, T5ForConditionalGeneration
from transformers.modeling_outputs import BaseModelOutput

from datamodules.batches import AnswerBatch, Passage, PromptBatch, Question
from datamodules.fusion_prompts import FusionPromptBuilder
from datamodules.prompts import Shown
from lightning_modules.answer_attention import AnswerAttention
from lightning_modules.attention_heads import AttentionHeads
from lightning_modules.eval_mode import eval_mode
from lightning_modules.objectives import AnswerLikelihoods, answer_log_likelihood
from lightning_modules.readers.reader import Reader, Reading, TargetTokens, TokenEmbeddings, log_probs_of


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

    prompts: FusionPromptBuilder

    def __init__(
        self,
        model: PreTrainedModel,
        prompts: FusionPromptBuilder,
        attention_heads: AttentionHeads | None = None,
    ) -> None:
        if not isinstance(model, T5ForConditionalGeneration):
            name = type(model).__name__
            raise ValueError(f"a Fusion-in-Decoder reader is built on T5ForConditionalGeneration, not {name}")
        super().__init__(model, prompts)
        self.attention_heads = attention_heads
        self._heads = None
        if attention_heads is not None:
            self._heads = attention_heads.mask(len(model.decoder.block), model.config.num_heads)

    @property
    def embedding_matrix(self) -> Float[Tensor, "vocabulary dim"]:
        """See `Reader.embedding_matrix`."""
        return self.model.encoder.get_input_embeddings().weight.detach()

    def read(
        self,
        questions: Sequence[Question],
        passages: Sequence[Sequence[Passage]],
        answers: Sequence[str],
        order_seed: int = 0,
        with_labels: bool = False,
        embeddings: TokenEmbeddings | str | None = None,
        by_head: bool = False,
    ) -> Reading:
        """See `Reader.read`; there is no order in which passages are shown."""
        prompts = self.prompts.build(questions, passages).to(self.device)
        labels = self.prompts.build_answers(answers).to(self.device)
        return self.read_prompts(prompts, labels, with_labels, embeddings, by_head)

    def read_prompts(
        self,
        prompts: PromptBatch,
        labels: AnswerBatch,
        with_labels: bool = False,
        embeddings: TokenEmbeddings | str | None = None,
        by_head: bool = False,
    ) -> Reading:
        """`read` of tokenised prompts and answers."""
        encoded = self._encode(prompts)
        states, mask = _concatenate(encoded, prompts)
        layers = [block.layer[1].EncDecAttention for block in self.model.decoder.block]
        attention = AnswerAttention(
            labels.label_mask,
            len(layers),
            num_keys=mask.shape[1],
            within=layers,
            heads=self._heads,
            by_head=by_head,
        )
        label_log_probs = label_mask = None
        with attention:
            if with_labels:
                logits, label_mask = self._decode(states, mask, labels), labels.label_mask
                label_log_probs = log_probs_of(logits, labels.ids) * label_mask
            else:
                self.model.decoder(
                    input_ids=self._decoder_inputs(labels),
                    encoder_hidden_states=states,
                    encoder_attention_mask=mask.long(),
                    use_cache=False,
                )
        row_scores = attention.row_scores()
        return Reading(
            prompts,
            _by_prompt(attention.token_scores(), prompts),
            *self._embeddings(encoded, embeddings),
            label_log_probs,
            label_mask,
            _by_prompt(row_scores, prompts),
            attention.row_mask.repeat_interleave(prompts.num_passages, dim=0),
            self._answer_tokens(labels, prompts.num_passages, embeddings),
            is_fused=True,
            head_scores=_by_prompt(attention.head_scores(), prompts) if by_head else None,
        )

    def answer_likelihoods(
        self,
        questions: Sequence[Question],
        passages: Sequence[Sequence[Passage]],
        answers: Sequence[str],
        shown: Shown,
        order_seed: int = 0,
        temperature: float = 1.0,
    ) -> AnswerLikelihoods:
        """See `Reader.answer_likelihoods`. A passage is left out by hiding its encoding from the decoder."""
        prompts = self.prompts.build(questions, passages).to(self.device)
        labels = self.prompts.build_answers(answers).to(self.device)
        return self.prompt_likelihoods(prompts, labels, shown, temperature)

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

    def _likelihoods_without_each(
        self,
        encoded: Float[Tensor, "prompts tokens dim"],
        prompts: PromptBatch,
        labels: AnswerBatch,
        temperature: float,
    ) -> Float[Tensor, "batch passages labels"]:
        states, mask = _concatenate(encoded, prompts)
        by_passage = []
        for k in range(prompts.num_passages):
            others = mask.unflatten(1, (prompts.num_passages, -1)).clone()
            others[:, k] = False
            logits = self._decode(states, others.flatten(1), labels)
            by_passage.append(log_probs_of(logits, labels.ids, temperature))
        return torch.stack(by_passage, dim=1)

    def _embed_each_alone(
        self,
        questions: Sequence[Question],
        passages: Sequence[Sequence[Passage]],
        answers: Sequence[str],
        embeddings: TokenEmbeddings | str | None,
    ) -> tuple[Reading, Float[Tensor, "prompts tokens dim"]]:
        prompts = self.prompts.build(questions, passages).to(self.device)
        labels = self.prompts.build_answers(answers).to(self.device)
        inputs = self.model.encoder.get_input_embeddings()(prompts.input_ids).detach().requires_grad_()
        encoded = self._encode(prompts, inputs)
        repeated = _repeat(labels, prompts.num_passages)
        logits = self._decode(encoded, prompts.attention_mask, repeated)
        reading = Reading(
            prompts,
            torch.zeros_like(prompts.input_ids, dtype=torch.float32),
            *self._embeddings(encoded, embeddings),
            log_probs_of(logits, repeated.ids) * repeated.label_mask,
            repeated.label_mask,
            answer=self._answer_tokens(labels, prompts.num_passages, embeddings),
        )
        return reading, inputs

    def _log_likelihoods(
        self, reading: Reading, rows: Int[Tensor, " rows"], inputs: Float[Tensor, "rows tokens dim"]
    ) -> Float[Tensor, " rows"]:
        prompts = reading.prompts.select(rows)
        assert reading.answer is not None
        assert reading.label_mask is not None
        target = reading.answer.mask[rows]
        labels = AnswerBatch(reading.answer.ids[rows], reading.label_mask[rows], target, target)
        logits = self._decode(self._encode(prompts, inputs), prompts.attention_mask, labels)
        log_probs = log_probs_of(logits, labels.ids) * labels.label_mask
        return answer_log_likelihood(log_probs[:, None], labels.label_mask)[:, 0]

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
    ) -> Float[Tensor, "batch labels vocabulary"]:
        return self.model(
            encoder_outputs=BaseModelOutput(last_hidden_state=states),
            attention_mask=mask.long(),
            decoder_input_ids=self._decoder_inputs(labels),
            use_cache=False,
        ).logits

    def _decoder_inputs(self, labels: AnswerBatch) -> Tensor:
        """Labels shifted right; padding becomes T5's own."""
        return self.model._shift_right(labels.ids.masked_fill(~labels.label_mask, -100))

    def _embeddings(
        self, encoded: Tensor, wanted: TokenEmbeddings | str | None
    ) -> tuple[Tensor | None, Tensor | None]:
        """Contextual embeddings, and the embedding matrix; None what is not wanted."""
        if wanted is None:
            return None, None
        if TokenEmbeddings(wanted) is TokenEmbeddings.INPUT:
            return None, self.embedding_matrix
        return encoded.detach().float(), None

    def _answer_tokens(
        self, labels: AnswerBatch, num_passages: int, wanted: TokenEmbeddings | str | None
    ) -> TargetTokens:
        """The answer beside each prompt; its contextual embeddings are those of the answer encoded alone.

        The decoder's states of it live in another space than the encoder's of the passages.
        """
        contextual = None
        if wanted is not None and TokenEmbeddings(wanted) is TokenEmbeddings.CONTEXTUAL:
            encoder = self.model.encoder
            with torch.no_grad():
                states = encoder(input_ids=labels.ids, attention_mask=labels.label_mask.long())
            contextual = states.last_hidden_state.float().repeat_interleave(num_passages, dim=0)
        repeated = _repeat(labels, num_passages)
        return TargetTokens(repeated.ids, repeated.target_mask, contextual)

    def answer_loss(self, reading: Reading, log_p_retr: Float[Tensor, "batch passages"]) -> Float[Tensor, ""]:
        """Mean over questions of the mean label token's negative log-likelihood, given all passages."""
        assert reading.label_log_probs is not None, "read with_labels=True"
        assert reading.label_mask is not None
        per_question = reading.label_log_probs.sum(dim=1) / reading.label_mask.sum(dim=1)
        return -per_question.mean()

    @torch.no_grad()
    def generate(
        self,
        questions: Sequence[Question],
        passages: Sequence[Sequence[Passage]],
        log_p_retr: Float[Tensor, "batch passages"],
        max_new_tokens: int = 32,
        order_seed: int = 0,
    ) -> list[str]:
        """Greedy answers from all passages at once; p_RETR plays no part."""
        return self._answer(self.prompts.build(questions, passages), max_new_tokens)

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


def _repeat(labels: AnswerBatch, times: int) -> AnswerBatch:
    """Each answer `times` times, once for each prompt of its question."""
    return AnswerBatch(*(tensor.repeat_interleave(times, dim=0) for tensor in vars(labels).values()))
