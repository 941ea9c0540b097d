"""ADist: the retriever learns from the attention of the answer (the paper's method)."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import ClassVar

from jaxtyping import Float
from torch import Tensor

from datamodules.batches import Batch, TokenScope
from lightning_modules.objectives.base import Constants, Passes, TemperedObjective
from lightning_modules.readers.outputs import AnswerOutput, AttentionOutput, PassageSignals, TokenOutput
from lightning_modules.scores import (
    PASSAGE_SCORES,
    AttentionDistribution,
    PassageTokens,
    Scale,
    log_p_attn,
)
from lightning_modules.token_drops import TokenDrops

ATLAS_PASSAGE_LENGTH = 256
"""Atlas divides every passage's summed score by this, whatever the passage's length (`src/fid.py`)."""


@dataclass(frozen=True)
class ADist(TemperedObjective[AttentionOutput]):
    r"""Attention: passages that the reader attends to while it answers (Eq. 1).

    .. math:: p_{ATTN}(n_i | Q, A) = \mathrm{softmax}_i \Big( \sum_{t \in n_i} s_t / \tau \Big)

    The paper leaves tau out.

    Attributes:
        passage_score: token scores -> passage score, a name of `PASSAGE_SCORES`.
        token_scope: which tokens count.
        attention_distribution: passage scores -> p_ATTN.
    """

    name: ClassVar[str] = "adist"
    uses_attention: ClassVar[bool] = True

    passage_score: str = "sum"
    token_scope: TokenScope | str = TokenScope.PASSAGE
    attention_distribution: AttentionDistribution | str = AttentionDistribution.SOFTMAX

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.passage_score not in PASSAGE_SCORES:
            known = ", ".join(PASSAGE_SCORES)
            raise ValueError(f"passage_score {self.passage_score!r} is unknown; choose one of: {known}")
        self._choose("token_scope", TokenScope)
        self._choose("attention_distribution", AttentionDistribution)
        if self.attention_distribution is AttentionDistribution.SUM and self.scale is not Scale.RAW:
            raise ValueError(
                "attention_distribution: sum takes shares of raw scores; set scale to raw, or "
                "attention_distribution to softmax"
            )

    def read(self, reader: Passes, batch: Batch) -> AttentionOutput:
        return reader.read(batch)

    def from_student(self, output: AnswerOutput) -> AttentionOutput:
        return output

    def read_tokens(
        self, reader: Passes, batch: Batch, output: AttentionOutput, drops: TokenDrops
    ) -> TokenOutput:
        return output

    def passage_scores(
        self, output: AttentionOutput, log_p_retr: Float[Tensor, "batch passages"]
    ) -> Float[Tensor, "batch passages"]:
        """The sum of s_t over the tokens of n_i, or what `passage_score` says."""
        tokens = PassageTokens.of(output.prompts, TokenScope(self.token_scope))
        return self._with_constants(
            PASSAGE_SCORES[self.passage_score](output.row_scores, output.row_mask, tokens)
        )

    def scores_of_signals(self, signals: PassageSignals) -> Float[Tensor, "batch passages"] | None:
        if self.passage_score != "sum" or self.token_scope is not TokenScope.PASSAGE:
            return None
        return self._with_constants(signals.answer)

    def _with_constants(self, scores: Float[Tensor, "batch passages"]) -> Float[Tensor, "batch passages"]:
        if self.constants is Constants.ATLAS and self.passage_score == "sum":
            return scores / ATLAS_PASSAGE_LENGTH
        return scores

    def log_p_of_scores(self, scores: Float[Tensor, "batch passages"]) -> Float[Tensor, "batch passages"]:
        """log p_ATTN (Eq. 1)."""
        return log_p_attn(self.scaled(scores), self.attention_distribution, self.attention_temperature)

    def at_temperature(self, temperature: float | None) -> TemperedObjective[AttentionOutput]:
        softmax = replace(self, attention_distribution=AttentionDistribution.SOFTMAX)
        return super(ADist, softmax).at_temperature(temperature)

    def variants(self) -> Sequence["ADist"]:
        return [
            replace(self, token_scope=scope, passage_score=how)
            for scope in TokenScope
            for how in PASSAGE_SCORES
        ]

    @property
    def details(self) -> tuple[str, ...]:
        return (self.passage_score, *(["with template"] if self.token_scope is TokenScope.PROMPT else []))

    @property
    def is_plain(self) -> bool:
        return self.details == ("sum",)

    @property
    def settings(self) -> dict[str, str]:
        return {
            "objective.passage_score": self.passage_score,
            "objective.attention_distribution": str(self.attention_distribution),
            "reader.token_scope": str(self.token_scope),
        }
