"""Decoder-only readers: any causal language model of transformers."""

import inspect
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from transformers import LogitsProcessor, LogitsProcessorList, PreTrainedModel

from datamodules.batches import Passage, PromptBatch, Question
from datamodules.choices import Choice
from datamodules.prompts import Context, PromptBuilder
from lightning_modules.answer_attention import AnswerAttention, padded_positions
from lightning_modules.eval_mode import eval_mode
from lightning_modules.loading import save_pretrained
from lightning_modules.readers.reader import Reader, Reading


class TokenEmbeddings(Choice):
    """Where the indicators take token embeddings from."""

    INPUT = "input"
    CONTEXTUAL = "contextual"


class DecoderOnlyReader(Reader):
    """A causal language model with self-attention over question, passages and answer.

    Args:
        model: loaded with `attn_implementation="sdpa"`.
        prompts: how it sees the passages.

    Raises:
        ValueError: an encoder-decoder model.
    """

    def __init__(self, model: PreTrainedModel, prompts: PromptBuilder) -> None:
        super().__init__()
        if model.config.is_encoder_decoder:
            raise ValueError(
                f"{model.config.model_type} is an encoder-decoder model where a decoder-only reader is "
                "expected"
            )
        self.model: Any = model
        self.prompts = prompts

    @property
    def has_dropout(self) -> bool:
        modules = any(isinstance(m, nn.Dropout) and m.p > 0 for m in self.model.modules())
        # many models keep their rates as plain numbers
        rates = (getattr(self.model.config, name, None) for name in ("attention_dropout", "hidden_dropout"))
        return modules or any(rate is not None and rate > 0 for rate in rates)

    @property
    def device(self) -> torch.device:
        return self.model.device

    def read(
        self,
        questions: Sequence[Question],
        passages: Sequence[Sequence[Passage]],
        answers: Sequence[str],
        order_seed: int = 0,
        with_labels: bool = False,
        embeddings: TokenEmbeddings | str | None = None,
    ) -> Reading:
        """See `Reader.read`. Without labels the vocabulary's projection is not computed at all."""
        batch = self.prompts.build(questions, passages, answers, order_seed).to(self.device)
        wanted = None if embeddings is None else TokenEmbeddings(embeddings)
        label_log_probs: Tensor | None = None
        label_mask: Tensor | None = None
        attention = AnswerAttention(batch.answer_rows_mask, self.model.config.num_hidden_layers)
        with attention:
            if with_labels:
                positions, label_mask = padded_positions(batch.label_mask)
                output = self.model(
                    **self._inputs(batch),
                    logits_to_keep=positions,
                    output_hidden_states=wanted is TokenEmbeddings.CONTEXTUAL,
                )
                labels = batch.input_ids.gather(1, positions + 1)
                label_log_probs = _log_probs_of(output.logits, labels) * label_mask
                hidden = output.hidden_states[-1] if output.hidden_states is not None else None
            else:
                hidden = self.model.base_model(**self._inputs(batch)).last_hidden_state
        token_embeddings = vocabulary = None
        if wanted is TokenEmbeddings.CONTEXTUAL:
            assert hidden is not None
            token_embeddings = hidden.detach().float()
        elif wanted is TokenEmbeddings.INPUT:
            vocabulary = self.model.get_input_embeddings().weight.detach()
        return Reading(
            batch, attention.token_scores(), token_embeddings, vocabulary, label_log_probs, label_mask
        )

    def _inputs(self, batch: PromptBatch) -> dict[str, Tensor | bool]:
        inputs: dict[str, Tensor | bool] = {
            "input_ids": batch.input_ids,
            "attention_mask": batch.attention_mask.long(),
            "use_cache": False,
        }
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
        tokenizer = self.prompts.tokenizer
        processors = LogitsProcessorList()
        copies = 1
        if self.prompts.context is Context.INDEPENDENT:
            copies = batch.num_passages
            processors.append(AverageOverPassages(log_p_retr))
        padding = tokenizer.pad_token_id if tokenizer.pad_token_id is not None else tokenizer.eos_token_id
        with eval_mode(self.model):
            output = self.model.generate(
                input_ids=batch.input_ids,
                attention_mask=batch.attention_mask.long(),
                max_new_tokens=max_new_tokens,
                min_new_tokens=1,
                do_sample=False,
                eos_token_id=self._end_ids(),
                pad_token_id=padding,
                logits_processor=processors,
            )
        new_ids = output[::copies, batch.input_ids.shape[1] :]
        texts = tokenizer.batch_decode(new_ids, skip_special_tokens=True)
        return [text.strip().split("\n")[0].strip() for text in texts]

    def save(self, folder: Path) -> None:
        """See `Reader.save`."""
        save_pretrained(self.model, self.prompts.tokenizer, folder)

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


def _log_probs_of(
    logits: Float[Tensor, "prompts labels vocabulary"], labels: Int[Tensor, "prompts labels"]
) -> Float[Tensor, "prompts labels"]:
    return logits.float().log_softmax(dim=-1).gather(-1, labels[..., None])[..., 0]
