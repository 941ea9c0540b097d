"""Signals: the retriever learns from several signals of one pass, added up."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import ClassVar

import torch
from jaxtyping import Float
from torch import Tensor

from datamodules.batches import Batch, TokenScope
from lightning_modules.objectives.base import Passes, TemperedObjective
from lightning_modules.readers.base import Reader
from lightning_modules.readers.outputs import SignalOutput, TokenOutput
from lightning_modules.scores import PassageTokens, Scale, scaled
from lightning_modules.token_drops import TokenDrops

Weights = tuple[tuple[str, float], ...]

_USUAL = ("answer", "question", "likelihood")
"""What is added up where nothing else is said."""


def _answer(output: SignalOutput, tokens: PassageTokens) -> Float[Tensor, "batch passages"]:
    """Attention of the rows that predict the answer, summed over the passage (Eq. 1)."""
    return tokens.sum(output.token_scores)


def _last(output: SignalOutput, tokens: PassageTokens) -> Float[Tensor, "batch passages"]:
    """Attention of the row that predicts the first answer token alone."""
    return tokens.sum(output.row_scores[:, 0])


def _question(output: SignalOutput, tokens: PassageTokens) -> Float[Tensor, "batch passages"]:
    """Attention of the question's own rows (ICR, QRHead)."""
    return tokens.sum(output.question_scores)


def _likelihood(output: SignalOutput, tokens: PassageTokens) -> Float[Tensor, "batch passages"]:
    """Mean log-probability of an answer token given the passage alone (PDist)."""
    return output.each_alone().mean_log_probs()


SIGNALS: dict[str, Callable[[SignalOutput, PassageTokens], Float[Tensor, "batch passages"]]] = {
    "answer": _answer,
    "question": _question,
    "last": _last,
    "likelihood": _likelihood,
}
"""All signals of one pass by name, each a score of every passage."""


@dataclass(frozen=True)
class Signals(TemperedObjective[SignalOutput]):
    r"""Several signals of one forward pass, each standardised over the passages of its question.

    .. math::
        p_{target}(n_i) = \mathrm{softmax}_i \Big( \sum_j w_j \frac{x_{ij} - \bar x_j}{\sigma_j} / \tau \Big)

    Standardising makes signals of different sizes addable, and a temperature mean the same for every reader.

    Attributes:
        signals: the weight of each signal of `SIGNALS`; given as a mapping, kept as pairs without zeros.
    """

    name: ClassVar[str] = "signals"
    uses_attention: ClassVar[bool] = True

    signals: Weights | Mapping[str, float] = field(default=tuple((name, 1.0) for name in _USUAL))

    def __post_init__(self) -> None:
        super().__post_init__()
        given = dict(self.signals)
        unknown = [name for name in given if name not in SIGNALS]
        if unknown:
            raise ValueError(f"signals: {unknown[0]!r} is unknown; choose of: {', '.join(SIGNALS)}")
        if min(given.values(), default=0.0) < 0:
            raise ValueError("signals: a weight is at least 0")
        used = tuple((name, float(given[name])) for name in SIGNALS if given.get(name))
        if not used:
            raise ValueError(f"signals: give at least one a weight, of: {', '.join(SIGNALS)}")
        object.__setattr__(self, "signals", used)

    @property
    def weights(self) -> dict[str, float]:
        """The weight of each signal that is used."""
        return dict(self.signals)

    def unfit(self, reader: Reader) -> str | None:
        if reader.gives_signals:
            return None
        return (
            "signals come from one pass over each passage alone, with the question in the prompt: "
            "use a decoder-only reader with context independent, or another objective"
        )

    def read(self, reader: Passes, batch: Batch) -> SignalOutput:
        return reader.read_signals(batch)

    def read_tokens(
        self, reader: Passes, batch: Batch, output: SignalOutput, drops: TokenDrops
    ) -> TokenOutput:
        return output

    def passage_scores(
        self, output: SignalOutput, log_p_retr: Float[Tensor, "batch passages"]
    ) -> Float[Tensor, "batch passages"]:
        """The weighted sum of the standardised signals."""
        tokens = PassageTokens.of(output.prompts, TokenScope.PASSAGE)
        parts = [
            weight * scaled(SIGNALS[name](output, tokens), Scale.STANDARDISED)
            for name, weight in self.weights.items()
        ]
        return torch.stack(parts).sum(dim=0)

    def variants(self) -> Sequence["Signals"]:
        """Itself, each signal alone, and sums of two and of three."""
        sums = [*((name,) for name in SIGNALS), ("question", "likelihood"), _USUAL]
        compared = [replace(self, signals=dict.fromkeys(names, 1.0)) for names in sums]
        return [self, *(objective for objective in compared if objective.signals != self.signals)]

    @property
    def details(self) -> tuple[str, ...]:
        parts = [name if weight == 1.0 else f"{weight:g} {name}" for name, weight in self.weights.items()]
        return (" + ".join(parts),)

    @property
    def is_plain(self) -> bool:
        return self.weights == dict.fromkeys(_USUAL, 1.0)

    @property
    def settings(self) -> dict[str, str]:
        return {f"objective.signals.{name}": f"{self.weights.get(name, 0.0):g}" for name in SIGNALS}
