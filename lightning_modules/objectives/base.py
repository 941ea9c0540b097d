"""What every objective is: what it needs of the reader, its passage scores, its target, its loss."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import ClassVar, Generic, Protocol, TypeVar, assert_never, runtime_checkable

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from datamodules.answer_matching import AnswerMatch
from datamodules.batches import Batch, Passage, Question
from datamodules.choices import Choice
from datamodules.prompts import Shown
from lightning_modules.head_lists import HeadRows
from lightning_modules.metrics.indicators import AttentionNormalization
from lightning_modules.readers.base import Reader
from lightning_modules.readers.outputs import (
    AnswerLikelihoods,
    AnswerOutput,
    AttentionOutput,
    PassageSignals,
    QuestionOutput,
    SignalOutput,
    TokenOutput,
    WeightedPass,
)
from lightning_modules.scores import Scale, scaled
from lightning_modules.token_drops import TokenDrops

OutputT = TypeVar("OutputT")


@runtime_checkable
class Passes(Protocol):
    """The passes of a reader that objectives ask for: a `Reader`, or what keeps its outputs."""

    def read(self, batch: Batch) -> AttentionOutput: ...

    def answer_likelihoods(
        self, batch: Batch, shown: Shown, temperature: float = 1.0
    ) -> AnswerLikelihoods: ...

    def read_signals(self, batch: Batch) -> SignalOutput: ...

    def read_question(self, batch: Batch) -> QuestionOutput: ...

    def read_weighted(self, batch: Batch) -> WeightedPass: ...

    def read_drops(self, batch: Batch, how: TokenDrops = TokenDrops.MASKED) -> TokenOutput: ...


class TeachingPasses:
    """The passes of a reader for a training step, which looks at no hidden states.

    `read` and `read_question` end where the last chosen head is: the token scores are those of whole passes.

    Args:
        reader: that makes the passes; None where the objective asks for none.
    """

    def __init__(self, reader: Reader | None) -> None:
        self.reader: Reader = reader  # type: ignore[assignment]

    def read(self, batch: Batch) -> AttentionOutput:
        """See `Reader.read_attention`."""
        return self.reader.read_attention(batch)

    def answer_likelihoods(self, batch: Batch, shown: Shown, temperature: float = 1.0) -> AnswerLikelihoods:
        """See `Reader.answer_likelihoods`."""
        return self.reader.answer_likelihoods(batch, shown, temperature)

    def read_signals(self, batch: Batch) -> SignalOutput:
        """See `Reader.read_signals`."""
        return self.reader.read_signals(batch)

    def read_question(self, batch: Batch) -> QuestionOutput:
        """See `Reader.read_question_attention`."""
        return self.reader.read_question_attention(batch)

    def read_weighted(self, batch: Batch) -> WeightedPass:
        """See `Reader.read_weighted`."""
        return self.reader.read_weighted(batch)

    def read_drops(self, batch: Batch, how: TokenDrops = TokenDrops.MASKED) -> TokenOutput:
        """See `Reader.read_drops`."""
        return self.reader.read_drops(batch, how)


class Constants(Choice):
    """Which scale factors stand in Eq. 1, Eq. 2 and the losses."""

    PLAIN = "plain"
    """None: scores as in the equations, losses averaged over questions."""
    ATLAS = "atlas"
    """Passage scores / 256, retriever scores / sqrt(dim), KL averaged over all B * K elements, EMDR2 over
    all answer tokens of the batch."""


class Cost(Choice):
    """What an objective costs beside one pass over the prompts."""

    NOTHING = "nothing"
    """It needs no more than that pass, if it needs one at all."""
    EACH_ALONE = "each_alone"
    """A pass over each passage alone, where the prompts show several."""
    EACH_LEFT_OUT = "each_left_out"
    """K passes, each over all passages but one, where the prompts show several."""
    BACKWARD = "backward"
    """A pass over the prompts forward and backward, of its own."""


@dataclass(frozen=True)
class Objective(ABC, Generic[OutputT]):
    r"""What of the reader the retriever learns from, as a distribution over the retrieved passages.

    .. math:: L = \mathrm{KL}(p_{target} \,\|\, p_{RETR})

    p_target is p_ATTN (Eq. 1) for ADist. An objective is its settings: equal settings, equal objective.

    Attributes:
        constants: scale factors, `plain` or `atlas`.
    """

    name: ClassVar[str]
    """What `objective.name` calls it."""
    loss_name: ClassVar[str] = "kl"
    """What the retriever's loss is logged as."""
    cost: ClassVar[Cost] = Cost.NOTHING
    """Of its passes."""
    fewest_passages: ClassVar[int] = 1
    """K must be at least this."""
    uses_reader: ClassVar[bool] = True
    """Whether it teaches what the reader does; False = it needs no pass."""
    knows_answers: ClassVar[bool] = False
    """Whether it is told which passages are positive: a limit, which nothing can be compared with."""
    takes_others: ClassVar[bool] = True
    """Whether p_RETR may be over the passages of other questions too (`in_batch`)."""
    brings_passages: ClassVar[bool] = False
    """Whether it says itself which passages a step is about (`passages_of`)."""
    uses_attention: ClassVar[bool] = False
    """Whether attention teaches, and so whose (`attention_heads`)."""

    constants: Constants | str = Constants.PLAIN

    def __post_init__(self) -> None:
        self._choose("constants", Constants)

    @property
    def needs_answers(self) -> bool:
        """Whether a question without an answer teaches nothing by it."""
        return self.uses_reader or self.knows_answers

    @classmethod
    def averages_over_questions(cls, constants: Constants | str) -> bool:
        """Whether the loss of a batch is the mean of those of its questions, so that parts add up to it."""
        return True

    def judged_by(self, match: AnswerMatch | str) -> "Objective[OutputT]":
        """The same, told when a passage holds an answer; unchanged where it does not ask."""
        return self

    def _choose(self, name: str, choice: type[Choice]) -> None:
        """Makes a field that was given as text the choice that it names."""
        object.__setattr__(self, name, choice(getattr(self, name)))

    def unfit(self, reader: Reader) -> str | None:
        """Why it cannot learn from a reader as that is shown the passages, and what can be; None = it can."""
        return None

    def passages_of(self, question: Question) -> Sequence[Passage]:
        """The passages that it teaches about, of which a step takes K, where it `brings_passages`."""
        raise NotImplementedError

    # ---- the passes ----

    @abstractmethod
    def read(self, reader: Passes, batch: Batch) -> OutputT:
        """The pass that it needs; eval mode and gradients are the caller's."""

    def from_student(self, output: AnswerOutput) -> OutputT | None:
        """What it needs, taken from the pass that trains the reader; None = it needs a pass of its own."""
        return None

    def read_tokens(self, reader: Passes, batch: Batch, output: OutputT, drops: TokenDrops) -> TokenOutput:
        """The pass whose token scores say what it looks at: what the indicators are computed from.

        Args:
            reader, batch: as in `read`.
            output: of `read`, which may be that pass already.
            drops: how drops in likelihood are found, where likelihoods teach.
        """
        return reader.read(batch)

    @classmethod
    def scores_prompt(cls, drops: TokenDrops) -> bool:
        """Whether `read_tokens` also scores what stands around the passages."""
        return True

    # ---- the target ----

    @abstractmethod
    def passage_scores(
        self, output: OutputT, log_p_retr: Float[Tensor, "batch passages"]
    ) -> Float[Tensor, "batch passages"]:
        """What the target is a softmax of, before any temperature.

        Args:
            output: of `read`.
            log_p_retr: log p_RETR of the same passages, for objectives that weigh by it; no gradient.
        """

    @abstractmethod
    def log_p_of_scores(self, scores: Float[Tensor, "batch passages"]) -> Float[Tensor, "batch passages"]:
        """Passage scores as a log-distribution over the passages of each question."""

    def scaled(self, scores: Float[Tensor, "batch passages"]) -> Float[Tensor, "batch passages"]:
        """Passage scores as a temperature divides them, where there is one."""
        return scores

    @torch.no_grad()
    def log_p_target(
        self, output: OutputT, log_p_retr: Float[Tensor, "batch passages"]
    ) -> Float[Tensor, "batch passages"]:
        """The target over the retrieved passages, log p_ATTN (Eq. 1) for ADist; without gradient."""
        return self.log_p_of_scores(self.passage_scores(output, log_p_retr))

    # ---- the loss ----

    def loss(
        self,
        log_p_target: Float[Tensor, "batch passages"],
        log_p_retr: Float[Tensor, "batch passages"],
        output: OutputT,
    ) -> Float[Tensor, ""]:
        """KL(p_target || p_RETR); no gradient into the target, so none into the reader."""
        return kl_divergence(log_p_target, log_p_retr, self.constants)

    # ---- what the pre-flight check compares ----

    @property
    def temperature(self) -> float | None:
        """What its scores are divided by; None where there is nothing to choose."""
        return None

    def at_temperature(self, temperature: float | None) -> "Objective[OutputT]":
        """The same with a softmax of its scores divided by another temperature; unchanged without one."""
        assert temperature is None, f"{self.name} has no temperature"
        return self

    def variants(self) -> Sequence["Objective"]:
        """Itself, and other settings worth comparing that need the same pass."""
        return [self]

    @property
    def head_rows(self) -> HeadRows:
        """By whose attention its heads are chosen, where attention teaches."""
        return HeadRows.ANSWER

    def scores_of_signals(self, signals: PassageSignals) -> Float[Tensor, "batch passages"] | None:
        """`passage_scores` of a reader with some heads alone, from what these say of the passages.

        None = that is not enough for them, or they look at no attention.
        """
        return None

    @property
    def details(self) -> tuple[str, ...]:
        """Those of its settings that make another order of the passages, in words; none = the usual ones."""
        return ()

    @property
    def is_plain(self) -> bool:
        """Whether the settings behind `details` are the usual ones."""
        return True

    @property
    def settings(self) -> dict[str, str]:
        """Keys of an experiment's configuration and their values, beside its name, that make it."""
        return {}


