"""A run or an experiment's start -> the token file of a sample of its questions."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import lightning as L
from lightning.pytorch.callbacks import Callback

from callbacks.progress import StepProgress
from callbacks.refresh_index import RefreshIndex
from callbacks.refresh_schedule import NEVER_AGAIN
from callbacks.save_tokens import SaveTokens
from datamodules.qa_datamodule import QuestionDataModule
from experiments.build import (
    build_datamodule,
    build_knowledge,
    build_module,
    build_reader,
    build_refresh,
    build_retriever,
    cache_folder,
    hardware,
)
from experiments.checks import check_config
from experiments.config import ConfigError, ExperimentConfig, load_config, read_config
from experiments.runs import RunFolder, environment, weights_of
from lightning_modules import RetrieverReaderModule
from lightning_modules.encoding import embeddings_fingerprint

MODELS = ("reader", "retriever")
FOLDER = "analysis"


@dataclass(frozen=True)
class Measured:
    """What is measured: a configuration with weights.

    Attributes:
        config: of the run or the experiment.
        folder: where what is said of it goes, unless the user says otherwise.
        weights: folder of each model's weights; None = what the configuration names.
        is_start: whether they are the starting weights, and not those that the run ended with.
        run: None where there is none.
    """

    config: ExperimentConfig
    folder: Path
    weights: dict[str, Path | None]
    is_start: bool = True
    run: RunFolder | None = None

    def token_file(self, split: str) -> Path:
        """`tokens.parquet`; of the start `tokens-start.parquet`; of another split than `test` named so."""
        parts = ["tokens", *(["start"] if self.is_start else []), *([split] if split != "test" else [])]
        return self.folder / f"{'-'.join(parts)}.parquet"


def measured_experiment(name: str, overrides: Sequence[str] = ()) -> Measured:
    """An experiment as it would start.

    Raises:
        ConfigError: an unknown experiment or setting, or weights of a run that is not there.
    """
    config = load_config(name, overrides)
    check_config(config)
    return Measured(config, Path(config.runs) / config.name / FOLDER, _starting_weights(config))


def measured_run(path: Path, overrides: Sequence[str] = (), at_start: bool = False) -> Measured:
    """A run as it ended, or as it started where it has not ended (or `at_start`).

    Raises:
        ConfigError: not a run, an unknown setting, or weights that are gone.
    """
    run = RunFolder(path)
    if not run.config.is_file():
        raise ConfigError(f"--run {path}: not a run folder (it holds no config.yaml)")
    config = read_config(run.config, overrides)
    check_config(config)
    weights = _starting_weights(config, run)
    is_start = at_start or not run.is_finished
    if not is_start:
        trained = {"reader": run.reader, "retriever": run.retriever}
        weights |= {model: folder for model, folder in trained.items() if folder.is_dir()}
    return Measured(config, run.path / FOLDER, weights, is_start, run)


def _starting_weights(config: ExperimentConfig, run: RunFolder | None = None) -> dict[str, Path | None]:
    """What a run started from; a finished one knows it better than `latest:NAME` does today."""
    if run is None or not run.is_finished:
        return {model: weights_of(getattr(config.init, f"{model}_from"), model, config) for model in MODELS}
    recorded = json.loads(run.summary.read_text())["started_from"]
    weights = {model: Path(recorded[model]) if model in recorded else None for model in MODELS}
    for model, folder in weights.items():
        if folder is not None and not folder.is_dir():
            raise ConfigError(
                f"{run.path} started from the {model} in {folder}, which is gone; put it back (a relative "
                "path is taken from the current folder)"
            )
    return weights


def evaluation_settings(config: ExperimentConfig) -> dict[str, Any]:
    """What `AnalysisSettings` are made of: how a run's own evaluation computes its indicators."""
    names = ("percentiles", "attention_normalization", "token_embeddings", "answer_match")
    return {name: getattr(config.evaluation, name) for name in names}


def measure_tokens(measured: Measured, split: str, num_questions: int, path: Path) -> int:
    """Reads a sample of a split's questions as a validation does, and writes a token file.

    The sample is the first questions in the seeded order of evaluation, those that a run with
    `num_read_test` reads.

    Args:
        measured: what to measure.
        split: `validation` or `test`.
        num_questions: size of the sample; all questions where there are fewer.
        path: of the token file.

    Returns:
        Number of questions in the sample.

    Raises:
        ValueError: a file or a model that cannot be used; nothing was written.
        KeyboardInterrupt: Ctrl-C; nothing was written.
    """
    config = measured.config
    L.seed_everything(config.seed, verbose=False)
    # each process would write a file of its own
    trainer_hardware = {**hardware(config), "devices": 1}
    datamodule = build_datamodule(config)
    cache = cache_folder(config)
    cache.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory(prefix="analysis-", dir=cache) as scratch:
        module = _build(measured, datamodule, Path(scratch))
        # after the knowledge base, a slice of which depends on all questions
        datamodule.test = getattr(datamodule, split)[:num_questions]
        callbacks: list[Callback] = [
            _index(measured, module, Path(scratch)),
            SaveTokens(path, _info(measured, datamodule, split)),
        ]
        if config.trainer.progress_bar:
            callbacks.append(StepProgress())
        trainer = L.Trainer(
            callbacks=callbacks,
            logger=False,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            inference_mode=False,
            default_root_dir=scratch,
            **trainer_hardware,
        )
        try:
            trainer.test(module, datamodule, verbose=False)
        except SystemExit as stopped:  # what Lightning makes of Ctrl-C
            raise KeyboardInterrupt from stopped
    return len(datamodule.test)


def _build(measured: Measured, datamodule: QuestionDataModule, scratch: Path) -> RetrieverReaderModule:
    config = measured.config
    knowledge_base = build_knowledge(config, datamodule, scratch)
    retriever = build_retriever(config, measured.weights["retriever"])
    reader = build_reader(config, measured.weights["reader"])
    module = build_module(config, retriever, reader, knowledge_base)
    module.num_read, module.generate, module.token_embeddings = None, False, "contextual"
    return module


def _index(measured: Measured, module: RetrieverReaderModule, scratch: Path) -> RefreshIndex:
    """Takes the index that the run ended with, or the shared one of a start, and builds one otherwise."""
    config = measured.config
    folders = [cache_folder(config) / "index"]
    if measured.run is not None:
        folders.append(measured.run.index)
    fingerprint = embeddings_fingerprint(module.retriever, module.knowledge_base)
    there = [folder for folder in folders if (folder / fingerprint[:16]).is_dir()]
    start_folder = there[0] if there else folders[0]
    return build_refresh(config, scratch / "index", NEVER_AGAIN, start_folder=start_folder)


def _info(measured: Measured, datamodule: QuestionDataModule, split: str) -> dict[str, Any]:
    config, run = measured.config, measured.run
    where = environment()
    return {
        "experiment": config.name,
        "run": None if run is None else str(run.path),
        "weights": "start" if measured.is_start else "end",
        "scale": config.scale,
        "seed": config.seed,
        "reader": str(measured.weights["reader"] or config.reader.name),
        "retriever": str(measured.weights["retriever"] or config.retriever.name),
        "objective": config.objective.name,
        "num_passages": config.training.num_passages,
        "split": split,
        "num_questions": len(datamodule.test),
        "sample_seed": datamodule.evaluation_seed,
        **evaluation_settings(config),
        "packages": where["packages"],
        "git_revision": where["git_revision"],
    }
