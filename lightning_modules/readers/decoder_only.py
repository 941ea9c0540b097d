"""Decoder-only readers: any causal language model of transformers."""

import inspect
from collections.abc import Sequence

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from transformers import (
    LogitsProcessor,
    LogitsProcessorList,
    MinNewTokensLengthLogitsProcessor,
    PreTrainedModel,
)

from datamodules.batches import Passage, PromptBatch, Question
from datamodules.prompts import Context, PromptBuilder, Shown
from lightning_modules.answer_attention import AnswerAttention, padded_positions
from lightning_modules.attention_heads import AttentionHeads
from lightning_modules.eval_mode import eval_mode
from lightning_modules.objectives import AnswerLikelihoods, answer_log_likelihood
from lightning_modules.readers.reader import Reader, Reading, TokenEmbeddings, log_probs_of


class DecoderOnlyReader(Reader):
    """A causal language model with self-attention over question, passages and answer.

    Args:
        model: loaded with `attn_implementation="sdpa"`.
        prompts: how it sees the passages.
        attention_heads: the heads whose attention makes the token scores; None = all.

    Raises:
        ValueError: an encoder-decoder model, or one that lacks a chosen head.
    """

    def __init__(
        self, model: PreTrainedModel, prompts: PromptBuilder, attention_heads: AttentionHeads | None = None
    ) -> None:
        if model.config.is_encoder_decoder:
            raise ValueError(
                f"{model.config.model_type} is an encoder-decoder model where a decoder-only reader is "
                "expected"
            )
        super().__init__(model, prompts)
        self.attention_heads = attention_heads
        self._heads = None
        if attention_heads is not None:
            config = model.config
            self._heads = attention_heads.mask(config.num_hidden_layers, config.num_attention_heads)

    @property
    def embedding_matrix(self) -> Float[Tensor, "vocabulary dim"]:
        """See `Reader.embedding_matrix`."""
        return self.model.get_input_embeddings().weight.detach()

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
        """See `Reader.read`. Without labels the vocabulary's projection is not computed at all."""
        batch = self.prompts.build(questions, passages, answers, order_seed).to(self.device)
        num_layers = self.model.config.num_hidden_layers
        attention = AnswerAttention(batch.answer_rows_mask, num_layers, heads=self._heads, by_head=by_head)
        label_log_probs = label_mask = None
        with attention:
            if with_labels:
                hidden, label_log_probs, label_mask = self._score_labels(batch, embeddings=embeddings)
            else:
                hidden = self.model.base_model(**self._inputs(batch)).last_hidden_state
        return Reading(
            batch,
            attention.token_scores(),
            *self._embeddings(hidden, embeddings),
            label_log_probs,
            label_mask,
            attention.row_scores(),
            attention.row_mask,
            head_scores=attention.head_scores() if by_head else None,
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
        """See `Reader.answer_likelihoods`; `independent` readers never see two passages at a time."""
        if self.prompts.context is Context.INDEPENDENT:
            shown = Shown.EACH_ALONE
        batch = self.prompts.build(questions, passages, answers, order_seed, shown).to(self.device)
        _, log_probs, mask = self._score_labels(batch, temperature)
        # the prompts of a question all end with the same answer
        shape = (batch.num_questions, batch.num_passages, -1)
        return AnswerLikelihoods(
            log_probs.view(shape), mask.view(shape)[:, 0], leaves_out=shown is Shown.EACH_LEFT_OUT
        )

    def _embed_each_alone(
        self,
        questions: Sequence[Question],
        passages: Sequence[Sequence[Passage]],
        answers: Sequence[str],
        embeddings: TokenEmbeddings | str | None,
    ) -> tuple[Reading, Float[Tensor, "prompts tokens dim"]]:
        batch = self.prompts.build(questions, passages, answers, shown=Shown.EACH_ALONE).to(self.device)
        inputs = self.model.get_input_embeddings()(batch.input_ids).detach().requires_grad_()
        hidden, log_probs, mask = self._score_labels(batch, inputs=inputs, embeddings=embeddings)
        token_scores = torch.zeros_like(batch.input_ids, dtype=torch.float32)
        return Reading(batch, token_scores, *self._embeddings(hidden, embeddings), log_probs, mask), inputs

    def _log_likelihoods(
        self, reading: Reading, rows: Int[Tensor, " rows"], inputs: Float[Tensor, "rows tokens dim"]
    ) -> Float[Tensor, " rows"]:
        _, log_probs, mask = self._score_labels(reading.prompts.select(rows), inputs=inputs)
        return answer_log_likelihood(log_probs[:, None], mask)[:, 0]

    def _score_labels(
        self,
        batch: PromptBatch,
        temperature: float = 1.0,
        inputs: Float[Tensor, "prompts tokens dim"] | None = None,
        embeddings: TokenEmbeddings | str | None = None,
    ) -> tuple[
        Float[Tensor, "prompts tokens dim"] | None,
        Float[Tensor, "prompts labels"],
        Bool[Tensor, "prompts labels"],
    ]:
        """Last hidden states where contextual embeddings are asked for; the labels' log-probabilities; which
        of them are labels."""
        positions, mask = padded_positions(batch.label_mask)
        output = self.model(
            **self._inputs(batch, inputs),
            logits_to_keep=positions,
            output_hidden_states=embeddings == TokenEmbeddings.CONTEXTUAL,
        )
        labels = batch.input_ids.gather(1, positions + 1)
        hidden = output.hidden_states[-1] if output.hidden_states is not None else None
        return hidden, log_probs_of(output.logits, labels, temperature) * mask, mask

    def _embeddings(
        self, hidden: Tensor | None, wanted: TokenEmbeddings | str | None
    ) -> tuple[Tensor | None, Tensor | None]:
        """Contextual embeddings, and the embedding matrix; None what is not wanted."""
        if wanted is None:
            return None, None
        if TokenEmbeddings(wanted) is TokenEmbeddings.INPUT:
            return None, self.embedding_matrix
        assert hidden is not None
        return hidden.detach().float(), None

    def _inputs(
        self, batch: PromptBatch, embeddings: Float[Tensor, "prompts tokens dim"] | None = None
    ) -> dict[str, Tensor | bool]:
        inputs: dict[str, Tensor | bool] = {
            "attention_mask": batch.attention_mask.long(),
            "use_cache": False,
        }
        if embeddings is None:
            inputs["input_ids"] = batch.input_ids
        else:
            inputs["inputs_embeds"] = embeddings
        if "position_ids" in inspect.signature(self.model.forward).parameters:
            inputs["position_ids"] = (batch.attention_mask.long().cumsum(dim=1) - 1).clamp(min=0)
        return inputs

    def answer_loss(self, reading: Reading, log_p_retr: Float[Tensor, "batch passages"]) -> Float[Tensor, ""]:
        """Loss that trains the reader: mean over questions of the mean label token's negative log-likelihood.

        `concatenated`: of the answer given all passages. `independent`: of the marginal over the passages,
        log sum_i p_RETR(n_i | Q) p(a_t | a_<t, n_i, Q), the distribution that `generate` decodes from
        (REPLUG, and Atlas's EMDR2 per token); no gradient into p_RETR.
        """
        assert reading.label_log_probs is not None, "read with_labels=True"
        assert reading.label_mask is not None
        log_probs, mask = reading.label_log_probs, reading.label_mask
        if self.prompts.context is Context.INDEPENDENT:
            batch, passages = log_p_retr.shape
            # the prompts of a question all end with the same answer
            by_passage = log_probs.view(batch, passages, -1) + log_p_retr.detach()[..., None]
            log_probs, mask = by_passage.logsumexp(dim=1), mask.view(batch, passages, -1)[:, 0]
        per_question = (log_probs * mask).sum(dim=1) / mask.sum(dim=1)
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
        """Greedy answers, up to the end of the line.

        `independent` averages the passages' next-token probabilities, weighted by p_RETR (REPLUG).
        """
        batch = self.prompts.build(questions, passages, None, order_seed).to(self.device)
        if self.prompts.context is Context.INDEPENDENT:
            answers = self._continue(batch, max_new_tokens, AverageOverPassages(log_p_retr))
            return answers[:: batch.num_passages]
        return self._continue(batch, max_new_tokens)

    @torch.no_grad()
    def generate_closed_book(self, questions: Sequence[Question], max_new_tokens: int = 32) -> list[str]:
        """See `Reader.generate_closed_book`."""
        batch = self.prompts.build_closed_book(questions).to(self.device)
        return self._continue(batch, max_new_tokens)

    def _continue(self, batch: PromptBatch, max_new_tokens: int, *processors: LogitsProcessor) -> list[str]:
        """What follows each prompt: one token that does not end the answer, then up to the end of the line.

        Args:
            batch: the prompts.
            max_new_tokens: of an answer.
            processors: of the true probabilities. `min_new_tokens` of transformers would come before them
                and take the end out of what they see.
        """
        tokenizer = self.prompts.tokenizer
        num_tokens = batch.input_ids.shape[1]
        first_token = MinNewTokensLengthLogitsProcessor(
            num_tokens, 1, self._end_ids(), device=str(self.device)
        )
        padding = tokenizer.pad_token_id if tokenizer.pad_token_id is not None else tokenizer.eos_token_id
        with eval_mode(self.model):
            output = self.model.generate(
                input_ids=batch.input_ids,
                attention_mask=batch.attention_mask.long(),
                max_new_tokens=max_new_tokens,
                do_sample=False,
                eos_token_id=self._end_ids(),
                pad_token_id=padding,
                logits_processor=LogitsProcessorList([*processors, first_token]),
            )
        texts = tokenizer.batch_decode(output[:, num_tokens:], skip_special_tokens=True)
        return [text.strip().split("\n")[0].strip() for text in texts]

    def _end_ids(self) -> list[int]:
        """End of sequence, and the end of the line where that is a token of its own."""
        tokenizer = self.prompts.tokenizer
        newline = tokenizer("\n", add_special_tokens=False)["input_ids"]
        return [tokenizer.eos_token_id, *(newline if len(newline) == 1 else [])]


class AverageOverPassages(LogitsProcessor):
    """Makes the prompts of a question's passages decode as one: sum_i p_RETR(n_i | Q) p(token | n_i, ...).

    Args:
        log_p_retr: weights of each question's passages (log).
    """

    def __init__(self, log_p_retr: Float[Tensor, "batch passages"]) -> None:
        self.log_p_retr = log_p_retr

    def __call__(
        self, input_ids: Int[Tensor, "prompts tokens"], scores: Float[Tensor, "prompts vocabulary"]
    ) -> Float[Tensor, "prompts vocabulary"]:
        batch, passages = self.log_p_retr.shape
        log_probs = scores.float().log_softmax(dim=-1).view(batch, passages, -1)
        average = (log_probs + self.log_p_retr[..., None]).logsumexp(dim=1)
        return average.repeat_interleave(passages, dim=0).to(scores.dtype)