@dataclass(frozen=True)
class TemperedObjective(Objective[OutputT]):
    """An objective whose target is softmax(score / tau).

    Attributes:
        attention_temperature: tau, Atlas's `temperature_gold`.
        scale: what is done to the scores of each question before.
    """

    attention_temperature: float = 1.0
    scale: Scale | str = Scale.RAW

    def __post_init__(self) -> None:
        super().__post_init__()
        self._choose("scale", Scale)

    def scaled(self, scores: Float[Tensor, "batch passages"]) -> Float[Tensor, "batch passages"]:
        """Passage scores as the temperature divides them."""
        return scaled(scores, self.scale)

    def log_p_of_scores(self, scores: Float[Tensor, "batch passages"]) -> Float[Tensor, "batch passages"]:
        """log softmax(score / tau) (Atlas `src/atlas.py`, `kldivloss`)."""
        return (self.scaled(scores) / self.attention_temperature).log_softmax(dim=-1)

    @property
    def temperature(self) -> float | None:
        return self.attention_temperature

    def at_temperature(self, temperature: float | None) -> "TemperedObjective[OutputT]":
        assert temperature is not None, f"{self.name} has a temperature"
        return replace(self, attention_temperature=temperature)


@dataclass(frozen=True)
class LikelihoodObjective(Objective[AnswerLikelihoods]):
    """An objective that looks at how likely the answer is; its token scores are drops in that likelihood."""

    shown: ClassVar[Shown] = Shown.EACH_ALONE
    """Which of the passages the likelihoods are given."""

    def read(self, reader: Passes, batch: Batch) -> AnswerLikelihoods:
        return reader.answer_likelihoods(batch, self.shown)

    def read_tokens(
        self, reader: Passes, batch: Batch, output: AnswerLikelihoods, drops: TokenDrops
    ) -> TokenOutput:
        return reader.read_drops(batch, drops)

    @classmethod
    def scores_prompt(cls, drops: TokenDrops) -> bool:
        return drops.is_of_prompt


