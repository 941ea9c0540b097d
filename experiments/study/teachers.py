"""The teachers of the study: scores of the candidates, made of a reading or of no reader at all."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial

import torch
from jaxtyping import Float
from torch import Tensor

from experiments.study.material import Candidates
from experiments.study.readers import (
    INITIAL,
    SECOND,
    SHUFFLED,
    STEP1,
    STEP1_STEPS,
    NoSuchSignalError,
    ReadingOf,
    Readings,
)
from experiments.study.readings import ALL_HEADS, Scores, Signals, named
from lightning_modules.candidates import CandidateSource
from lightning_modules.length_control import num_words
from lightning_modules.objectives.signals import ATTENTION
from lightning_modules.scores import Scale, less_length, scaled

TEMPERATURE = 0.5
"""Of standardised scores."""
PAPER_TEMPERATURE = 0.05
"""Of raw ones: what the embedded experiments of the paper's method have."""


@dataclass(frozen=True)
class Teacher:
    """What a retriever of the study is taught by.

    Attributes:
        name: of the cells that it teaches in.
        family: teachers of one family are much alike, and are drawn together where intervals are over
            teachers. It says nothing of models: readers of several families are made of one (`base_model`).
        parts: signals of the reading that are standardised and added up, by weight.
        reading: of which reader; None = the scores come from the candidates alone (`control`).
        control: scores without a reader.
        of_control: where the candidates of a control come from; a reading says so itself.
        scale, temperature: of the target.
        without_length: whether what passage length explains is taken off the scores.
    """

    name: str
    family: str
    parts: tuple[tuple[str, float], ...] = ()
    reading: ReadingOf | None = None
    control: str | None = None
    of_control: CandidateSource = CandidateSource.BOTH
    scale: Scale = Scale.STANDARDISED
    temperature: float = TEMPERATURE
    without_length: bool = False

    @property
    def source(self) -> CandidateSource:
        """Where its candidates come from."""
        return self.of_control if self.reading is None else CandidateSource(self.reading.candidates)

    @property
    def attention(self) -> str | None:
        """Rows and heads of its first signal that is attention, which the indicators look at."""
        for signal, _ in self.parts:
            rows, _, rest = signal.partition(" ")
            if rows in ATTENTION:
                return named(rows, rest if ":" in rest else ALL_HEADS)
        return None

    @property
    def rows(self) -> frozenset[str]:
        """What its signals are of: attention's rows, whichever heads and tokens, or the likelihood."""
        return frozenset(signal.partition(" ")[0] for signal, _ in self.parts)

    @property
    def reader(self) -> str:
        """Its reader's name; a control has none."""
        return "" if self.reading is None else self.reading.reader

    @property
    def base_model(self) -> str:
        """The model that its reader is, or was made of by training or shuffling; a control has none."""
        return self.reader if self.reader in ("", SECOND) else INITIAL

    def scores(self, signals: Signals) -> Scores:
        """What its target is a softmax of, before scale and temperature."""
        if len(self.parts) == 1:
            return signals[self.parts[0][0]]
        summed = [weight * scaled(signals[name], Scale.STANDARDISED) for name, weight in self.parts]
        return torch.stack(summed).sum(dim=0)

    def log_p_target(self, scores: Scores) -> Scores:
        """The target over the candidates."""
        return (scaled(scores, self.scale) / self.temperature).log_softmax(dim=-1)

    def is_given_by(self, signals: Signals) -> bool:
        """Whether the reading has all of its signals: published lists of heads are of one reader."""
        return all(name in signals for name, _ in self.parts)


def _uniform(candidates: Candidates) -> Scores:
    return torch.zeros(candidates.has_answer.shape)


def _length(candidates: Candidates) -> Scores:
    words = [[num_words(passage) for passage in found] for found in candidates.passages]
    return torch.tensor(words).float().clamp(min=1).log()


def _order(candidates: Candidates) -> Scores:
    return -torch.arange(candidates.has_answer.shape[1]).float().expand(candidates.has_answer.shape)


def _labels(candidates: Candidates, share_wrong: float = 0.0) -> Scores:
    generator = torch.Generator().manual_seed(0)
    is_wrong = torch.rand(candidates.has_answer.shape, generator=generator) < share_wrong
    return (candidates.has_answer ^ is_wrong).float()


CONTROLS: Mapping[str, Callable[[Candidates], Float[Tensor, "questions passages"]]] = {
    "uniform": _uniform,
    "length": _length,
    "order": _order,
    "labels": _labels,
    "labels 10-wrong": partial(_labels, share_wrong=0.1),
    "labels 25-wrong": partial(_labels, share_wrong=0.25),
    "labels 50-wrong": partial(_labels, share_wrong=0.5),
}
"""Teachers that ask no reader: every passage alike, passage length, the order in which candidates were found,
and which passages are positive; of that, some changed at random: a ladder of known quality."""
LOOKS_AT_QUESTION = frozenset(name for name in CONTROLS if name.startswith("labels"))
"""Controls that know what is asked."""

