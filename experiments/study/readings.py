"""What a frozen reader makes of the candidates, read once: all that any teacher of the study is made of."""

import time
import zipfile
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from callbacks.progress import progress_bar
from datamodules.batches import Batch, Passage, Question, TokenScope
from datamodules.durable_files import durably
from datamodules.nouns import NounTagger
from datamodules.sealed_files import DamagedFileError
from experiments.study.material import Candidates, Material
from lightning_modules.calibration import Calibration, Contrast, Level, Reference
from lightning_modules.eval_mode import eval_mode
from lightning_modules.evaluation import ScoredQuestions
from lightning_modules.head_lists import parse_heads
from lightning_modules.metrics.head_search import HeadSums
from lightning_modules.metrics.indicators import AttentionNormalization, normalize_attention
from lightning_modules.metrics.measures import indicator_measures
from lightning_modules.metrics.units import PassageUnits, passage_units
from lightning_modules.objectives.signals import ATTENTION
from lightning_modules.readers.base import Reader
from lightning_modules.readers.outputs import QuestionHeadOutput
from lightning_modules.scores import PASSAGE_SCORES, PassageTokens

ALL_HEADS = "all"
HEAD_CHOICES = ("qrhead:16", "core:8", "layers:0-4", "layers:14-17")
"""Heads whose attention teachers of the study are made of, beside all."""
NUM_UNRELATED = 24
"""Questions whose passages are also asked what another question asks."""
_UNRELATED_ORDER = 1000
_OTHER_SCORES = ("mean", "top10", "first")
_CALIBRATED = {
    "content_free_difference": Calibration(Reference.CONTENT_FREE, Contrast.DIFFERENCE, Level.PASSAGE),
    "content_free_log_ratio": Calibration(Reference.CONTENT_FREE, Contrast.LOG_RATIO, Level.PASSAGE),
}

Scores = Float[Tensor, "questions passages"]


@dataclass(frozen=True)
class Signals:
    """Scores of passages by each signal of a reader.

    Attributes:
        by_name: such as `answer`, `answer qrhead:16`, `answer mean`, `likelihood`, `question
            content_free_log_ratio`.
    """

    by_name: Mapping[str, Scores]

    def __getitem__(self, name: str) -> Scores:
        return self.by_name[name]

    def __contains__(self, name: str) -> bool:
        return name in self.by_name


@dataclass(frozen=True)
class Reading:
    """All that a reader made of the candidates.

    Attributes:
        signals: of the questions' own passages.
        unrelated: of the first questions' passages, asked what the next question asks.
        indicators: by rows and heads (`answer`, `question qrhead:16`, `last`) and measure, one value a
            question.
        lengths: of the passages, in tokens.
        has_answer: True = the passage holds an answer.
        seconds: that a question took.
    """

    signals: Signals
    unrelated: Signals
    indicators: Mapping[str, Mapping[str, Float[Tensor, " questions"]]]
    lengths: Scores
    has_answer: Bool[Tensor, "questions passages"]
    seconds: float

    def save(self, path: Path) -> None:
        """Writes it whole or not at all."""
        arrays = {
            "lengths": self.lengths,
            "has_answer": self.has_answer,
            "seconds": torch.tensor(self.seconds),
            **{f"signals|{name}": scores for name, scores in self.signals.by_name.items()},
            **{f"unrelated|{name}": scores for name, scores in self.unrelated.by_name.items()},
            **{
                f"indicators|{heads}|{name}": values
                for heads, measured in self.indicators.items()
                for name, values in measured.items()
            },
        }
        path.parent.mkdir(parents=True, exist_ok=True)
        with durably(path) as partial, partial.open("wb") as file:
            np.savez(file, **{name: array.numpy() for name, array in arrays.items()})  # type: ignore[arg-type]

    @classmethod
    def load(cls, path: Path) -> "Reading":
        """What `save` wrote.

        Raises:
            FileNotFoundError: nothing was saved.
            DamagedFileError: it is not what was written (the format has checksums).
        """
        try:
            with path.open("rb") as opened, np.load(opened, allow_pickle=False) as file:
                arrays = {name: torch.from_numpy(file[name]) for name in file.files}
        except (zipfile.BadZipFile, zlib.error, ValueError, EOFError, NotImplementedError) as error:
            raise DamagedFileError(f"{path} is damaged ({error})") from error
        found: dict[str, dict[str, Tensor]] = {"signals": {}, "unrelated": {}}
        indicators: dict[str, dict[str, Tensor]] = {}
        for name, array in arrays.items():
            kind, _, rest = name.partition("|")
            if kind in found and rest:
                found[kind][rest] = array
            elif kind == "indicators":
                heads, _, measure = rest.partition("|")
                indicators.setdefault(heads, {})[measure] = array
        return cls(
            Signals(found["signals"]),
            Signals(found["unrelated"]),
            indicators,
            arrays["lengths"],
            arrays["has_answer"],
            float(arrays["seconds"]),
        )


