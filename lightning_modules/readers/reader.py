"""What every reader offers: read (score the passages while reading) and generate."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from transformers import PreTrainedModel

from datamodules.batches import Passage, PromptBatch, Question
from datamodules.choices import Choice
from datamodules.prompts import PromptBuilder, Shown
from lightning_modules.attention_heads import AttentionHeads
from lightning_modules.eval_mode import eval_mode, has_dropout
from lightning_modules.loading import save_pretrained
from lightning_modules.objectives import AnswerLikelihoods, answer_log_likelihood
from lightning_modules.token_drops import TokenDrops, drops_by_masking, first_order_drops


class ReaderFamily(Choice):
    """Which readers a model is made into."""

    AUTO = "auto"
    """As the model's configuration says."""
    DECODER_ONLY = "decoder_only"
    FUSION_IN_DECODER = "fusion_in_decoder"


class TokenEmbeddings(Choice):
    """Where the indicators take token embeddings from."""

    INPUT = "input"
    CONTEXTUAL = "contextual"


@dataclass(frozen=True)
class TargetTokens:
    """What an indicator's similarities are with respect to: tokens, for each prompt, in it or outside.

    Attributes:
        ids: token ids.
        mask: True = token of the target.
        embeddings: contextual embeddings, where asked for.
    """

    ids: Int[Tensor, "prompts targets"]
    mask: Bool[Tensor, "prompts targets"]
    embeddings: Float[Tensor, "prompts targets dim"] | None = None


@dataclass(frozen=True)
class Reading:
    """What one forward pass over prompts and their answers gives.

    Attributes:
        prompts: the prompts that were read.
        token_scores: s_t (Eq. 1), float32, without gradient.
        token_embeddings: contextual embeddings, where asked for.
        vocabulary: the reader's input embedding matrix, where asked for.
        label_log_probs: log-probability of each label token (the answer and its end), right-padded with 0;
            None unless asked for. Carries gradient where the reader is trained. One row a prompt, or a
            question where the reader decodes one answer from all its prompts.
        label_mask: True = a label.
        row_scores: s_t by answer row, whose mean over `row_mask` is `token_scores`; None where the token
            scores are no attention.
        row_mask: True = an answer row.
        answer: the answer's tokens where they stand outside the prompts.
        is_fused: whether one softmax runs over all prompts of a question.
        head_scores: s_t by layer and head of the reader, chosen or not, averaged over answer rows; None
            unless asked for.
    """

    prompts: PromptBatch
    token_scores: Float[Tensor, "prompts tokens"]
    token_embeddings: Float[Tensor, "prompts tokens dim"] | None = None
    vocabulary: Float[Tensor, "vocabulary dim"] | None = None
    label_log_probs: Float[Tensor, "answers labels"] | None = None
    label_mask: Bool[Tensor, "answers labels"] | None = None
    row_scores: Float[Tensor, "prompts rows tokens"] | None = None
    row_mask: Bool[Tensor, "prompts rows"] | None = None
    answer: TargetTokens | None = None
    is_fused: bool = False
    head_scores: Float[Tensor, "prompts layers heads tokens"] | None = None


