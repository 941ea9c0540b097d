"""What a reader's passes give: one type for each kind of pass."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import ClassVar, NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from datamodules.batches import PromptBatch
from datamodules.choices import Choice


class TokenEmbeddings(Choice):
    """Where the indicators take token embeddings from."""

    INPUT = "input"
    """The reader's embedding matrix."""
    CONTEXTUAL = "contextual"
    """Its last hidden layer."""


@dataclass(frozen=True)
class TargetTokens:
    """What an indicator's similarities are with respect to: tokens, for each prompt.

    Attributes:
        ids: token ids.
        mask: True = token of the target.
        token_mask: True = real token, whether of the target or not (the answer's end is none of its tokens).
    """

    ids: Int[Tensor, "prompts targets"]
    mask: Bool[Tensor, "prompts targets"]
    token_mask: Bool[Tensor, "prompts targets"]


@dataclass(frozen=True)
class ReaderOutput:
    """What every pass over prompts and their answers gives.

    Attributes:
        prompts: the prompts that were read.
        answer: the answer's tokens beside each prompt, the target of Indicator 1.
        hidden: last hidden states of the prompts' tokens, without gradient; None where the pass ended before
            its last layer (`Reader.read_attention`).
    """

    prompts: PromptBatch
    answer: TargetTokens
    hidden: Float[Tensor, "prompts tokens dim"] | None

    @property
    def last_hidden(self) -> Float[Tensor, "prompts tokens dim"]:
        """`hidden`, of a pass that ran to its end."""
        assert self.hidden is not None, "the pass ended before its last layer; `Reader.read` runs to the end"
        return self.hidden


@dataclass(frozen=True)
class AttentionOutput(ReaderOutput):
    """The attention of the answer's rows (Eq. 1), without gradient, float32.

    Attributes:
        token_scores: s_t, the mean over the answer's rows.
        row_scores: s_t by answer row.
        row_mask: True = an answer row; the first column is.
    """

    scores_are: ClassVar[str] = "attention"

    token_scores: Float[Tensor, "prompts tokens"]
    row_scores: Float[Tensor, "prompts rows tokens"]
    row_mask: Bool[Tensor, "prompts rows"]


@dataclass(frozen=True)
class QuestionOutput(AttentionOutput):
    """The attention of the answer's rows and of the question's.

    Attributes:
        question_scores: s_t, the mean over the rows of the question's tokens, without gradient.
    """

    question_scores: Float[Tensor, "prompts tokens"]


@dataclass(frozen=True)
class AnswerOutput(AttentionOutput):
    """Attention, and how likely the answer is.

    Attributes:
        label_log_probs: log-probability of each label token (the answer and its end), right-padded with 0;
            with gradient where the reader is trained. One row a prompt, or a question where the reader
            decodes one answer from all its prompts.
        label_mask: True = a label.
    """

    label_log_probs: Float[Tensor, "answers labels"]
    label_mask: Bool[Tensor, "answers labels"]

    def each_alone(self) -> "AnswerLikelihoods":
        """The likelihoods of a reader that has read each passage in a prompt of its own."""
        shape = (self.prompts.num_questions, self.prompts.num_passages, -1)
        # the prompts of a question all end with the same answer
        return AnswerLikelihoods(self.label_log_probs.view(shape), self.label_mask.view(shape)[:, 0])


@dataclass(frozen=True)
class SignalOutput(AnswerOutput, QuestionOutput):
    """All signals of one pass: the attention of answer and question, and how likely the answer is."""


@dataclass(frozen=True)
class HeadOutput(AnswerOutput):
    """Attention head by head, and how likely the answer is.

    Attributes:
        head_scores: s_t by layer and head of the reader, chosen or not, averaged over answer rows.
    """

    head_scores: Float[Tensor, "prompts layers heads tokens"]


@dataclass(frozen=True)
class QuestionHeadOutput(HeadOutput, SignalOutput):
    """All signals of one pass, and attention head by head of the answer's rows and of the question's.

    Attributes:
        question_head_scores: like `head_scores`, averaged over the rows of the question's tokens.
    """

    question_head_scores: Float[Tensor, "prompts layers heads tokens"]


@dataclass(frozen=True)
class DropOutput(ReaderOutput):
    """What perplexity distillation looks at in place of attention.

    Attributes:
        token_scores: s_t, how much of the answer's log-likelihood is lost without the token, at least 0; NaN
            on what stands around the passages where their tokens alone are scored (`TokenDrops.MASKED`).
    """

    scores_are: ClassVar[str] = "drop in the answer's likelihood without the token"

    token_scores: Float[Tensor, "prompts tokens"]


