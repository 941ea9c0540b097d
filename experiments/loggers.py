"""Where the curves of a run go: Lightning's loggers by name."""

import os
import re
from collections.abc import Callable
from itertools import count
from pathlib import Path

from lightning.pytorch.loggers import CSVLogger, Logger, MLFlowLogger, TensorBoardLogger, WandbLogger

from callbacks.logged_media import add_text
from callbacks.trackio_logger import TrackioLogger
from experiments.config import ConfigError, ExperimentConfig
from experiments.processes import is_main_process
from experiments.runs import RunFolder
from experiments.show.model_card import newest_verdict
from experiments.show.report_rows import DATA_FILES, changed_settings, flatten

_PROJECT = "attention-distillation"
_LONGEST_NAME = 120
"""Of a folder: file systems take 255 bytes."""
_EXTRAS = {"wandb": "loggers", "mlflow": "loggers", "trackio": "trackio"}


def make_loggers(config: ExperimentConfig, run: RunFolder) -> list[Logger]:
    """Those of `trainer.loggers`, each told the resolved configuration.

    Those that take text are also told the verdict of the newest check of the same teacher.

    Raises:
        ConfigError: one needs a package that is not installed.
    """
    made = []
    for name in config.trainer.loggers:
        try:
            made.append(LOGGERS[name](config, run))
        except ModuleNotFoundError as error:
            raise ConfigError(
                f"trainer.loggers: {name} needs a package that is not installed ({error}); pip install "
                f"'attention-distillation[{_EXTRAS[name]}]', or leave it out"
            ) from error
    settings, verdict = flatten(config), newest_verdict(run.read_asked(config))
    for logger in made:
        logger.log_hyperparams(settings)
        if verdict is not None and is_main_process():
            add_text(logger, "preflight", verdict, step=0)
    return made


def curves_name(config: ExperimentConfig, run: RunFolder) -> str:
    """Folder of a run's curves, which TensorBoard shows behind experiment, date and seed: what else differs.

    Such as `tensorboard,train=capitals,retriever_lr=0.0001`, as it was asked for; a resumed run goes on with
    its own.
    """
    for events in sorted(run.path.glob("tensorboard*/events.out.tfevents*")):
        return events.parent.name
    settings = [
        f"{key.rpartition('.')[2]}={_end_of(value) if key in DATA_FILES else value.rpartition('/')[2]}"
        for key, value in changed_settings(run.read_asked(config)).items()
    ]
    name = ",".join(["tensorboard", *settings])
    return re.sub(r"[^\w.,=-]", "_", name)[:_LONGEST_NAME]


def _end_of(file: str) -> str:
    """`my/capitals.jsonl` -> `capitals`; `capitals/qrels/test.tsv` -> `capitals-test`."""
    path = Path(file)
    return f"{path.parts[-3]}-{path.stem}" if path.parent.name == "qrels" and path.parts[2:] else path.stem


def _tensorboard(config: ExperimentConfig, run: RunFolder) -> Logger:
    """Events of a start that was not measured to its end are forgotten."""
    purge_step = None if run.start.is_file() else 0
    return TensorBoardLogger(
        run.path,
        name="",
        version=curves_name(config, run),
        purge_step=purge_step,
        default_hp_metric=False,
    )


def _csv(config: ExperimentConfig, run: RunFolder) -> Logger:
    # it deletes what an earlier process has written into the folder that it is given
    names = (f"csv-{number}" if number > 1 else "csv" for number in count(1))
    version = next(name for name in names if not (run.path / name).exists())
    return CSVLogger(run.path, name="", version=version)


def _wandb(config: ExperimentConfig, run: RunFolder) -> Logger:
    return WandbLogger(
        project=_PROJECT, group=config.name, name=f"{config.name} {run.path.name}", save_dir=run.path
    )


def _trackio(config: ExperimentConfig, run: RunFolder) -> Logger:
    return TrackioLogger(_PROJECT, f"{config.name} {run.path.name}", group=config.name)


def _mlflow(config: ExperimentConfig, run: RunFolder) -> Logger:
    """Where `MLFLOW_TRACKING_URI` says, or in the run's folder, in SQLite: mlflow refuses plain files."""
    server, artifacts = os.environ.get("MLFLOW_TRACKING_URI"), None
    if not server:
        folder = run.path.absolute()
        server, artifacts = f"sqlite:///{folder / 'mlflow.db'}", (folder / "mlruns").as_uri()
    return MLFlowLogger(config.name, run_name=run.path.name, tracking_uri=server, artifact_location=artifacts)


LOGGERS: dict[str, Callable[[ExperimentConfig, RunFolder], Logger]] = {
    "tensorboard": _tensorboard,
    "csv": _csv,
    "wandb": _wandb,
    "trackio": _trackio,
    "mlflow": _mlflow,
}
"""All of them by name; what the last three need comes with the extras of `_EXTRAS`."""
