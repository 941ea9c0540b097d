"""A snapshot of models -> the token file of a sample of its questions."""

import dataclasses
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import lightning as L
from lightning.pytorch.callbacks import Callback

from callbacks.fit_temperature import FitTemperature
from callbacks.progress import StepProgress
from callbacks.refresh_index import RefreshIndex
from callbacks.refresh_schedule import NEVER_AGAIN
from callbacks.save_tokens import SaveTokens
from datamodules.qa_datamodule import QuestionDataModule
from experiments.build import build, build_refresh, cache_folder, hardware
from experiments.config import ExperimentConfig
from experiments.kept_indices import KeptIndices
from experiments.runs import Snapshot, environment
from lightning_modules.retrieval import RetrievalModule


def evaluation_settings(config: ExperimentConfig) -> dict[str, Any]:
    """What `AnalysisSettings` are made of: how a run's own evaluation computes its indicators."""
    names = ("percentiles", "attention_normalization", "token_embeddings", "answer_match")
    return {name: getattr(config.evaluation, name) for name in names}


def write_tokens(snapshot: Snapshot, split: str, num_questions: int, path: Path) -> int:
    """Reads a sample of a split's questions as a validation does, and writes a token file.

    The sample is the first questions in the seeded order of evaluation, those that a run with
    `num_read_test` reads.

    Args:
        snapshot: what to measure.
        split: `validation` or `test`.
        num_questions: size of the sample; all questions where there are fewer.
        path: of the token file.

    Returns:
        Number of questions in the sample.

    Raises:
        ValueError: a file or a model that cannot be used; nothing was written.
        KeyboardInterrupt: Ctrl-C; nothing was written.
    """
    config = snapshot.config
    L.seed_everything(config.seed, verbose=False)
    # each process would write a file of its own
    trainer_hardware = {**hardware(config), "devices": 1}
    cache = cache_folder(config)
    cache.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory(prefix="analysis-", dir=cache) as scratch:
        # every token's contextual similarity is written too, and hidden states are not kept
        anew = dataclasses.replace(config, reader=dataclasses.replace(config.reader, read_once=False))
        datamodule, module = build(anew, Path(scratch), snapshot.weights)
        # after the knowledge base, a slice of which depends on all questions
        datamodule.test = getattr(datamodule, split)[:num_questions]
        callbacks: list[Callback] = [
            _index(snapshot, module, Path(scratch), trainer_hardware),
            FitTemperature(),
            SaveTokens(path, _info(snapshot, datamodule, split)),
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
            with module.evaluating(num_read=None, generate=False):
                trainer.test(module, datamodule, verbose=False)
        except SystemExit as stopped:  # what Lightning makes of Ctrl-C
            raise KeyboardInterrupt from stopped
    return len(datamodule.test)


def _index(
    snapshot: Snapshot, module: RetrievalModule, scratch: Path, trainer_hardware: dict[str, Any]
) -> RefreshIndex:
    """Takes the index that the run ended with, or the shared one of a start, and builds one otherwise."""
    precision = L.Trainer(logger=False, enable_checkpointing=False, **trainer_hardware).precision_plugin
    kept = KeptIndices(snapshot.config, snapshot.run, precision)
    start_folder = kept.folder_with(module.retriever, module.knowledge_base)
    return build_refresh(snapshot.config, scratch / "index", NEVER_AGAIN, start_folder=start_folder)


def _info(snapshot: Snapshot, datamodule: QuestionDataModule, split: str) -> dict[str, Any]:
    config, run = snapshot.config, snapshot.run
    where = environment()
    return {
        "experiment": config.name,
        "run": None if run is None else str(run.path),
        "weights": "start" if snapshot.is_start else "end",
        **({"changed": list(snapshot.changed)} if snapshot.changed else {}),
        "scale": config.scale,
        "seed": config.seed,
        "reader": str(snapshot.weights["reader"] or config.reader.name),
        "retriever": str(snapshot.weights["retriever"] or config.retriever.name),
        "objective": config.objective.name,
        "token_drops": config.evaluation.token_drops,
        "num_passages": config.training.num_passages,
        "split": split,
        "num_questions": len(datamodule.test),
        "sample_seed": datamodule.evaluation_seed,
        **evaluation_settings(config),
        "packages": where["packages"],
        "git_revision": where["git_revision"],
    }
