"""A run's folder and what it holds; the models that commands measure afterwards."""

import dataclasses
import logging
import os
import platform
import shutil
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

from datamodules.durable_files import delete_partials_of_dead, partial_beside
from datamodules.passage_index import FAISS_PACKAGES
from datamodules.sealed_files import DamagedFileError, SealedFile, read_json, verify_files, write_json
from datamodules.templates import TEMPLATES, find_template
from datamodules.text_files import json_objects
from experiments.config import (
    ConfigError,
    ExperimentConfig,
    load_config,
    measured_otherwise,
    read_config,
    save_config,
)

SUITE = "attention-distillation"
"""What the suite is called as a package."""
LATEST = "latest:"
MODELS = ("reader", "retriever")
FINISHED = "finished"
FAILED = "failed"
"""`status` in the summary of a run that came to its own end, and of one whose numbers broke before."""
FOLDER = "analysis"
"""Within a run's folder: what is measured of its models afterwards."""

RUN_VARIABLE = "ATTENTION_DISTILLATION_RUN"
"""Tells the run's folder to the further processes of a run on several devices."""

log = logging.getLogger(__name__)

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
        """The resolved configuration; what only the start can tell is written into it then."""
        return self.path / "config.yaml"

    @property
    def asked(self) -> Path:
        """The configuration as it was asked for, which stays as it is; earlier versions wrote none."""
        return self.path / "asked.yaml"

    @property
    def environment(self) -> Path:
        """Versions, machine, git revision and command."""
        return self.path / "environment.json"

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
    def previous_checkpoint(self) -> Path:
        """The one before the last, which takes its place where that is damaged."""
        return self.checkpoints / "previous.ckpt"

    @property
    def last_good_checkpoint(self) -> Path:
        """Weights of the last validation that saw no collapse."""
        return self.checkpoints / "last_good.ckpt"

    @property
    def index(self) -> Path:
        return self.path / "index"

    @property
    def has_embeddings(self) -> bool:
        """Whether an encoding has begun, or come to its end, that would be lost with the folder."""
        return any(self.index.glob("*.partial")) or any(self.index.glob("*.embeddings"))

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
    def token_view(self) -> Path:
        """Pages of passages shaded by attention."""
        return self.path / "token_view"

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
        """Whether the run came to its own end; one whose summary is damaged has to come there again."""
        return self._read_status() == FINISHED

    @property
    def has_failed(self) -> bool:
        """Whether the run's numbers broke, so that nothing goes on with it."""
        return self._read_status() == FAILED

    @property
    def can_go_on(self) -> bool:
        """Whether the run has come to no end, neither its own nor that of broken numbers."""
        return self._read_status() not in (FINISHED, FAILED)

    def _read_status(self) -> str | None:
        """Of the summary; None = there is none, or it is damaged."""
        try:
            status: str | None = self.read_summary().get("status")
        except FileNotFoundError:
            return None
        except DamagedFileError as error:
            log.warning("%s; --resume writes it anew", error)
            return None
        return status

    def read_summary(self) -> dict[str, Any]:
        """What `summary.json` holds.

        Raises:
            FileNotFoundError: there is none yet.
            DamagedFileError: it is not what was written.
        """
        return read_json(self.summary)

    def read_asked(self, resolved: ExperimentConfig | None = None) -> ExperimentConfig:
        """The configuration as it was asked for: what other runs, checks and experiments are compared with.

        Args:
            resolved: what a run without such a file goes by; None = its `config.yaml`.

        Raises:
            ConfigError: it is damaged, or the folder holds no configuration.
        """
        if self.asked.is_file():
            return read_config(self.asked)
        return read_config(self.config) if resolved is None else resolved

    def verify_results(self, *models: str) -> None:
        """Compares predictions and validations of a finished run with their checksums, or its trained models.

        Args:
            models: `reader`, `retriever`; none = what it measured.

        Raises:
            DamagedFileError: names the file that is not what was written.
        """
        checksums: Mapping[str, str] = self.read_summary().get("checksums", {})
        prefixes = tuple(f"{model}/" for model in models) or ("predictions", "validations")
        wanted = {name: value for name, value in checksums.items() if name.startswith(prefixes)}
        verify_files(self.path, wanted)

    def repair(self) -> None:
        """Puts the checkpoint before the last in its place where that is gone or damaged.

        Raises:
            ConfigError: both are damaged.
        """
        last, previous = self.last_checkpoint, self.previous_checkpoint
        try:
            SealedFile(last).verify()
            return
        except FileNotFoundError:  # none yet, or killed between two renames
            problem = None
        except DamagedFileError as error:
            problem = error
        try:
            SealedFile(previous).verify()
        except FileNotFoundError:
            if problem is not None:
                log.warning("%s; it was the first, so the run trains from its start", problem)
                last.unlink()
            return
        except DamagedFileError as error:
            raise ConfigError(
                f"{problem or f'{last} is gone'}; {error}; put a copy of one back, or delete "
                f"{self.checkpoints}: the run then trains again from its start, to the same numbers"
            ) from error
        log.warning("%s; going on from the checkpoint before it", problem or f"{last} is gone")
        previous.replace(last)

    def tidy(self, best: Path | None, index: Path | None) -> None:
        """Deletes what only a run that goes on needs.

        Args:
            best: the checkpoint that is kept beside the last one; None = there is none.
            index: of the final test, which is kept; None = there is none in the run's folder.
        """
        for folder in self.index.iterdir() if self.index.is_dir() else ():
            if folder != index and folder.is_dir():
                shutil.rmtree(folder)
        others = {*self.checkpoints.glob("best-*.ckpt"), *self.checkpoints.glob("index-*.ckpt")}
        for path in {*others, self.previous_checkpoint} - {best}:
            path.unlink(missing_ok=True)


