"""A run's folder and what it holds; the models that commands measure afterwards."""

import dataclasses
import json
import os
import platform
import subprocess
import sys
import time
from collections.abc import Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

import torch

from datamodules.passage_index import FAISS_PACKAGES
from datamodules.templates import TEMPLATES
from datamodules.text_files import write_whole
from experiments.checks import check_config
from experiments.config import ConfigError, ExperimentConfig, load_config, read_config, to_yaml
from experiments.processes import DOCS, is_main_process, launcher

SUITE = "attention-distillation"
"""What the suite is called as a package."""
LATEST = "latest:"
MODELS = ("reader", "retriever")
FOLDER = "analysis"
"""Within a run's folder: what is measured of its models afterwards."""

RUN_VARIABLE = "ATTENTION_DISTILLATION_RUN"
"""Tells the run's folder to the further processes of a run on several devices."""

_PACKAGES = (
    "torch",
    "lightning",
    "transformers",
    "peft",
    *FAISS_PACKAGES,
    "torchmetrics",
    "torchdata",
    "numpy",
    "scipy",
    "spacy",
    "omegaconf",
)


@dataclasses.dataclass(frozen=True)
class RunFolder:
    """Where everything of a run lies.

    Attributes:
        path: the folder, `runs/NAME/DATE-seedN`.
    """

    path: Path

    @property
    def config(self) -> Path:
        return self.path / "config.yaml"

    @property
    def summary(self) -> Path:
        return self.path / "summary.json"

    @property
    def start(self) -> Path:
        """Metrics of the starting checkpoint, kept so that a resumed run need not measure them again."""
        return self.path / "start.json"

    @property
    def checkpoints(self) -> Path:
        return self.path / "checkpoints"

    @property
    def last_checkpoint(self) -> Path:
        return self.checkpoints / "last.ckpt"

    @property
    def last_good_checkpoint(self) -> Path:
        """Weights of the last validation that saw no collapse."""
        return self.checkpoints / "last_good.ckpt"

    @property
    def index(self) -> Path:
        return self.path / "index"

    @property
    def validation_passages(self) -> Path:
        """Rows of the passages that validations search, where these are a part of the knowledge base."""
        return self.path / "validation_passages.json"

    @property
    def predictions(self) -> Path:
        """What the final test gave for each question."""
        return self.path / "predictions.jsonl"

    @property
    def predictions_start(self) -> Path:
        """The same of the starting checkpoint; a run that trains nothing has none."""
        return self.path / "predictions_start.jsonl"

    @property
    def validations(self) -> Path:
        """Metrics of each validation, the start's included."""
        return self.path / "validations.jsonl"

    @property
    def curves(self) -> Path:
        """TensorBoard's event files."""
        return self.path / "tensorboard"

    @property
    def token_view(self) -> Path:
        """Pages of passages shaded by attention."""
        return self.path / "token_view"

    @property
    def template(self) -> Path:
        """How prompts are written, where a file says so."""
        return self.path / "template.txt"

    @property
    def reader(self) -> Path:
        """The trained reader, as transformers saves it."""
        return self.path / "reader"

    @property
    def retriever(self) -> Path:
        return self.path / "retriever"

    @property
    def length_control(self) -> Path:
        """What `experiments.control_length` has found."""
        return self.path / FOLDER / "length_control.json"

    @property
    def is_finished(self) -> bool:
        """Whether the run came to its own end."""
        return self.summary.is_file() and json.loads(self.summary.read_text())["status"] == "finished"


def join_run() -> RunFolder | None:
    """The folder of the run that Lightning started this process to join; None = it did not.

    It starts the processes for further devices with the command line that it was started with itself.

    Raises:
        ConfigError: an unknown launcher has started several processes.
    """
    if is_main_process() or launcher() is not None:
        return None
    if RUN_VARIABLE not in os.environ:
        raise ConfigError(
            "LOCAL_RANK is set, but neither torchrun nor srun has started this process; use one of them "
            f"({DOCS}), or start one process alone, which starts one for each of trainer.devices"
        )
    return RunFolder(Path(os.environ[RUN_VARIABLE]))


def create_run(config: ExperimentConfig) -> RunFolder:
    """A new folder with the resolved configuration and what the run will run on.

    Raises:
        ConfigError: the folder cannot be made.
    """
    stamp = time.strftime("%Y%m%d-%H%M%S")
    parent = Path(config.runs) / config.name
    path = parent / f"{stamp}-seed{config.seed}"
    copy = 1
    try:
        while True:
            try:
                path.mkdir(parents=True)
                break
            except FileExistsError:
                if not path.is_dir():
                    raise
                copy += 1
                path = parent / f"{stamp}-seed{config.seed}-{copy}"
    except OSError as error:
        raise ConfigError(f"cannot make the run folder {path}: {error.strerror}; set runs=FOLDER") from error
    run = RunFolder(path)
    run.config.write_text(to_yaml(_with_template_kept(config, run)))
    write_json(path / "environment.json", environment())
    return run


def _with_template_kept(config: ExperimentConfig, run: RunFolder) -> ExperimentConfig:
    """The configuration with a copy of its template file, which may change before the run is gone on with."""
    given = config.reader.template
    if given in TEMPLATES:
        return config
    run.template.write_bytes(Path(given).expanduser().read_bytes())
    return dataclasses.replace(config, reader=dataclasses.replace(config.reader, template=str(run.template)))


