"""Configuration -> a pre-flight check: builds the models and the index, reads, and saves what was found."""

import dataclasses
import math
import tempfile
import time
from pathlib import Path
from typing import Any

import lightning as L

from callbacks.progress import progress_bar
from callbacks.refresh_schedule import NEVER_AGAIN
from datamodules.batches import Question
from datamodules.nouns import NounTagger
from experiments.build import (
    build_datamodule,
    build_knowledge,
    build_module,
    build_reader,
    build_refresh,
    build_retriever,
    hardware,
)
from experiments.config import ExperimentConfig
from experiments.probing.other_ways import read_other_ways
from experiments.probing.reading import Probe, ProbeSettings
from experiments.probing.result import ProbeResult, is_clear, make_result
from experiments.runs import environment, weights_of, write_json
from lightning_modules import RetrieverReaderModule
from lightning_modules.metrics.indicators import AttentionNormalization


def run_probe(
    config: ExperimentConfig, settings: ProbeSettings, split: str, stops_early: bool = True
) -> tuple[ProbeResult, Probe]:
    """Reads questions of a split with an experiment's starting models; nothing is trained or written.

    Args:
        config: of the experiment that is thought of.
        settings: how much is read.
        split: `train`, `validation` or `test`.
        stops_early: whether to stop once the verdict is clear.

    Raises:
        ValueError: a setting, a file or a model that cannot be used.
    """
    L.seed_everything(config.seed, verbose=False)
    datamodule = build_datamodule(config, reads_train=split == "train")
    sources = {n: weights_of(getattr(config.init, f"{n}_from"), n, config) for n in ("reader", "retriever")}
    with tempfile.TemporaryDirectory() as folder:
        knowledge_base = build_knowledge(config, datamodule, Path(folder))
        module = build_module(
            config,
            build_retriever(config, sources["retriever"]),
            build_reader(config, sources["reader"]),
            knowledge_base,
        )
        module.eval().requires_grad_(False)
        trainer = L.Trainer(
            logger=False, enable_checkpointing=False, enable_progress_bar=False, **hardware(config)
        )
        module.to(trainer.strategy.root_device)
        evaluation = config.evaluation
        with trainer.precision_plugin.forward_context():
            _index(config, module, trainer, Path(folder))
            probe = Probe(
                module,
                settings,
                AttentionNormalization(evaluation.attention_normalization),
                tuple(evaluation.percentiles),
            )
            tagger = NounTagger(config.data.noun_model) if split == "train" else None
            questions = getattr(datamodule, split)
            return _read(probe, questions, tagger, stops_early, config.trainer.progress_bar), probe


def _index(config: ExperimentConfig, module: RetrieverReaderModule, trainer: L.Trainer, folder: Path) -> None:
    """The index of the starting retriever, shared with the runs that start from it."""
    build_refresh(config, folder / "index", NEVER_AGAIN).refresh(trainer, module)


def _read(
    probe: Probe, questions: list[Question], tagger: NounTagger | None, stops_early: bool, is_shown: bool
) -> ProbeResult:
    # training never looks at the nouns of its questions, so they are not found yet
    chosen = tagger.tag(probe.choose(questions)) if tagger else probe.choose(questions)
    with progress_bar(len(chosen), "Reading", "questions", is_shown) as bar:
        probe.progress = bar.update
        stopped_early = probe.read_configured(
            chosen, lambda collected: stops_early and is_clear(collected, probe.configured)
        )
    with progress_bar(None, "Reading in other ways", "questions", is_shown) as bar:
        probe.progress = bar.update
        read_other_ways(probe)
    return make_result(probe, stopped_early)


def save_probe(
    result: ProbeResult, probe: Probe, config: ExperimentConfig, split: str, seconds: float, path: Path
) -> None:
    """Writes the result as JSON; a run's `stopping.baseline` may be that file.

    Its `instances` are the starting values of every question that was read.
    """
    content = {
        "kind": "probe",
        "experiment": config.name,
        "scale": config.scale,
        "seed": config.seed,
        "split": split,
        "made": time.strftime("%Y-%m-%d %H:%M:%S"),
        "seconds": round(seconds, 1),
        "result": dataclasses.asdict(result),
        "instances": {
            "question_ids": [question.id for question in probe.collected.questions],
            "values": probe.instances(),
        },
        "retrieved": {
            question.id: passages
            for question, passages in zip(probe.collected.questions, probe.collected.passages, strict=True)
        },
        "config": dataclasses.asdict(config),
        "environment": environment(),
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    write_json(path, _without_nan(content))


def _without_nan(value: Any) -> Any:
    """JSON has no NaN."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, dict):
        return {key: _without_nan(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_without_nan(item) for item in value]
    return value
