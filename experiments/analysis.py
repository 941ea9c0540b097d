"""Indicators and teacher validity, recomputed from a token file."""

import json
import math
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from datamodules.answer_matching import AnswerMatch
from datamodules.text_files import write_whole
from datamodules.token_file import TokenBatch, TokenFile
from experiments.config import ConfigError
from experiments.runs import write_json
from lightning_modules.metrics.bootstrap import bootstrap_interval
from lightning_modules.metrics.indicators import (
    AttentionNormalization,
    indicator_units,
    instance_means,
    normalize_attention,
)
from lightning_modules.metrics.instance_values import mean_and_std
from lightning_modules.metrics.teacher_auc import teacher_auc, teacher_reciprocal_rank
from lightning_modules.readers.reader import TokenEmbeddings


@dataclass(frozen=True)
class AnalysisSettings:
    """What the indicators are computed with.

    Attributes:
        percentiles: the p's of the most similar tokens.
        normalization: of the attention.
        embeddings: whose similarities.
        match: when a passage holds an answer.

    Raises:
        ValueError: no percentile, one out of range or given twice, or an unknown choice.
    """

    percentiles: tuple[int, ...]
    normalization: AttentionNormalization | str
    embeddings: TokenEmbeddings | str
    match: AnswerMatch | str

    def __post_init__(self) -> None:
        for percentile in self.percentiles:
            if not 0 <= percentile <= 100:
                raise ConfigError(f"--percentiles: {percentile} does not lie between 0 and 100")
        if not self.percentiles or len(set(self.percentiles)) < len(self.percentiles):
            raise ConfigError("--percentiles: give at least one, each once, such as 90 95")
        for name, choice in (
            ("normalization", AttentionNormalization),
            ("embeddings", TokenEmbeddings),
            ("match", AnswerMatch),
        ):
            object.__setattr__(self, name, choice(getattr(self, name)))

    @classmethod
    def of(cls, info: Mapping[str, Any], **changes: Any) -> "AnalysisSettings":
        """Those of the run that a token file was written from, with changes (None = none)."""
        own = {
            "percentiles": tuple(info["percentiles"]),
            "normalization": info["attention_normalization"],
            "embeddings": info["token_embeddings"],
            "match": info["answer_match"],
        }
        return cls(**{**own, **{name: value for name, value in changes.items() if value is not None}})


@dataclass(frozen=True)
class Reading:
    """One quantity over all instances.

    Attributes:
        mean, std: over the instances that have a value (ddof = 1).
        low, high: 95% bootstrap interval of the mean.
        n: number of instances that have a value.
        undefined: units without one, of an indicator; questions without one, of the teacher's validity.
    """

    mean: float
    std: float
    low: float
    high: float
    n: int
    undefined: int


@dataclass(frozen=True)
class Analysis:
    """What a token file says under some settings.

    Attributes:
        settings: what it was computed with.
        question_ids: the instances.
        values: name of a reading -> its value in each instance, NaN where undefined.
        readings: the same over all instances, under the names that a run logs.
    """

    settings: AnalysisSettings
    question_ids: list[str]
    values: dict[str, Float[Tensor, " instances"]]
    readings: dict[str, Reading]


def analyse(file: TokenFile, settings: AnalysisSettings) -> Analysis:
    """Computes everything from the file alone, a row group at a time.

    Raises:
        DataError: the file lacks the similarities asked for.
    """
    question_ids: list[str] = []
    parts: dict[str, list[Tensor]] = defaultdict(list)
    undefined: Counter[str] = Counter()
    for batch in file.batches(str(settings.embeddings), settings.match):
        question_ids += batch.question_ids
        for name, of_questions, num_undefined in _values(batch, settings):
            parts[name].append(of_questions)
            undefined[name] += num_undefined
    values = {name: torch.cat(of_batches) for name, of_batches in parts.items()}
    readings = {name: _reading(instances, undefined[name]) for name, instances in values.items()}
    return Analysis(settings, question_ids, values, readings)


def _values(batch: TokenBatch, settings: AnalysisSettings) -> Iterator[tuple[str, Tensor, int]]:
    """(name, value of each question, undefined ones) of every reading."""
    attention = normalize_attention(
        batch.token_scores, batch.mask, AttentionNormalization(settings.normalization), batch.prompt_total
    )
    # a passage that the reader saw nothing of is no unit of the indicators
    seen = batch.mask.any(dim=1)
    for indicator, similarity in (
        ("indicator1", batch.answer_similarity),
        ("indicator2", batch.noun_similarity),
    ):
        for p in settings.percentiles:
            of_units = indicator_units(attention[seen], similarity[seen], batch.mask[seen], p)
            for part, unit_values in of_units._asdict().items():
                means, num_undefined = instance_means(
                    unit_values, batch.question_of_unit[seen], len(batch.question_ids)
                )
                yield f"{indicator}/{part}_p{p}", means, int(num_undefined)
    for name, measure in (("teacher/auc", teacher_auc), ("teacher/mrr", teacher_reciprocal_rank)):
        of_questions = measure(batch.p_attn, batch.holds_answer)
        yield name, of_questions, int(of_questions.isnan().sum())


def _reading(instances: Float[Tensor, " instances"], undefined: int) -> Reading:
    mean, std = mean_and_std(instances)
    low, high = bootstrap_interval(instances)
    return Reading(float(mean), float(std), low, high, int((~instances.isnan()).sum()), undefined)


def save_analysis(analysis: Analysis, file: TokenFile) -> tuple[Path, Path]:
    """Writes the readings, and those of each question, beside the token file.

    Returns:
        `readings.json` and `instances.jsonl`, with what the file's name has after `tokens` in theirs
        (`tokens-start.parquet` gives `readings-start.json`).
    """
    stem = file.path.stem
    suffix = stem.removeprefix("tokens") if stem.startswith("tokens") else f"-{stem}"
    readings = file.path.with_name(f"readings{suffix}.json")
    instances = file.path.with_name(f"instances{suffix}.jsonl")
    table = {
        name: {part: _finite(value) for part, value in asdict(reading).items()}
        for name, reading in analysis.readings.items()
    }
    write_json(readings, {**file.info, "settings": asdict(analysis.settings), "readings": table})
    write_whole(instances, "".join(f"{json.dumps(line, ensure_ascii=False)}\n" for line in _lines(analysis)))
    return readings, instances


def _lines(analysis: Analysis) -> Iterator[dict[str, Any]]:
    columns = {name: values.tolist() for name, values in analysis.values.items()}
    for row, question_id in enumerate(analysis.question_ids):
        readings = {name: _finite(values[row]) for name, values in columns.items()}
        yield {"id": question_id, "readings": readings}


def _finite(value: float) -> float | None:
    """JSON has no NaN."""
    return value if math.isfinite(value) else None


def percentiles_of(words: Sequence[str] | None) -> tuple[int, ...] | None:
    """Percentiles as a command line has them.

    Raises:
        ConfigError: one is no whole number.
    """
    if words is None:
        return None
    try:
        return tuple(int(word) for word in words)
    except ValueError as error:
        raise ConfigError(f"--percentiles: {' '.join(words)}: give whole numbers, such as 90 95") from error