def head_masks(
    reader: Reader, choices: Sequence[str] = HEAD_CHOICES
) -> dict[str, Bool[Tensor, "layers heads"]]:
    """The choices of heads that this reader has, by name, all of them first; published lists are of one
    reader, and others go without."""
    shape = reader.num_layers_and_heads
    masks = {ALL_HEADS: torch.ones(shape, dtype=torch.bool)}
    for choice in choices:
        try:
            masks[choice] = parse_heads(choice).heads_of(reader.model).mask(*shape)
        except ValueError:
            continue
    return masks


@torch.no_grad()
def read_candidates(
    material: Material,
    reader: Reader,
    candidates: Candidates,
    masks: Mapping[str, Bool[Tensor, "layers heads"]],
    name: str,
    calibrates: bool = False,
) -> Reading:
    """Reads every question with its candidates, and some once more for another question.

    Args:
        material: says in which precision.
        reader: as it is shown the passages; it must have rows of the question.
        candidates: to read.
        masks: of `head_masks`.
        name: for the progress bar.
        calibrates: whether to ask each passage the question "N/A" too.
    """
    reader.to(material.trainer().strategy.root_device)
    tag = NounTagger(material.config.data.noun_model).tag
    questions = tag(candidates.questions)
    num_unrelated = min(NUM_UNRELATED, len(questions))
    of_questions: list[_Read] = []
    unrelated: list[_Read] = []
    bar = progress_bar(len(questions), f"Reading, {name}", "questions", material.config.trainer.progress_bar)
    with material.in_precision(), eval_mode(reader), bar:
        started = time.perf_counter()
        for row, (question, passages) in enumerate(zip(questions, candidates.passages, strict=True)):
            batch = _batch(question, passages, row)
            of_questions.append(_read(reader, batch, masks, candidates.has_answer[row], calibrates))
            bar.update(1)
        seconds = (time.perf_counter() - started) / len(questions)
        for row in range(num_unrelated):
            asked = questions[(row + 1) % num_unrelated]
            batch = _batch(asked, candidates.passages[row], _UNRELATED_ORDER)
            unrelated.append(_read(reader, batch, masks, None, calibrates))
    lengths = torch.cat([read.lengths for read in of_questions])
    indicators = {
        attention: {
            measure: torch.cat([read.indicators[attention][measure] for read in of_questions])
            for measure in measured
        }
        for attention, measured in of_questions[0].indicators.items()
    }
    return Reading(
        _joined(of_questions), _joined(unrelated), indicators, lengths, candidates.has_answer, seconds
    )


def _batch(question: Question, passages: list[Passage], order_seed: int) -> Batch:
    return Batch([question], [passages], [question.answers[0]], order_seed)


@dataclass(frozen=True)
class _Read:
    """Of one question."""

    scores: dict[str, Scores]
    indicators: dict[str, dict[str, Tensor]]
    lengths: Scores


def _joined(reads: Sequence[_Read]) -> Signals:
    return Signals({name: torch.cat([read.scores[name] for read in reads]) for name in reads[0].scores})