def find_run(config_name: str | None, runs: Path, wanted: str | None) -> RunFolder:
    """The run to resume: a folder, or the newest unfinished one of an experiment.

    Raises:
        ConfigError: there is none.
    """
    if wanted is not None:
        run = RunFolder(Path(wanted))
        if not run.config.is_file():
            raise ConfigError(f"--resume {wanted}: not a run folder (it holds no config.yaml)")
        return run
    candidates = [run for run in runs_of(config_name or "*", runs) if not run.is_finished]
    if not candidates:
        what = f"of {config_name} " if config_name else ""
        raise ConfigError(f"there is no unfinished run {what}in {runs}/ to resume; start one with --exp NAME")
    return candidates[-1]


def latest_finished(name: str, runs: Path) -> RunFolder | None:
    """The newest finished run of an experiment."""
    finished = [run for run in runs_of(name, runs) if run.is_finished]
    return finished[-1] if finished else None


def weights_of(source: str | None, model: str, config: ExperimentConfig) -> Path | None:
    """Folder of the weights of an earlier run.

    Args:
        source: a run's folder, or `latest:NAME` for the newest finished run of an experiment; None = none.
        model: `reader` or `retriever`.
        config: says where runs are.

    Raises:
        ConfigError: no such run, or one that does not train the model.
    """
    if source is None:
        return None
    if source.startswith(LATEST):
        name = source.removeprefix(LATEST)
        found = latest_finished(name, Path(config.runs))
        if found is None:
            raise ConfigError(
                f"init.{model}_from={source}: there is no finished run of {name} in {config.runs}/; run "
                f"`python -m experiments.run --exp {name}` first, or set init.{model}_from to a run's folder"
            )
        run = found
    else:
        run = RunFolder(Path(source))
    folder: Path = getattr(run, model)
    if not folder.is_dir():
        raise ConfigError(
            f"init.{model}_from={source}: {run.path} holds no trained {model}; name a finished run that "
            "trains it"
        )
    return folder


def starting_weights(config: ExperimentConfig) -> dict[str, Path | None]:
    """Where each model of a run starts from, as `weights_of`."""
    return {name: weights_of(getattr(config.init, f"{name}_from"), name, config) for name in MODELS}


def runs_of(name: str, runs: Path) -> list[RunFolder]:
    """All runs of an experiment (a glob), oldest first."""
    found = [path.parent for path in Path(runs).glob(f"{name}/*/config.yaml")]
    return [RunFolder(path) for path in sorted(found, key=lambda path: (path.name[:15], path.name))]


# ---- models to measure ----


@dataclasses.dataclass(frozen=True)
class Snapshot:
    """A configuration with weights.

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


def snapshot_of_experiment(name: str, overrides: Sequence[str] = ()) -> Snapshot:
    """An experiment as it would start.

    Raises:
        ConfigError: an unknown experiment or setting, or weights of a run that is not there.
    """
    config = load_config(name, overrides)
    check_config(config)
    return Snapshot(config, Path(config.runs) / config.name / FOLDER, starting_weights(config))


def snapshot_of_run(path: Path, overrides: Sequence[str] = (), at_start: bool = False) -> Snapshot:
    """A run as it ended, or as it started where it has not ended (or `at_start`).

    Raises:
        ConfigError: not a run, an unknown setting, or weights that are gone.
    """
    run = RunFolder(path)
    if not run.config.is_file():
        raise ConfigError(f"--run {path}: not a run folder (it holds no config.yaml)")
    config = read_config(run.config, overrides)
    check_config(config)
    weights = _weights_at_start(config, run)
    is_start = at_start or not run.is_finished
    if not is_start:
        trained = {"reader": run.reader, "retriever": run.retriever}
        weights |= {model: folder for model, folder in trained.items() if folder.is_dir()}
    return Snapshot(config, run.path / FOLDER, weights, is_start, run)


def _weights_at_start(config: ExperimentConfig, run: RunFolder) -> dict[str, Path | None]:
    """What a run started from; a finished one knows it better than `latest:NAME` does today."""
    if not run.is_finished:
        return starting_weights(config)
    recorded = json.loads(run.summary.read_text())["started_from"]
    weights = {model: Path(recorded[model]) if model in recorded else None for model in MODELS}
    for model, folder in weights.items():
        if folder is not None and not folder.is_dir():
            raise ConfigError(
                f"{run.path} started from the {model} in {folder}, which is gone; put it back (a relative "
                "path is taken from the current folder)"
            )
    return weights


# ---- files ----


def write_json(path: Path, content: dict[str, Any]) -> None:
    """Writes JSON whole or not at all."""
    write_whole(path, json.dumps(content, indent=2) + "\n")


def environment() -> dict[str, Any]:
    """Versions, machine and git revision."""
    versions = {}
    # an environment may lie inside a repository that is another project's
    is_checkout = _git("rev-parse", "--show-toplevel") == str(Path(__file__).resolve().parents[1])
    for package in (SUITE, *_PACKAGES):
        try:
            versions[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    return {
        "python": sys.version.split()[0],
        "packages": versions,
        "machine": platform.machine(),
        "system": platform.platform(),
        "threads": torch.get_num_threads(),
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        "git_revision": _git("rev-parse", "HEAD") if is_checkout else None,
        "git_has_changes": is_checkout and bool(_git("status", "--porcelain", "--untracked-files=no")),
        "command": sys.argv,
    }


def _git(*arguments: str) -> str | None:
    try:
        answer = subprocess.run(
            ["git", *arguments],
            cwd=Path(__file__).parent,
            capture_output=True,
            text=True,
            timeout=10,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return answer.stdout.strip() if answer.returncode == 0 else None
