"""Signals: the retriever learns from several signals of one pass, added up."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import ClassVar

import torch
from jaxtyping import Float
from torch import Tensor

from datamodules.batches import Batch
from lightning_modules.calibration import Calibration, Reference
from lightning_modules.head_lists import HeadRows
from lightning_modules.objectives.base import Passes, TemperedObjective
from lightning_modules.readers.base import Reader
from lightning_modules.readers.outputs import PassageSignals, QuestionOutput, SignalOutput, TokenOutput
from lightning_modules.scores import Scale, scaled
from lightning_modules.token_drops import TokenDrops

Weights = tuple[tuple[str, float], ...]

_USUAL = ("answer", "question", "likelihood")
"""What is added up where nothing else is said."""
_FOUND_BEST = ("question", "likelihood")
"""With chosen heads, of what this suite has trained from (docs/teachers.md)."""


ATTENTION: dict[str, Callable[[QuestionOutput], Float[Tensor, "prompts tokens"]]] = {
    "answer": lambda output: output.token_scores,
    "question": lambda output: output.question_scores,
    "last": lambda output: output.row_scores[:, 0],
}
"""Whose attention a signal is, as token scores whose sum over a passage is its score (Eq. 1).

`answer`: the rows that predict the answer (the paper); `question`: the question's own rows (ICR, QRHead),
which need no answer; `last`: the row that predicts the first answer token, which needs none either.
"""
LIKELIHOOD = "likelihood"
"""The signal that is no attention: mean log-probability of an answer token given the passage (PDist)."""
SIGNALS = (*ATTENTION, LIKELIHOOD)
"""All signals of one pass by name."""
_NEED_ANSWERS = ("answer", LIKELIHOOD)


@dataclass(frozen=True)
class SignalPasses:
    """The pass over questions with their passages, and those that it is calibrated by.

    Attributes:
        output: of the questions themselves; a `SignalOutput` where the likelihood is weighed.
        references: of what else was asked of the same passages; attention alone is calibrated.
    """

    output: QuestionOutput
    references: tuple[QuestionOutput, ...] = ()


@dataclass(frozen=True)
class Signals(TemperedObjective[SignalPasses]):
    r"""Several signals of one forward pass, each standardised over the passages of its question.

    .. math::
        p_{target}(n_i) = \mathrm{softmax}_i \Big( \sum_j w_j \frac{x_{ij} - \bar x_j}{\sigma_j} / \tau \Big)

    Standardising makes signals of different sizes addable, and a temperature mean the same for every reader.

    Attributes:
        signals: the weight of each signal of `SIGNALS`; given as a mapping, kept as pairs without zeros.
        calibration: of the signals that are attention.
    """

    name: ClassVar[str] = "signals"
    uses_attention: ClassVar[bool] = True

    signals: Weights | Mapping[str, float] = field(default=tuple((name, 1.0) for name in _USUAL))
    calibration: Calibration | Mapping[str, object] = field(default_factory=Calibration)

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
        object.__setattr__(self, "calibration", Calibration.of(self.calibration))

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

    @property
    def needs_answers(self) -> bool:
        return any(name in _NEED_ANSWERS for name in self.weights)

    def read(self, reader: Passes, batch: Batch) -> SignalPasses:
        references = [reader.read_question(other) for other in self.calibrated_by.batches(batch)]
        read = reader.read_signals if LIKELIHOOD in self.weights else reader.read_question
        return SignalPasses(read(batch), tuple(references))

    def read_tokens(
        self, reader: Passes, batch: Batch, output: SignalPasses, drops: TokenDrops
    ) -> TokenOutput:
        return output.output

    def passage_scores(
        self, output: SignalPasses, log_p_retr: Float[Tensor, "batch passages"]
    ) -> Float[Tensor, "batch passages"]:
        """The weighted sum of the standardised signals."""
        return self._sum({name: self._signal(name, output) for name in self.weights})

    def _sum(self, signals: Mapping[str, Float[Tensor, "batch passages"]]) -> Float[Tensor, "batch passages"]:
        parts = [weight * scaled(signals[name], Scale.STANDARDISED) for name, weight in self.weights.items()]
        return torch.stack(parts).sum(dim=0)

    @property
    def head_rows(self) -> HeadRows:
        """The question's where they teach, since choosing pays there."""
        return HeadRows.QUESTION if "question" in self.weights else HeadRows.ANSWER

    def scores_of_signals(self, signals: PassageSignals) -> Float[Tensor, "batch passages"] | None:
        is_calibrated = self.calibrated_by.reference is not Reference.NONE
        if is_calibrated or not any(name in ATTENTION for name in self.weights):
            return None
        known = {name: value for name, value in signals._asdict().items() if value is not None}
        return self._sum(known) if self.weights.keys() <= known.keys() else None

    def _signal(self, name: str, passes: SignalPasses) -> Float[Tensor, "batch passages"]:
        if name == LIKELIHOOD:
            assert isinstance(passes.output, SignalOutput), "`read` makes the whole pass where it is weighed"
            return passes.output.each_alone().mean_log_probs()
        token_scores = ATTENTION[name]
        return self.calibrated_by.passage_scores(
            token_scores(passes.output),
            passes.output.prompts,
            [(token_scores(reference), reference.prompts) for reference in passes.references],
        )

    @property
    def calibrated_by(self) -> Calibration:
        """`calibration`, as it is kept."""
        return Calibration.of(self.calibration)

    def variants(self) -> Sequence["Signals"]:
        """Itself, each signal alone, and sums of two and of three."""
        sums = [*((name,) for name in SIGNALS), _FOUND_BEST, _USUAL]
        compared = [replace(self, signals=dict.fromkeys(names, 1.0)) for names in sums]
        return [self, *(objective for objective in compared if objective.signals != self.signals)]

    def calibrated(self, unrelated: Sequence[tuple[str, str]] = ()) -> Sequence["Signals"]:
        """The answer's rows, the question's, and the usual sums, calibrated in every way by more passes.

        Args:
            unrelated: (question, answer) pairs to calibrate by.
        """
        sums = [("answer",), ("question",), _FOUND_BEST, _USUAL]
        return [
            replace(self, signals=dict.fromkeys(names, 1.0), calibration=calibration)
            for calibration in Calibration.compared(unrelated)
            for names in sums
        ]

    @property
    def details(self) -> tuple[str, ...]:
        parts = [name if weight == 1.0 else f"{weight:g} {name}" for name, weight in self.weights.items()]
        return (" + ".join(parts), *self.calibrated_by.details)

    @property
    def is_plain(self) -> bool:
        is_calibrated = self.calibrated_by.reference is not Reference.NONE
        return self.weights == dict.fromkeys(_USUAL, 1.0) and not is_calibrated

    @property
    def settings(self) -> dict[str, str]:
        weights = {f"objective.signals.{name}": f"{self.weights.get(name, 0.0):g}" for name in SIGNALS}
        by = self.calibrated_by
        return weights | {
            f"objective.calibration.{name}": str(getattr(by, name))
            for name in ("reference", "contrast", "level")
        }
