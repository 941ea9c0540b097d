"""Decoder-only readers: any causal language model of transformers."""

import contextlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor
from transformers import (
    LogitsProcessor,
    LogitsProcessorList,
    MinNewTokensLengthLogitsProcessor,
    PreTrainedConfig,
    PreTrainedModel,
)

from datamodules.batches import Batch, PromptBatch, Question
from datamodules.prompts import Context, PromptBuilder, Shown
from lightning_modules.answer_attention import AnswerAttention, padded_positions
from lightning_modules.attention_heads import HeadSource
from lightning_modules.eval_mode import eval_mode
from lightning_modules.injected_attention import InjectedAttention
from lightning_modules.loading import load_causal_lm
from lightning_modules.readers.base import Reader, log_probs_of
from lightning_modules.readers.outputs import (
    AnswerLikelihoods,
    AnswerOutput,
    AttentionOutput,
    EmbeddedPass,
    HeadOutput,
    QuestionHeadOutput,
    QuestionOutput,
    ReaderOutput,
    SignalOutput,
    TargetTokens,
    WeightedPass,
    mean_log_prob,
)
from lightning_modules.readers.prefixes import Prefix, ReadPrompts, can_read_again, prefix_of


class DecoderOnlyReader(Reader):
    """A causal language model with self-attention over question, passages and answer.

    Args:
        model: loaded with `attn_implementation="sdpa"`.
        prompts: how it sees the passages.
        attention_heads: the heads whose attention makes the token scores; None = all.

    Raises:
        ValueError: an encoder-decoder model, or one that lacks a chosen head.
    """

    family: ClassVar[str] = "decoder_only"

    def __init__(
        self, model: PreTrainedModel, prompts: PromptBuilder, attention_heads: HeadSource | None = None
    ) -> None:
        if not self.accepts(model.config):
            raise ValueError(
                f"{model.config.model_type} is an encoder-decoder model where a decoder-only reader is "
                "expected"
            )
        super().__init__(model, prompts, attention_heads)

    @classmethod
    def accepts(cls, config: PreTrainedConfig) -> bool:
        return not config.is_encoder_decoder

    @classmethod
    def load(
        cls,
        name: str | Path,
        attention_heads: HeadSource | None = None,
        dtype: torch.dtype = torch.float32,
        **prompts: Any,
    ) -> "DecoderOnlyReader":
        model, tokenizer = load_causal_lm(name, dtype)
        return cls(model, PromptBuilder(tokenizer, **prompts), attention_heads)

    @property
    def contexts(self) -> Sequence[Context | None]:
        return self.prompts.contexts

    @property
    def context(self) -> Context | None:
        return self.prompts.context

    @property
    def reads_alone(self) -> bool:
        return self.prompts.context is Context.INDEPENDENT

    @property
    def gives_signals(self) -> bool:
        return self.reads_alone

    def why_not_sharded(self) -> str | None:
        """See `Reader.why_not_sharded`: it can be."""
        return None

    @property
    def num_layers_and_heads(self) -> tuple[int, int]:
        return self.model.config.num_hidden_layers, self.model.config.num_attention_heads

    @property
    def embedding_matrix(self) -> Float[Tensor, "vocabulary dim"]:
        """See `Reader.embedding_matrix`."""
        return self.model.get_input_embeddings().weight.detach()

    # ---- passes ----

    def read(self, batch: Batch) -> AttentionOutput:
        """See `Reader.read`. The vocabulary's projection is not computed at all."""
        return self.read_prompts(self._prompts(batch))

    def read_prompts(self, prompts: PromptBatch) -> AttentionOutput:
        """`read` of prompts that are built already, on the device of the model."""
        prefix = prefix_of(prompts, self.model)
        attention = self._attention(prompts, prefix)
        with attention:
            hidden = self.model.base_model(**prefix.inputs(prompts)).last_hidden_state
        return AttentionOutput(**self._attended(prompts, hidden[:, prefix.num_rows :], attention))

    def read_attention(self, batch: Batch) -> AttentionOutput:
        """See `Reader.read_attention`. The pass ends within the last layer that a chosen head is in."""
        if self.is_sharded:
            return self.read(batch)
        prompts, attention = self._read_to_last_head(batch)
        return AttentionOutput(**self._attended(prompts, None, attention))

    def read_question_attention(self, batch: Batch) -> QuestionOutput:
        """See `Reader.read_question_attention`. The pass ends as in `read_attention`."""
        if self.is_sharded or not self.reads_alone:
            return self.read_question(batch)
        prompts, attention = self._read_to_last_head(batch, with_question=True)
        fields = self._attended(prompts, None, attention)
        return QuestionOutput(**fields, question_scores=attention.question_scores())

    def _read_to_last_head(
        self, batch: Batch, with_question: bool = False
    ) -> tuple[PromptBatch, AnswerAttention]:
        """A pass that ends within a layer; not of a sharded reader, whose layer would stay whole."""
        prompts = self._prompts(batch)
        prefix = prefix_of(prompts, self.model)
        attention = self._attention(prompts, prefix, with_question=with_question, ends_pass=True)
        with attention:
            self.model.base_model(**prefix.inputs(prompts))
        return prompts, attention

    def read_answer(self, batch: Batch) -> AnswerOutput:
        """See `Reader.read_answer`."""
        prompts = self._prompts(batch)
        prefix = prefix_of(prompts, self.model)
        return AnswerOutput(**self._answered(prompts, prefix, self._attention(prompts, prefix)))

    def read_heads(self, batch: Batch) -> HeadOutput:
        """See `Reader.read_heads`."""
        prompts = self._prompts(batch)
        prefix = prefix_of(prompts, self.model)
        attention = self._attention(prompts, prefix, by_head=True)
        fields = self._answered(prompts, prefix, attention)
        return HeadOutput(**fields, head_scores=attention.head_scores())

    def read_question_heads(self, batch: Batch) -> QuestionHeadOutput:
        """See `Reader.read_question_heads`. The rows are those of the question's last occurrence."""
        prompts = self._prompts(batch)
        prefix = prefix_of(prompts, self.model)
        attention = self._attention(prompts, prefix, by_head=True, with_question=True)
        fields = self._answered(prompts, prefix, attention)
        return QuestionHeadOutput(
            **fields,
            question_scores=attention.question_scores(),
            head_scores=attention.head_scores(),
            question_head_scores=attention.question_head_scores(),
        )

    def read_signals(self, batch: Batch) -> SignalOutput:
        """See `Reader.read_signals`."""
        if not self.reads_alone:
            return super().read_signals(batch)
        prompts = self._prompts(batch)
        prefix = prefix_of(prompts, self.model)
        attention = self._attention(prompts, prefix, with_question=True)
        fields = self._answered(prompts, prefix, attention)
        return SignalOutput(**fields, question_scores=attention.question_scores())

    def read_weighted(self, batch: Batch) -> WeightedPass:
        """See `Reader.read_weighted`."""
        if self.reads_alone:
            return super().read_weighted(batch)
        with torch.inference_mode(False):  # what a backward pass keeps may not be an inference tensor
            prompts = self._prompts(batch)
            is_known = prompts.answer_mask.any(dim=1, keepdim=True)
            labels = torch.where(is_known, prompts.label_mask, prompts.question_rows_mask)
            prompts = replace(prompts, label_mask=labels)
            prefix = prefix_of(prompts, self.model)
            rows_mask = F.pad(prompts.after_passages_mask, (prefix.num_rows, 0))
        num_layers, _ = self.num_layers_and_heads

        def log_probs_at(log_weights: Tensor) -> Tensor:
            # tokens of no passage, -1, get the 0 that is put first
            key_bias = F.pad(log_weights, (1, 0)).gather(1, prompts.block_of_token + 1)
            key_bias = F.pad(key_bias, (prefix.num_keys, 0))
            injected = InjectedAttention(key_bias, rows_mask, num_layers, self.heads_mask)
            with injected, eval_mode(self.model):
                _, log_probs, mask = self._score_labels(prompts, prefix)
            return mean_log_prob(log_probs[:, None], mask)[:, 0]

        return WeightedPass(prompts, log_probs_at)

    def answer_likelihoods(self, batch: Batch, shown: Shown, temperature: float = 1.0) -> AnswerLikelihoods:
        """See `Reader.answer_likelihoods`."""
        if self.reads_alone:
            shown = Shown.EACH_ALONE
        prompts = self._prompts(batch, shown)
        _, log_probs, mask = self._score_labels(prompts, prefix_of(prompts, self.model), temperature)
        # the prompts of a question all end with the same answer
        shape = (prompts.num_questions, prompts.num_passages, -1)
        return AnswerLikelihoods(
            log_probs.view(shape), mask.view(shape)[:, 0], left_out=shown is Shown.EACH_LEFT_OUT
        )

    def embed_each_alone(self, batch: Batch) -> EmbeddedPass:
        """See `Reader.embed_each_alone`."""
        prompts = self._prompts(batch, Shown.EACH_ALONE)
        prefix = prefix_of(prompts, self.model)
        inputs = self.model.get_input_embeddings()(prompts.input_ids).detach().requires_grad_()

        def log_likelihoods(of: PromptBatch, given: Tensor, behind: Prefix) -> tuple[Tensor, Tensor]:
            hidden, log_probs, mask = self._score_labels(of, behind, inputs=given)
            return hidden, mean_log_prob(log_probs[:, None], mask)[:, 0]

        hidden, whole = log_likelihoods(prompts, inputs, prefix)
        return EmbeddedPass(
            prompts,
            answer_tokens(prompts),
            hidden.detach(),
            inputs,
            whole,
            rescore=self._rescored(prompts, prefix, inputs.detach(), log_likelihoods),
        )

    def _rescored(
        self,
        prompts: PromptBatch,
        prefix: Prefix,
        inputs: Float[Tensor, "prompts tokens dim"],
        log_likelihoods: Callable[[PromptBatch, Tensor, Prefix], tuple[Tensor, Tensor]],
    ) -> Callable[[Tensor, Tensor, int], Tensor]:
        """`EmbeddedPass.rescore`: what stands before the first change is read once."""
        if not can_read_again(prefix, self.model):
            return lambda rows, given, first: log_likelihoods(prompts.select(rows), given, prefix)[1]
        # the rows of the answer that stand before a change are looked at too
        first_label = int(prompts.label_mask.int().argmax(dim=1).min())
        kept: list[ReadPrompts] = []

        def rescore(rows: Tensor, given: Tensor, first: int) -> Tensor:
            if not kept:
                kept.append(ReadPrompts(prompts, prefix, self.model, inputs))
            rest = kept[0].again(rows, min(first, first_label))
            return log_likelihoods(prompts.select(rows), given, rest)[1]

        return rescore

    def embed_answer(self, output: ReaderOutput) -> Float[Tensor, "prompts targets dim"]:
        """See `Reader.embed_answer`: the answer stands in the prompt."""
        positions, _ = padded_positions(output.prompts.target_mask)
        hidden = output.last_hidden
        return hidden.gather(1, positions[..., None].expand(-1, -1, hidden.shape[-1]))

    def _prompts(self, batch: Batch, shown: Shown = Shown.ALL) -> PromptBatch:
        return self.prompts.build(batch, shown).to(self.device)

    def _attention(
        self,
        prompts: PromptBatch,
        prefix: Prefix,
        by_head: bool = False,
        with_question: bool = False,
        ends_pass: bool = False,
    ) -> AnswerAttention:
        num_layers, _ = self.num_layers_and_heads
        before = (prefix.num_rows, 0)
        return AnswerAttention(
            F.pad(prompts.answer_rows_mask, before),
            num_layers,
            num_keys=prefix.num_keys + prompts.input_ids.shape[1],
            heads=self.heads_mask,
            by_head=by_head,
            question_mask=F.pad(prompts.question_mask, before) if with_question else None,
            scored_mask=prompts.attention_mask if prefix.num_keys else None,
            ends_pass=ends_pass,
        )

    def _answered(self, prompts: PromptBatch, prefix: Prefix, attention: AnswerAttention) -> dict[str, Any]:
        """The fields of an `AnswerOutput`, from a pass that `attention` watches."""
        with attention:
            hidden, log_probs, mask = self._score_labels(prompts, prefix)
        return {
            **self._attended(prompts, hidden, attention),
            "label_log_probs": log_probs,
            "label_mask": mask,
        }

    def _attended(
        self, prompts: PromptBatch, hidden: Tensor | None, attention: AnswerAttention
    ) -> dict[str, Any]:
        """The fields of an `AttentionOutput`."""
        return {
            "prompts": prompts,
            "answer": answer_tokens(prompts),
            "hidden": None if hidden is None else hidden.detach(),
            "token_scores": attention.token_scores(),
            "row_scores": attention.row_scores(),
            "row_mask": attention.row_mask,
        }

    def _score_labels(
        self,
        prompts: PromptBatch,
        prefix: Prefix,
        temperature: float = 1.0,
        inputs: Float[Tensor, "prompts tokens dim"] | None = None,
    ) -> tuple[
        Float[Tensor, "prompts read dim"], Float[Tensor, "prompts labels"], Bool[Tensor, "prompts labels"]
    ]:
        """Last hidden states of the tokens read; the labels' log-probabilities; which of them are labels."""
        positions, mask = padded_positions(prompts.label_mask)
        with self._last_hidden() as hidden:
            given = prefix.inputs(prompts, inputs)
            output = self.model(**given, logits_to_keep=positions + prefix.num_rows)
        labels = prompts.input_ids.gather(1, positions + 1)
        return (
            hidden[0][:, max(0, prefix.num_rows) :],
            log_probs_of(output.logits, labels, temperature) * mask,
            mask,
        )

    @contextlib.contextmanager
    def _last_hidden(self) -> Iterator[list[Tensor]]:
        """Collects the last hidden states; asked for all of them, transformers would keep every layer's."""
        collected: list[Tensor] = []
        hook = self.model.base_model.register_forward_hook(
            lambda module, args, output: collected.append(output.last_hidden_state)
        )
        try:
            yield collected
        finally:
            hook.remove()

    # ---- answers ----

    def answer_loss(
        self, output: AnswerOutput, log_p_retr: Float[Tensor, "batch passages"]
    ) -> Float[Tensor, ""]:
        """Loss that trains the reader: mean over questions of the mean label token's negative log-likelihood.

        `concatenated`: of the answer given all passages. `independent`: of the marginal over the passages,
        log sum_i p_RETR(n_i | Q) p(a_t | a_<t, n_i, Q), the distribution that `generate` decodes from
        (REPLUG, and Atlas's EMDR2 per token); no gradient into p_RETR.
        """
        log_probs, mask = output.label_log_probs, output.label_mask
        if self.reads_alone:
            batch, passages = log_p_retr.shape
            # the prompts of a question all end with the same answer
            by_passage = log_probs.view(batch, passages, -1) + log_p_retr.detach()[..., None]
            log_probs, mask = by_passage.logsumexp(dim=1), mask.view(batch, passages, -1)[:, 0]
        per_question = (log_probs * mask).sum(dim=1) / mask.sum(dim=1)
        return -per_question.mean()

    @torch.no_grad()
    def generate(
        self, batch: Batch, log_p_retr: Float[Tensor, "batch passages"], max_new_tokens: int = 32
    ) -> list[str]:
        """Greedy answers, up to the end of the line.

        `independent` averages the passages' next-token probabilities, weighted by p_RETR (REPLUG).
        """
        prompts = self.prompts.build(replace(batch, answers=())).to(self.device)
        if self.reads_alone:
            answers = self._continue(prompts, max_new_tokens, AverageOverPassages(log_p_retr))
            return answers[:: prompts.num_passages]
        return self._continue(prompts, max_new_tokens)

    @torch.no_grad()
    def generate_closed_book(self, questions: Sequence[Question], max_new_tokens: int = 32) -> list[str]:
        """See `Reader.generate_closed_book`."""
        prompts = self.prompts.build_closed_book(questions).to(self.device)
        return self._continue(prompts, max_new_tokens)

    def _continue(self, prompts: PromptBatch, max_new_tokens: int, *processors: LogitsProcessor) -> list[str]:
        """What follows each prompt: one token that does not end the answer, then up to the end of the line.

        Args:
            prompts: to continue.
            max_new_tokens: of an answer.
            processors: of the true probabilities. `min_new_tokens` of transformers would come before them
                and take the end out of what they see.
        """
        tokenizer = self.prompts.tokenizer
        padding = tokenizer.pad_token_id if tokenizer.pad_token_id is not None else tokenizer.eos_token_id
        with eval_mode(self.model):
            inputs = prefix_of(prompts, self.model).generation_inputs(prompts)
            num_tokens = inputs["input_ids"].shape[1]
            first_token = MinNewTokensLengthLogitsProcessor(
                num_tokens, 1, self._end_ids(), device=str(self.device)
            )
            output = self.model.generate(
                **inputs,
                max_new_tokens=max_new_tokens,
                do_sample=False,
                eos_token_id=self._end_ids(),
                pad_token_id=padding,
                logits_processor=LogitsProcessorList([*processors, first_token]),
            )
        texts = tokenizer.batch_decode(output[:, num_tokens:], skip_special_tokens=True)
        return [text.strip().split("\n")[0].strip() for text in texts]

    def _end_ids(self) -> list[int]:
        """End of sequence, of a chat's turn, and of the line where that is a token of its own."""
        tokenizer = self.prompts.tokenizer
        newline = tokenizer("\n", add_special_tokens=False)["input_ids"]
        ends = [tokenizer.eos_token_id, self.prompts.end_id, *(newline if len(newline) == 1 else [])]
        return list(dict.fromkeys(ends))


def answer_tokens(prompts: PromptBatch) -> TargetTokens:
    """The answer as it stands in each prompt."""
    positions, genuine = padded_positions(prompts.target_mask)
    return TargetTokens(prompts.input_ids.gather(1, positions), genuine, genuine)


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