_SUM = (("answer", 1.0), ("question", 1.0), ("likelihood", 1.0))
_DEFAULT = (("question qrhead:16", 1.0), ("likelihood", 1.0))
"""Of `quickstart` and `best_vital`."""
_SIGNALS = ("answer", "question", "likelihood")
_OF_INITIAL = {
    "answer rows": (
        "answer",
        "answer mean",
        "answer top10",
        "answer first",
        "answer qrhead:16",
        "answer layers:0-4",
        "answer layers:14-17",
        "answer content_free_difference",
    ),
    "question rows": (
        "question",
        "question qrhead:16",
        "question core:8",
        "question layers:0-4",
        "question content_free_log_ratio",
    ),
    "last row": ("last",),
    "likelihood": ("likelihood",),
}


def teachers() -> dict[str, Teacher]:
    """All teachers of the study by name."""
    made = [*_of_initial_reader(), *_of_other_readers(), *_of_other_contexts()]
    for name in CONTROLS:
        teacher = Teacher(name, "controls", control=name)
        if name in LOOKS_AT_QUESTION:  # all positive passages alike and no other; without one, all alike
            teacher = replace(teacher, scale=Scale.RAW, temperature=0.01)
        made.append(teacher)
    return {teacher.name: teacher for teacher in made}


def _of_initial_reader() -> list[Teacher]:
    initial = ReadingOf()
    made = [
        Teacher(f"{INITIAL} {signal}", family, ((signal, 1.0),), initial)
        for family, signals in _OF_INITIAL.items()
        for signal in signals
    ]
    paper = next(teacher for teacher in made if teacher.name == f"{INITIAL} answer")
    raw = replace(paper, name=f"{paper.name} raw", scale=Scale.RAW, temperature=PAPER_TEMPERATURE)
    sums = [
        Teacher(f"{INITIAL} question+likelihood", "sums", _SUM[1:], initial),
        Teacher(f"{INITIAL} answer+question+likelihood", "sums", _SUM, initial),
        Teacher(f"{INITIAL} question qrhead:16+likelihood", "sums", _DEFAULT, initial),
    ]
    return [*made, raw, *sums]


def _of_other_readers() -> list[Teacher]:
    made = []
    for reader in OTHER_READERS:
        reading, family = ReadingOf(reader), reader.partition("-")[0]
        made += [Teacher(f"{reader} {name}", family, ((name, 1.0),), reading) for name in _SIGNALS]
    for reader in (SECOND, f"{STEP1}-{STEP1_STEPS[-1]}"):
        family = reader.partition("-")[0]
        made.append(Teacher(f"{reader} answer+question+likelihood", family, _SUM, ReadingOf(reader)))
    made.append(Teacher(f"{SECOND} last", SECOND, (("last", 1.0),), ReadingOf(SECOND)))
    made.append(Teacher(f"{SECOND} question+likelihood", SECOND, _SUM[1:], ReadingOf(SECOND)))
    return made


def _of_other_contexts() -> list[Teacher]:
    return [
        Teacher(
            f"{INITIAL} {rows} in one prompt, {order}", "one prompt", ((rows, 1.0),), ReadingOf(shown=order)
        )
        for order in ("rank", "shuffled")
        for rows in ("answer", "question")
    ]


OTHER_READERS = (
    SECOND,
    f"{STEP1}-{STEP1_STEPS[-1]}",
    f"{SHUFFLED}-1.0",
    *(f"{STEP1}-{steps}" for steps in STEP1_STEPS[:-1]),
    f"{SHUFFLED}-0.02",
)
"""All but the second made of the initial one; those that differ most from it come first."""


def scores_of(teacher: Teacher, candidates: Candidates, readings: Readings) -> Scores:
    """Of the candidates, read where that has not been done.

    Raises:
        NoSuchSignalError: the teacher's reader has none, or there is no list of its heads.
    """
    if teacher.control is not None:
        return CONTROLS[teacher.control](candidates)
    assert teacher.reading is not None, "a teacher without a reader is a control"
    signals = readings[teacher.reading].signals
    if not teacher.is_given_by(signals):
        raise NoSuchSignalError("its reader has no such signal, or no list of such heads")
    return scores_given(teacher, signals, readings[teacher.reading].lengths)


def scores_given(
    teacher: Teacher, signals: Signals, lengths: Float[Tensor, "more passages"]
) -> Float[Tensor, "questions passages"]:
    """As they teach: without what passage length explains, where the teacher takes that off.

    Args:
        teacher: with a reader.
        signals: that its reader gives of the first questions' passages, asked these questions or others.
        lengths: of the passages of these questions and more, in tokens.
    """
    scores = teacher.scores(signals)
    return less_length(scores, lengths[: len(scores)]) if teacher.without_length else scores