def join_run() -> RunFolder | None:
    """The folder of the run that Lightning started this process to join; None = it did not.

    It starts the processes for further devices with the command line that it was started with itself.

    Raises:
        ConfigError: an unknown launcher has started several processes.
    """
    from experiments.processes import DOCS, is_main_process, launcher

    if is_main_process() or launcher() is not None:
        return None
    if RUN_VARIABLE not in os.environ:
        raise ConfigError(
            "LOCAL_RANK is set, but neither torchrun nor srun has started this process; use one of them "
            f"({DOCS}), or start one process alone, which starts one for each of trainer.devices"
        )
    return RunFolder(Path(os.environ[RUN_VARIABLE]))


def create_run(config: ExperimentConfig) -> RunFolder:
    """A new folder with the configuration, as asked for and to be resolved, and what the run will run on.

    It is made under another name, and takes its own when all of that is in it.

    Raises:
        ConfigError: the folder cannot be made.
    """
    parent = Path(config.runs) / config.name
    path = parent / f"{time.strftime('%Y%m%d-%H%M%S')}-seed{config.seed}"
    partial = partial_beside(parent / "run")
    try:
        partial.mkdir(parents=True)
        delete_partials_of_dead(parent / "run")
        try:
            begun = RunFolder(partial)
            config = with_template_text(config)
            for file in (begun.asked, begun.config):
                save_config(config, file)
            write_json(begun.environment, environment())
            return RunFolder(_named(partial, path))
        finally:
            shutil.rmtree(partial, ignore_errors=True)
    except OSError as error:
        raise ConfigError(f"cannot make the run folder {path}: {error.strerror}; set runs=FOLDER") from error


def _named(partial: Path, path: Path) -> Path:
    """Gives a folder its name, with a number behind it where other runs have it."""
    copy, free = 1, path
    while True:
        try:
            return partial.rename(free)
        except OSError:
            if not free.is_dir():
                raise
            copy += 1
            free = path.with_name(f"{path.name}-{copy}")


def with_runs_named(config: ExperimentConfig) -> ExperimentConfig:
    """With the folder of each run that this one starts from: the latest one may be another tomorrow.

    Raises:
        ConfigError: as `weights_of`.
    """
    named = {}
    for model in MODELS:
        source = getattr(config.init, f"{model}_from")
        folder = weights_of(source, model, config)
        if source is not None and source.startswith(LATEST) and folder is not None:
            named[f"{model}_from"] = str(folder.parent)
    return dataclasses.replace(config, init=dataclasses.replace(config.init, **named))


def with_template_text(config: ExperimentConfig) -> ExperimentConfig:
    """With the text of a template file, which may be another before the run is gone on with.

    Raises:
        DataError: there is no such file, or it is no template.
    """
    if config.reader.template in TEMPLATES:
        return config
    text = find_template(config.reader.template).together
    return dataclasses.replace(config, reader=dataclasses.replace(config.reader, template=text))


def find_run(config_name: str | None, runs: Path, wanted: str | None) -> RunFolder:
    """The run to resume: a folder, or the newest unfinished one of an experiment that has not failed.

    Raises:
        ConfigError: there is none.
    """
    if wanted is not None:
        run = RunFolder(Path(wanted))
        if not run.config.is_file():
            raise ConfigError(f"--resume {wanted}: not a run folder (it holds no config.yaml)")
        return run
    there = runs_of(config_name or "*", runs)
    candidates = [run for run in there if run.can_go_on]
    if candidates:
        return candidates[-1]
    what = f"of {config_name} " if config_name else ""
    failed = [run.path for run in there if run.has_failed]
    if failed:
        raise ConfigError(
            f"there is no run {what}in {runs}/ to resume: those without an end of their own have failed (the "
            f"newest: {failed[-1]}, of which --resume {failed[-1]} says how to start anew)"
        )
    raise ConfigError(f"there is no unfinished run {what}in {runs}/ to resume; start one with --exp NAME")


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
    _verify_models(run, model)
    return folder