def _read(
    reader: Reader,
    batch: Batch,
    masks: Mapping[str, Bool[Tensor, "layers heads"]],
    has_answer: Bool[Tensor, " passages"] | None,
    calibrates: bool,
) -> _Read:
    """Scores of all signals; the indicators where it is known which passages are positive."""
    output = reader.read_question_heads(batch)
    tokens = PassageTokens.of(output.prompts, TokenScope.PASSAGE)
    scores = _attention_scores(output, tokens, masks)
    if reader.reads_alone:
        scores["likelihood"] = output.each_alone().mean_log_probs()
    if calibrates:
        scores |= _calibrated_scores(reader, batch, output)
    indicators = {} if has_answer is None else _indicators(reader, output, masks, has_answer[None])
    return _Read(
        {name: of.float().cpu() for name, of in scores.items()}, indicators, tokens.count().float().cpu()
    )


def _attention_scores(
    output: QuestionHeadOutput, tokens: PassageTokens, masks: Mapping[str, Bool[Tensor, "layers heads"]]
) -> dict[str, Scores]:
    sums = HeadSums.of(output)
    assert sums.question is not None, "it was asked for rows of the question"
    scores = {
        named(rows, heads): by_head[:, mask].mean(dim=1)
        for rows, by_head in (("answer", sums.answer), ("question", sums.question))
        for heads, mask in masks.items()
    }
    for how in _OTHER_SCORES:
        scores[f"answer {how}"] = PASSAGE_SCORES[how](output.row_scores, output.row_mask, tokens)
    scores["last"] = tokens.sum(ATTENTION["last"](output))
    return scores


def _calibrated_scores(reader: Reader, batch: Batch, output: QuestionHeadOutput) -> dict[str, Scores]:
    (reference,) = _CALIBRATED["content_free_difference"].batches(batch)
    prior = reader.read_signals(reference)
    return {
        f"{rows} {name}": calibration.passage_scores(
            ATTENTION[rows](output), output.prompts, [(ATTENTION[rows](prior), prior.prompts)]
        )
        for rows in ("answer", "question")
        for name, calibration in _CALIBRATED.items()
    }


def _indicators(
    reader: Reader,
    output: QuestionHeadOutput,
    masks: Mapping[str, Bool[Tensor, "layers heads"]],
    has_answer: Bool[Tensor, "one passages"],
) -> dict[str, dict[str, Tensor]]:
    """Of all attention that teachers are made of: how close to the answer and the nouns it rests.

    The check looks at the answer's rows whatever teaches, which would be the same for many teachers.
    """
    units = passage_units(output, reader)
    attention = {
        named(rows, heads): by_head[:, mask].mean(dim=1)
        for rows, by_head in (("answer", output.head_scores), ("question", output.question_head_scores))
        for heads, mask in masks.items()
    }
    attention["last"] = ATTENTION["last"](output)
    return {
        name: _indicator_values(_seen_by(units, scores), has_answer) for name, scores in attention.items()
    }


def named(rows: str, heads: str) -> str:
    """Of attention: `answer`, or `answer qrhead:16`."""
    return rows if heads == ALL_HEADS else f"{rows} {heads}"


def _seen_by(units: PassageUnits, token_scores: Float[Tensor, "prompts tokens"]) -> PassageUnits:
    """The same units with the attention of other heads."""
    attention = normalize_attention(
        token_scores[units.prompt_of_unit], units.mask, AttentionNormalization.PASSAGE
    )
    return replace(units, attention=attention)


def _indicator_values(
    units: PassageUnits, has_answer: Bool[Tensor, "one passages"]
) -> dict[str, Float[Tensor, " one"]]:
    scored = ScoredQuestions(has_answer.to(units.attention.device), torch.zeros(has_answer.shape), units)
    values: dict[str, Any] = {}
    for measure in indicator_measures():
        if measure.has_questions:
            assert measure.of_read is not None, "indicators are of what is read"
            values[measure.name] = measure.of_read(scored).float().cpu()
    return values
