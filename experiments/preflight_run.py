"""Configuration -> a pre-flight check, and its result as a file."""

import dataclasses
import math
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import lightning as L

from callbacks.fit_temperature import FitTemperature
from callbacks.progress import progress_bar
from callbacks.refresh_schedule import NEVER_AGAIN
from datamodules.nouns import NounTagger
from datamodules.qa_datamodule import QuestionDataModule
from datamodules.sealed_files import write_json
from experiments.build import build, build_refresh, hardware, unrelated_questions
from experiments.checks import PROBE
from experiments.config import ConfigError, ExperimentConfig, naming
from experiments.data_files import data_settings
from experiments.runs import environment, starting_weights
from lightning_modules import RetrieverReaderModule
from lightning_modules.preflight import PreflightResult, PreflightSettings, preflight
from lightning_modules.reranker import Reranker
from lightning_modules.temperatures import fitting_temperature


def run_preflight(
    config: ExperimentConfig,
    settings: PreflightSettings,
    split: str,
    stops_early: bool = True,
    reranker: str | None = None,
) -> PreflightResult:
    """Reads questions of a split with an experiment's starting models; nothing is trained or written.

    Args:
        config: of the experiment that is thought of.
        settings: how much is read.
        split: `train`, `validation` or `test`.
        stops_early: whether to stop once the verdict is clear.
        reranker: hub name or folder of a cross-encoder to compare with.

    Raises:
        ValueError: a setting, a file or a model that cannot be used.
    """
    L.seed_everything(config.seed, verbose=False)
    compared_with = None if reranker is None else Reranker.load(reranker)
    run_reads_train = "train" in data_settings(config)
    # training never looks at the nouns of its questions, so they are not found yet
    tag = NounTagger(config.data.noun_model).tag if split == "train" else None
    with starting_point(config, reads_train=split == "train") as (datamodule, module):
        return preflight(
            module,
            getattr(datamodule, split),
            settings,
            percentiles=config.evaluation.percentiles,
            stops_early=stops_early,
            progress=lambda work, total: progress_bar(total, work, "questions", config.trainer.progress_bar),
            tag=tag,
            # what is pasted asks what the run itself reads
            unrelated=unrelated_questions(config, datamodule.train if run_reads_train else ()),
            reranker=compared_with,
        )


@contextmanager
def starting_point(
    config: ExperimentConfig, reads_train: bool
) -> Iterator[tuple[QuestionDataModule, RetrieverReaderModule]]:
    """Questions, and the models on their device with the index that runs start from; inside, in their
    precision."""
    if config.objective.scores_from is not None:
        raise ConfigError(
            "objective.scores_from: scores in a file come without the reader that is asked here; set it to "
            "null"
        )
    # what is checked is a reader
    config = dataclasses.replace(
        config, evaluation=dataclasses.replace(config.evaluation, retrieve_only=False)
    )
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        datamodule, module = build(config, folder, starting_weights(config), reads_train)
        assert isinstance(module, RetrieverReaderModule), "it was asked for a reader"
        module.eval().requires_grad_(False)
        trainer = L.Trainer(
            logger=False,
            enable_checkpointing=False,
            enable_progress_bar=False,
            **{**hardware(config), "devices": 1},
        )
        module.to(trainer.strategy.root_device)
        with trainer.precision_plugin.forward_context():
            build_refresh(config, folder / "index", NEVER_AGAIN).refresh(trainer, module)
            if module.retrieval_temperature is None:
                with naming("objective"):
                    questions = datamodule.validation[: FitTemperature().num_questions]
                    module.retrieval_temperature = fitting_temperature(module, questions)
            yield datamodule, module


def save_preflight(
    result: PreflightResult, config: ExperimentConfig, split: str, seconds: float, path: Path
) -> None:
    """Writes the result as JSON; a run's `stopping.baseline` may be that file.

    Its `instances` are the starting values of every question that was read.
    """
    found = dataclasses.asdict(result)
    content = {
        "kind": PROBE,
        "experiment": config.name,
        "scale": config.scale,
        "seed": config.seed,
        "split": split,
        "made": time.strftime("%Y-%m-%d %H:%M:%S"),
        "seconds": round(seconds, 1),
        "instances": found.pop("questions"),
        "retrieved": found.pop("retrieved"),
        "result": found,
        "config": dataclasses.asdict(config),
        "environment": environment(),
    }
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