TokenOutput = AttentionOutput | DropOutput
"""A pass that gives every token a score s_t."""


@dataclass(frozen=True)
class EmbeddedPass(ReaderOutput):
    """A pass over each passage alone from input embeddings that may be changed.

    Attributes:
        inputs: the prompts' input embeddings; they take gradient.
        log_likelihoods: mean log-probability of an answer token, by prompt.
        rescore: the same of some prompts (a prompt more than once if its row comes so), from embeddings that
            differ from `inputs` only from a token on, which is given too.
    """

    inputs: Float[Tensor, "prompts tokens dim"]
    log_likelihoods: Float[Tensor, " prompts"]
    rescore: Callable[[Int[Tensor, " rows"], Float[Tensor, "rows tokens dim"], int], Float[Tensor, " rows"]]


class WeightedLikelihoods(NamedTuple):
    """How likely the answers are under some weights of the passages, and what that owes to each weight.

    Attributes:
        log_weights: logarithms of the weights.
        log_probs: mean log-probability of a label token.
        gradient: of `log_probs`, with respect to `log_weights`.
    """

    log_weights: Float[Tensor, "batch passages"]
    log_probs: Float[Tensor, " batch"]
    gradient: Float[Tensor, "batch passages"]


@dataclass(frozen=True)
class WeightedPass:
    """A pass over all passages of a question together, in which each passage's attention takes a weight.

    Attributes:
        prompts: the prompts, one a question.
        log_probs_at: log-weights of the passages -> mean log-probability of a label token; differentiable.
    """

    prompts: PromptBatch
    log_probs_at: Callable[[Float[Tensor, "batch passages"]], Float[Tensor, " batch"]]
    _made: list[WeightedLikelihoods] = field(default_factory=list, init=False, repr=False, compare=False)

    def at(self, log_weights: Float[Tensor, "batch passages"]) -> WeightedLikelihoods:
        """Makes the pass forward and backward, with any grad mode around it; under the same weights once.

        No gradient reaches the reader's weights, and none is recorded on the result.
        """
        if self._made and torch.equal(self._made[0].log_weights, log_weights):
            return self._made[0]
        with torch.inference_mode(False), torch.enable_grad():
            given = log_weights.detach().clone().requires_grad_()
            log_probs = self.log_probs_at(given)
            (gradient,) = torch.autograd.grad(log_probs.sum(), given)
        self._made[:] = [WeightedLikelihoods(given.detach(), log_probs.detach(), gradient)]
        return self._made[0]


class AnswerLikelihoods(NamedTuple):
    """log p(a_t | a_<t, Q, ...) of each answer token, one time for each retrieved passage.

    Attributes:
        log_probs: given n_i alone, or given all retrieved passages but n_i; anything where `mask` is False.
        mask: True = token of the answer, its end included; the same for all passages.
        left_out: whether n_i is the passage left out; False = n_i is the only one.
    """

    log_probs: Float[Tensor, "batch passages labels"]
    mask: Bool[Tensor, "batch labels"]
    left_out: bool = False

    def mean_log_probs(self) -> Float[Tensor, "batch passages"]:
        """Mean log-probability of an answer token; with n_i alone the score of PDist."""
        return mean_log_prob(self.log_probs, self.mask)


class PassageSignals(NamedTuple):
    """What one pass says of each passage, with some of the reader's heads.

    Attributes:
        answer: sum of s_t over the passage (Eq. 1), of the rows that predict the answer.
        question: the same of the question's own rows; None where the reader gives none.
        likelihood: mean log-probability of an answer token given the passage alone; None where that takes
            a pass of its own.
    """

    answer: Float[Tensor, "batch passages"]
    question: Float[Tensor, "batch passages"] | None = None
    likelihood: Float[Tensor, "batch passages"] | None = None


def mean_log_prob(
    log_probs: Float[Tensor, "batch passages labels"], mask: Bool[Tensor, "batch labels"]
) -> Float[Tensor, "batch passages"]:
    """Mean log-probability of an answer token (Atlas `src/atlas.py`, `perplexity_score`).

    Example:
        >>> import torch
        >>> mean_log_prob(torch.tensor([[[-1.0, -3.0, -9.0]]]), torch.tensor([[True, True, False]]))
        tensor([[-2.]])
    """
    return log_probs.masked_fill(~mask[:, None], 0.0).sum(dim=-1) / mask.sum(dim=-1)[:, None]
