"""Metrics of a teacher recomputed from a token file, without a model."""

import json
import math
from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from datamodules.answer_matching import AnswerMatch
from datamodules.durable_files import write_durably
from datamodules.errors import DataError
from datamodules.token_file import TokenBatch, TokenFile
from lightning_modules.evaluation import ScoredQuestions
from lightning_modules.metrics.bootstrap import bootstrap_interval
from lightning_modules.metrics.indicators import AttentionNormalization, normalize_attention
from lightning_modules.metrics.mean_and_std import mean_and_std
from lightning_modules.metrics.measures import Prominence, all_measures
from lightning_modules.metrics.units import PassageUnits
from lightning_modules.readers.outputs import TokenEmbeddings


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
                raise ValueError(f"percentiles: {percentile} does not lie between 0 and 100")
        if not self.percentiles or len(set(self.percentiles)) < len(self.percentiles):
            raise ValueError("percentiles: give at least one, each once, such as 90 95")
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
class Summary:
    """One metric over all questions.

    Attributes:
        mean, std: over the questions that have a value (ddof = 1).
        low, high: 95% bootstrap interval of the mean.
        n: number of questions that have a value.
        undefined: questions without one.
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
        question_ids: the questions.
        values: name of a metric -> its value for each question, NaN where undefined.
        metrics: the same over all questions, under the names that a run logs.
        counts: sums over questions, such as of passages left out.
    """

    settings: AnalysisSettings
    question_ids: list[str]
    values: dict[str, Float[Tensor, " questions"]]
    metrics: dict[str, Summary]
    counts: dict[str, int]


def analyse(file: TokenFile, settings: AnalysisSettings) -> Analysis:
    """Computes every measure of a teacher from the file alone, a row group at a time.

    Raises:
        DataError: the file lacks the similarities asked for, or the prompts' totals.
    """
    measures = [measure for measure in all_measures(settings.percentiles) if measure.of_read is not None]
    question_ids: list[str] = []
    parts: dict[str, list[Tensor]] = defaultdict(list)
    for batch in file.batches(str(settings.embeddings), settings.match):
        question_ids += batch.question_ids
        scored = _scored(batch, settings)
        for measure in measures:
            assert measure.of_read is not None
            parts[measure.name].append(measure.of_read(scored))
    values = {name: torch.cat(of_batches) for name, of_batches in parts.items()}
    counted = [measure.name for measure in measures if measure.prominence is Prominence.COUNT]
    counts = {name: int(values.pop(name).sum()) for name in counted if name in values}
    return Analysis(settings, question_ids, values, {n: _summary(v) for n, v in values.items()}, counts)


def _scored(batch: TokenBatch, settings: AnalysisSettings) -> ScoredQuestions:
    # a passage that the reader saw nothing of is no unit of the indicators
    seen = batch.mask.any(dim=1)
    lacks_total = seen & batch.prompt_total.isnan()
    if settings.normalization is AttentionNormalization.PROMPT and bool(lacks_total.any()):
        first = batch.question_ids[int(batch.question_of_unit[lacks_total][0])]
        raise DataError(
            f"question {first}: the passages' tokens alone were scored, so that there is no total of the "
            "prompt to normalise by; write the file again with evaluation.token_drops=masked_prompt, or "
            "choose passage or none"
        )
    attention = normalize_attention(
        batch.token_scores, batch.mask, AttentionNormalization(settings.normalization), batch.prompt_total
    )
    num_passages = len(batch.question_of_unit) // len(batch.question_ids)
    units = PassageUnits(
        attention[seen],
        batch.answer_similarity[seen],
        batch.noun_similarity[seen],
        batch.mask[seen],
        batch.question_of_unit[seen],
        (torch.arange(len(seen)) % num_passages)[seen],
        torch.arange(len(seen))[seen],
        batch.prompt_total[seen],
    )
    return ScoredQuestions(batch.holds_answer, batch.log_p_attn, units)


def _summary(values: Float[Tensor, " questions"]) -> Summary:
    mean, std = mean_and_std(values)
    low, high = bootstrap_interval(values)
    undefined = int(values.isnan().sum())
    return Summary(float(mean), float(std), low, high, len(values) - undefined, undefined)


def save_analysis(analysis: Analysis, file: TokenFile) -> tuple[Path, Path]:
    """Writes the metrics, and those of each question, beside the token file.

    Returns:
        `metrics.json` and `instances.jsonl`, with what the file's name has after `tokens` in theirs
        (`tokens-start.parquet` gives `metrics-start.json`).
    """
    stem = file.path.stem
    suffix = stem.removeprefix("tokens") if stem.startswith("tokens") else f"-{stem}"
    metrics = file.path.with_name(f"metrics{suffix}.json")
    instances = file.path.with_name(f"instances{suffix}.jsonl")
    table = {
        name: {part: _finite(value) for part, value in asdict(summary).items()}
        for name, summary in analysis.metrics.items()
    }
    content = {
        **file.info,
        "settings": asdict(analysis.settings),
        "metrics": table,
        "counts": analysis.counts,
    }
    write_durably(metrics, json.dumps(content, indent=2) + "\n")
    write_durably(
        instances, "".join(f"{json.dumps(line, ensure_ascii=False)}\n" for line in _lines(analysis))
    )
    return metrics, instances


def _lines(analysis: Analysis) -> Iterator[dict[str, Any]]:
    columns = {name: values.tolist() for name, values in analysis.values.items()}
    for row, question_id in enumerate(analysis.question_ids):
        yield {"id": question_id, "metrics": {name: _finite(values[row]) for name, values in columns.items()}}


def _finite(value: float | int) -> float | int | None:
    """JSON has no NaN."""
    return value if math.isfinite(value) else None