def _verify_models(run: RunFolder, model: str) -> None:
    try:
        run.verify_results(model)
    except FileNotFoundError:  # not finished: no checksums yet
        pass
    except DamagedFileError as error:
        raise ConfigError(
            f"{error}; put a copy back, or delete {run.summary} and the folder {getattr(run, model)}, and "
            f"write them anew: python -m experiments.run --resume {run.path}"
        ) from error


def starting_weights(config: ExperimentConfig) -> dict[str, Path | None]:
    """Where each model of a run starts from, as `weights_of`."""
    return {name: weights_of(getattr(config.init, f"{name}_from"), name, config) for name in MODELS}


def runs_of(name: str, runs: Path) -> list[RunFolder]:
    """All runs of an experiment (a glob), oldest first."""
    found = [path.parent for path in Path(runs).glob(f"{name}/[!.]*/config.yaml")]
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
        changed: settings by which something else would be measured than by the run's own.
    """

    config: ExperimentConfig
    folder: Path
    weights: dict[str, Path | None]
    is_start: bool = True
    run: RunFolder | None = None
    changed: tuple[str, ...] = ()

    @property
    def why_not_kept(self) -> str:
        """Why results under changed settings are not kept as the run's own, for the user."""
        assert self.run is not None, "an experiment's results are of the settings that are given"
        return (
            "not kept as the run's own results, which reports and the model card quote, since settings are "
            f"not those of {self.run.config}: {', '.join(self.changed)}; --out FILE keeps them elsewhere"
        )

    def place_of(self, out: Path | None, usual: Path) -> Path | None:
        """Where results go.

        Args:
            out: what the user asks for; None = nothing.
            usual: among the run's own.

        Returns:
            None = nowhere, since settings are changed and nobody asks for a file.

        Raises:
            ConfigError: changed settings, and a file among the run's own.
        """
        if out is None:
            return None if self.changed else usual
        if self.changed and self.run is not None and out.resolve().parent == self.folder.resolve():
            raise ConfigError(
                f"--out {out}: that folder is for what is measured with the run's own settings, and some are "
                f"not those of {self.run.config}: {', '.join(self.changed)}; name a file elsewhere"
            )
        return out

    def token_file(self, split: str) -> Path:
        """`tokens.parquet`; of the start `tokens-start.parquet`; of another split than `test` named so."""
        parts = ["tokens", *(["start"] if self.is_start else []), *([split] if split != "test" else [])]
        return self.folder / f"{'-'.join(parts)}.parquet"


def snapshot_of_experiment(name: str, overrides: Sequence[str] = ()) -> Snapshot:
    """An experiment as it would start.

    Raises:
        ConfigError: an unknown experiment or setting, or weights of a run that is not there.
    """
    from experiments.checks import check_config

    config = load_config(name, overrides)
    check_config(config)
    return Snapshot(config, Path(config.runs) / config.name / FOLDER, starting_weights(config))


def snapshot_of_run(path: Path, overrides: Sequence[str] = (), at_start: bool = False) -> Snapshot:
    """A run as it ended, or as it started where it has not ended (or `at_start`).

    Raises:
        ConfigError: not a run, an unknown setting, or weights that are gone.
    """
    from experiments.checks import check_config

    run = RunFolder(path)
    if not run.config.is_file():
        raise ConfigError(f"--run {path}: not a run folder (it holds no config.yaml)")
    config = read_config(run.config, overrides)
    changed = tuple(measured_otherwise(read_config(run.config), config)) if overrides else ()
    check_config(config)
    weights = _weights_at_start(config, run)
    is_start = at_start or not run.is_finished
    if not is_start:
        trained = {"reader": run.reader, "retriever": run.retriever}
        weights |= {model: folder for model, folder in trained.items() if folder.is_dir()}
        for model in MODELS:
            _verify_models(run, model)
    return Snapshot(config, run.path / FOLDER, weights, is_start, run, changed)


def _weights_at_start(config: ExperimentConfig, run: RunFolder) -> dict[str, Path | None]:
    """What a run started from; a finished one knows it better than `latest:NAME` does today."""
    if not run.is_finished:
        return starting_weights(config)
    recorded = run.read_summary().get("started_from", {})
    weights = {model: Path(recorded[model]) if model in recorded else None for model in MODELS}
    for model, folder in weights.items():
        if folder is not None and not folder.is_dir():
            raise ConfigError(
                f"{run.path} started from the {model} in {folder}, which is gone; put it back (a relative "
                "path is taken from the current folder)"
            )
    return weights


# ---- files ----


def environment() -> dict[str, Any]:
    """Versions, machine and git revision."""
    import torch

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


def read_first_hits(path: Path) -> dict[str, int | None]:
    """Rank of the first passage with an answer by question, from 0; None = there is none.

    Args:
        path: of what was written, beside which the shares of other processes lie.
    """
    files = (path, *sorted(path.parent.glob(f"{path.name}.rank*")))
    records = (record for file in files for _, record in json_objects(file))
    return {record["id"]: record["first_hit_rank"] for record in records}