class Reader(nn.Module, ABC):
    """A language model that answers from retrieved passages.

    What the objectives need of it: `read` for ADist, `answer_likelihoods` for PDist, EMDR2 and LOOP.

    Args:
        model: loaded with `attn_implementation="sdpa"`.
        prompts: how it sees the passages.
    """

    model: Any
    prompts: PromptBuilder
    attention_heads: AttentionHeads | None = None

    def __init__(self, model: PreTrainedModel, prompts: PromptBuilder) -> None:
        super().__init__()
        self.model = model
        self.prompts = prompts

    @property
    @abstractmethod
    def embedding_matrix(self) -> Float[Tensor, "vocabulary dim"]:
        """The input embeddings of what reads the passages, without gradient."""

    @property
    def device(self) -> torch.device:
        return self.model.device

    @property
    def has_dropout(self) -> bool:
        """Whether a pass in train mode may differ from one in eval mode."""
        return has_dropout(self.model)

    @abstractmethod
    def read(
        self,
        questions: Sequence[Question],
        passages: Sequence[Sequence[Passage]],
        answers: Sequence[str],
        order_seed: int = 0,
        with_labels: bool = False,
        embeddings: str | None = None,
        by_head: bool = False,
    ) -> Reading:
        """Reads the passages up to the end of the answer, collecting the answer's attention on the way.

        Args:
            questions: B questions.
            passages: K retrieved passages for each, best first.
            answers: the answer A that is scored.
            order_seed: what shuffled passages are permuted by, together with the questions' ids.
            with_labels: also give the log-probabilities of the answer.
            embeddings: `input` (embedding matrix) or `contextual` (last hidden layer) token embeddings;
                None = none.
            by_head: also give the token scores by layer and head.
        """

    @abstractmethod
    def answer_likelihoods(
        self,
        questions: Sequence[Question],
        passages: Sequence[Sequence[Passage]],
        answers: Sequence[str],
        shown: Shown,
        order_seed: int = 0,
        temperature: float = 1.0,
    ) -> AnswerLikelihoods:
        """How likely the answer is given each passage alone, or given all passages but one.

        A reader that never sees two passages at a time answers `EACH_LEFT_OUT` with each alone
        (`AnswerLikelihoods.leaves_out`): `leave_one_out_marginals` makes the one of the other.

        Args:
            questions, passages, answers, order_seed: as in `read`.
            shown: `EACH_ALONE` or `EACH_LEFT_OUT`.
            temperature: what the reader's logits are divided by (Atlas's EMDR2).
        """

    @abstractmethod
    def _embed_each_alone(
        self,
        questions: Sequence[Question],
        passages: Sequence[Sequence[Passage]],
        answers: Sequence[str],
        embeddings: str | None,
    ) -> tuple[Reading, Float[Tensor, "prompts tokens dim"]]:
        """A pass over each passage alone from input embeddings that take gradient, with label_log_probs.

        The reading's token scores are all 0.
        """

    @abstractmethod
    def _log_likelihoods(
        self, reading: Reading, rows: Int[Tensor, " rows"], inputs: Float[Tensor, "rows tokens dim"]
    ) -> Float[Tensor, " rows"]:
        """Mean log-likelihood of the answers of some of its prompts, from other embeddings than their own."""

    def read_drops(
        self,
        questions: Sequence[Question],
        passages: Sequence[Sequence[Passage]],
        answers: Sequence[str],
        embeddings: str | None = None,
        how: TokenDrops | str = TokenDrops.MASKED,
    ) -> Reading:
        """A reading whose token scores are what perplexity distillation looks at, in place of attention.

        s_t is the drop in the answer's mean log-likelihood, given the passage alone, when the token's
        input embedding is masked (set to 0), at least 0. In eval mode, with any grad mode around it; no
        gradient reaches the weights.

        Args:
            questions, passages, answers, embeddings: as in `read`.
            how: by masking each token for real, or to first order.
        """
        is_masked = TokenDrops(how) is TokenDrops.MASKED
        with torch.inference_mode(False), torch.set_grad_enabled(not is_masked), eval_mode(self.model):
            reading, inputs = self._embed_each_alone(questions, passages, answers, embeddings)
            assert reading.label_log_probs is not None
            assert reading.label_mask is not None
            tokens = reading.prompts.attention_mask
            whole = answer_log_likelihood(reading.label_log_probs[:, None], reading.label_mask)[:, 0]
            if is_masked:
                drops = drops_by_masking(inputs, tokens, whole, partial(self._log_likelihoods, reading))
            else:
                (gradients,) = torch.autograd.grad(whole.sum(), inputs)
                drops = first_order_drops(gradients.float(), inputs.detach().float())
                drops = drops.masked_fill(~tokens, 0.0)
        return replace(reading, token_scores=drops, label_log_probs=reading.label_log_probs.detach())

    @abstractmethod
    def answer_loss(self, reading: Reading, log_p_retr: Float[Tensor, "batch passages"]) -> Float[Tensor, ""]:
        """Mean over questions of the mean label token's negative log-likelihood; what the reader learns from.

        Args:
            reading: read `with_labels`, with gradient.
            log_p_retr: weights of the passages where they are read one by one; no gradient flows into them.
        """

    @abstractmethod
    def generate(
        self,
        questions: Sequence[Question],
        passages: Sequence[Sequence[Passage]],
        log_p_retr: Float[Tensor, "batch passages"],
        max_new_tokens: int = 32,
        order_seed: int = 0,
    ) -> list[str]:
        """Greedy answers, one line each."""

    @abstractmethod
    def generate_closed_book(self, questions: Sequence[Question], max_new_tokens: int = 32) -> list[str]:
        """Greedy answers from the questions alone, one line each."""

    def save(self, folder: Path) -> None:
        """Writes model and tokenizer (safetensors) where `lightning_modules.loading` reads them."""
        save_pretrained(self.model, self.prompts.tokenizer, folder)


def log_probs_of(
    logits: Float[Tensor, "answers labels vocabulary"],
    labels: Int[Tensor, "answers labels"],
    temperature: float = 1.0,
) -> Float[Tensor, "answers labels"]:
    """log softmax(logits / temperature) of each label."""
    return (logits.float() / temperature).log_softmax(dim=-1).gather(-1, labels[..., None])[..., 0]