def check_prompt_total(
    objective: type[Objective],
    attention_normalization: AttentionNormalization | str,
    token_drops: TokenDrops | str,
) -> None:
    """Attention that is a share of the prompt's needs a score for every token of the prompt.

    Raises:
        ValueError: passages' tokens alone would have one.
    """
    if AttentionNormalization(attention_normalization) is not AttentionNormalization.PROMPT:
        return
    if not objective.scores_prompt(TokenDrops(token_drops)):
        raise ValueError(
            "attention_normalization=prompt needs a score for every token of the prompt, and of "
            f"{objective.name}'s likelihoods token_drops={token_drops} scores the passages' alone; set "
            "token_drops=masked_prompt"
        )


def kl_divergence(
    log_p_target: Float[Tensor, "batch passages"],
    log_p_retr: Float[Tensor, "batch passages"],
    constants: Constants | str = Constants.PLAIN,
) -> Float[Tensor, ""]:
    """KL(target || p_RETR), no gradient into the target.

    Args:
        log_p_target: log of the reader's distribution over the retrieved passages.
        log_p_retr: log of the retriever's.
        constants: `plain` sums over passages and averages over questions; `atlas` averages over both
            (`src/atlas.py`, `kldivloss`), which is K times smaller.
    """
    total = F.kl_div(log_p_retr, log_p_target.detach(), reduction="sum", log_target=True)
    constants = Constants(constants)
    match constants:
        case Constants.PLAIN:
            return total / len(log_p_retr)
        case Constants.ATLAS:
            return total / log_p_retr.numel()
        case _:
            assert_never(constants)
