"""The rows of a report: runs pooled over seeds, never over other settings or scales."""

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from textwrap import shorten
from typing import Any

import numpy as np
from yaml import YAMLError

from datamodules.questions import HELD_OUT
from datamodules.templates import find_template
from datamodules.vital import VITAL
from experiments.config import (
    ExperimentConfig,
    experiment_names,
    in_yaml,
    load_config,
    num_examples,
    read_config,
)
from experiments.runs import LATEST, RunFolder
from experiments.show.report_files import QuestionMetrics
from experiments.show.report_runs import (
    DATASETS,
    OWN,
    SETTINGS,
    Run,
    differences,
    paper_steps,
    short_path,
)
from lightning_modules.metrics.bootstrap import bootstrap_interval, crossed_bootstrap_interval
from lightning_modules.metrics.measures import all_measures

SCALES = ("paper", "embedded", OWN)

_WITHOUT_EFFECT = {
    "name",
    "description",
    "seed",
    "runs",
    "data.root",
    "trainer.auto_batch",
    "trainer.loggers",
    "trainer.progress_bar",
    "trainer.log_every_steps",
    "trainer.checkpoint_every_steps",
}
"""Settings in which runs may differ and still be pooled."""

_DERIVED = "objective.retrieval_temperature"

SHORTENED = "shortened"
OTHER_SOURCES = "other data or models"

DATA_FILES = ("data.train", "data.validation", "data.test", "data.passages")
_LIMITS = ("data.max_train", "data.max_validation", "data.max_test", "data.max_passages")
_MODELS = ("reader.name", "retriever.name")
_DETAILS_SHOWN = 4
_LONGEST_SHOWN = 60
_NUM_HEADS_SHOWN = 3


@dataclass(frozen=True)
class PooledEstimate:
    """A mean over instances, and how far it may be off.

    Attributes:
        mean: over the instances of all seeds.
        std: sample standard deviation over them; NaN of a single one.
        low, high: 95% bootstrap interval; of several seeds over seeds and the questions that they share.
        n: number of instances, over all seeds.
    """

    mean: float
    std: float
    low: float
    high: float
    n: int

    @property
    def direction(self) -> int:
        """Of a change: 1 = a significant increase, -1 = a significant decrease, 0 = not significant.

        A change is significant where its interval excludes 0.
        """
        return (self.low > 0) - (self.high < 0)


@dataclass(frozen=True)
class Entry:
    """A row of every table: runs that differ in their seed only, or a setting that no finished run has.

    Attributes:
        scale: `paper`, `embedded` or `own`.
        dataset, setting: such as `nq` and `step2`; of one's own data the file.
        status: `measured`, `unfinished` or `missing`.
        notes: what sets the row apart: `shortened`, `other data or models` (at the paper's scale), data that
            are not the experiment's own, and settings in which it differs from other rows of the same
            experiment.
        runs: one a seed.
        estimates: of the final test.
        changes: final test - starting checkpoint, question by question.
    """

    scale: str
    dataset: str
    setting: str
    status: str
    notes: tuple[str, ...] = ()
    runs: tuple[Run, ...] = ()
    estimates: Mapping[str, PooledEstimate] = field(default_factory=dict)
    changes: Mapping[str, PooledEstimate] = field(default_factory=dict)

    @property
    def is_measured(self) -> bool:
        return self.status == "measured"

    @property
    def details(self) -> tuple[str, ...]:
        """Its models and the further settings that are not the experiment's own, the first few of them."""
        if not self.runs:
            return ()
        config = self.runs[0].config
        changed = _changed(self.runs[0].as_asked)
        noted = {note.partition("=")[0] for note in self.notes}
        named = {key: value for key, value in changed.items() if key not in noted}
        models = {"reader.name": config.reader.name, "retriever.name": config.retriever.name}
        shown = [
            f"{key.partition('.')[0]} {_shortly(key, name)}"
            for key, name in models.items()
            if key in named or (self.scale == OWN and key not in changed)
        ]
        others = [
            f"{key}={_shortly(key, value)}"
            for key, value in named.items()
            if key not in (*_MODELS, *DATA_FILES, *_LIMITS)
        ]
        more = len(others) - _DETAILS_SHOWN
        rest = [f"and {more} more setting{'s' * (more > 1)}"] if more > 0 else []
        return (*shown, *others[:_DETAILS_SHOWN], *rest)


@dataclass(frozen=True)
class Runs:
    """All runs of a report.

    Attributes:
        entries: scale by scale, data set by data set.
        statuses: each run with its status in the report: whether it counts, or why not.
    """

    entries: list[Entry]
    statuses: list[tuple[Run, str]]


def sort_runs(runs: Sequence[Run]) -> Runs:
    """Makes the rows of a report.

    Args:
        runs: oldest first; of several with the same settings and seed the newest finished one counts.
    """
    entries: list[Entry] = []
    scales = sorted({run.scale for run in runs}, key=lambda scale: _place(SCALES, scale))
    for scale in scales:
        of_scale = [run for run in runs if run.scale == scale]
        for dataset in sorted({run.dataset for run in of_scale}, key=lambda name: _place(DATASETS, name)):
            of_dataset = [run for run in of_scale if run.dataset == dataset]
            present = {run.setting for run in of_dataset}
            # what the paper has beside them; of other data nobody expects a run of every setting
            papers = {name for name in SETTINGS if f"{name}_{dataset}" in experiment_names()}
            for setting in sorted(
                present | (papers if scale == "paper" else set()), key=lambda name: _place(SETTINGS, name)
            ):
                of_setting = [run for run in of_dataset if run.setting == setting]
                entries += _entries_of(scale, dataset, setting, of_setting)
    counted = {run.path for entry in entries for run in entry.runs}
    return Runs(entries, [(run, _status(run, counted)) for run in runs])


def changed_settings(config: ExperimentConfig) -> dict[str, str]:
    """Settings in which a run differs from its experiment as it is shipped now.

    Args:
        config: of the run, as it was asked for where that is known.
    """
    return {key: _in_a_line(value) for key, value in _changed(config).items()}


def _changed(config: ExperimentConfig) -> dict[str, Any]:
    if config.name not in experiment_names():
        return {}
    shipped, own = _shipped(config.name), _settings(config)
    return {
        key: asked_for
        for key, asked_for in flatten(config).items()
        # runs of earlier versions do not say that they were asked to derive it
        if own[key] != shipped[key]
        and key not in _WITHOUT_EFFECT
        and (key != _DERIVED or shipped[key] is not None)
    }


def _settings(config: ExperimentConfig) -> dict[str, Any]:
    """Settings by their dotted keys; one that says what holds without it anyway is null."""
    settings = flatten(config)
    if num_examples(config) == find_template(config.reader.template).num_examples:
        settings["reader.num_examples"] = None
    return settings


@cache
def _shipped(name: str) -> Mapping[str, Any]:
    """Of an experiment as it is shipped: read once, since every row of a report asks."""
    return _settings(load_config(name))


def _in_a_line(value: Any) -> str:
    """A setting's value as the command line takes it, where a text of several lines is its beginning."""
    text = in_yaml(value)
    return shorten(text, _LONGEST_SHOWN, placeholder=" ...") if "\n" in text else text


def _shortly(key: str, value: Any) -> str:
    """A setting's value as a row shows it: of a file, folder or hub's model the end, of many heads a few."""
    if key in DATA_FILES:
        return short_path(value)
    if key == "reader.attention_heads" and value is not None and value.count(",") > _NUM_HEADS_SHOWN:
        heads = value.split(",")
        return f"{','.join(heads[:_NUM_HEADS_SHOWN])},... ({len(heads)})"
    text = _in_a_line(value.partition("@")[0] if key in _MODELS else value)
    return text.rstrip("/").rpartition("/")[2]


def flatten(config: ExperimentConfig | Mapping[str, Any]) -> dict[str, Any]:
    """Settings by their dotted keys; of a configuration, or of one as JSON has it."""
    return dict(_flat(config if isinstance(config, Mapping) else dataclasses.asdict(config)))


def _flat(settings: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in settings.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def _place(order: Sequence[str], name: str) -> tuple[int, str]:
    return (order.index(name) if name in order else len(order), name)


def _entries_of(scale: str, dataset: str, setting: str, runs: Sequence[Run]) -> Iterator[Entry]:
    """The rows of one experiment: one for each way in which its finished runs were set."""
    variants: dict[str, dict[int, Run]] = {}
    settings_of: dict[str, dict[str, Any]] = {}
    for run in runs:
        if run.is_finished:
            settings = _comparable(run.config, run.path)
            variants.setdefault(str(settings), {})[run.config.seed] = run
            settings_of[str(settings)] = settings
    if not variants:
        yield Entry(scale, dataset, setting, "unfinished" if runs else "missing")
    rows = [tuple(by_seed[seed] for seed in sorted(by_seed)) for by_seed in variants.values()]
    all_settings = [settings_of[variant] for variant in variants]
    for own, chosen in zip(all_settings, rows, strict=True):
        differing = {
            key for key in own if any(other.get(key, own[key]) != own[key] for other in all_settings)
        }
        noted = [*_changed_data(chosen[0].config), *(key for key in own if key in differing)]
        notes = [f"{key}={_tell_apart(key, own, all_settings)}" for key in dict.fromkeys(noted)]
        yield Entry(
            scale,
            dataset,
            setting,
            "measured",
            (*_departures_from_paper(chosen[0]), *notes),
            chosen,
            estimate_all([run.after for run in chosen]),
            estimate_all([run.changes for run in chosen]),
        )


def _tell_apart(key: str, own: Mapping[str, Any], all_settings: Sequence[Mapping[str, Any]]) -> str:
    """A row's value in short, or whole where another row's would be the same in short."""
    values = [of[key] for of in all_settings if key in of]
    alike = {_in_a_line(value) for value in values if _shortly(key, value) == _shortly(key, own[key])}
    return _shortly(key, own[key]) if len(alike) == 1 else _in_a_line(own[key])


def _changed_data(config: ExperimentConfig) -> Iterator[str]:
    """The keys of files and limits that are not the experiment's own, without those that name the row."""
    changed = _changed(config)
    for key in (*DATA_FILES, *_LIMITS):
        if key not in changed or key == "data.test":
            continue
        if config.data.test == HELD_OUT and (key == "data.train" or changed[key] == HELD_OUT):
            continue
        if key in _LIMITS or not _is_copy(changed[key], _shipped(config.name)[key]):
            yield key


def _is_copy(name: str, shipped: str) -> bool:
    """Whether a file is what an experiment is shipped with, perhaps in another folder."""
    return name == shipped or (shipped != VITAL and Path(name).name == Path(shipped).name)


def _comparable(
    config: ExperimentConfig, folder: Path, followers: frozenset[Path] = frozenset()
) -> dict[str, Any]:
    """Settings that runs must share to be pooled; those of the runs that one started from are among them.

    So a second step of several seeds is one row, each of which started from the first step of its own seed.

    Args:
        config: of the run.
        folder: of the run.
        followers: folders of the runs that started from it, one after the other.
    """
    settings = {key: value for key, value in _settings(config).items() if key not in _WITHOUT_EFFECT}
    followers = followers | {folder.resolve()}
    for key in ("init.reader_from", "init.retriever_from"):
        source = settings[key]
        if source is None:
            continue
        if source.startswith(LATEST):
            settings[key] = source.removeprefix(LATEST)
            continue
        path, start = _read_start(source, folder)
        if start is None or path.resolve() in followers:
            settings[key] = str(path)
            continue
        settings[key] = start.name
        inherited = _comparable(start, path, followers)
        settings |= {f"{key}={start.name}: {name}": value for name, value in inherited.items()}
    return settings


def _read_start(source: str, follower: Path) -> tuple[Path, ExperimentConfig | None]:
    """Folder and settings of a run that another started from; None where they cannot be read.

    Args:
        source: its folder, as the other one names it.
        follower: folder of the other one, beside which it is looked for too: both may have been moved.
    """
    path = Path(source)
    for folder in (path, follower.parent.parent / path.parent.name / path.name):
        try:
            return folder, read_config(RunFolder(folder).config)
        except (ValueError, OSError, YAMLError, RecursionError):
            continue
    return path, None


def _departures_from_paper(run: Run) -> Iterator[str]:
    """How a run at the paper's scale departs from the paper."""
    if run.scale != "paper" or run.config.name not in experiment_names():
        return
    settings, shipped = flatten(run.config), flatten(load_config(run.config.name))
    steps = paper_steps(run.setting, run.dataset) or 0
    if settings["trainer.max_steps"] < steps or any(_is_less(settings[key], shipped[key]) for key in _LIMITS):
        yield SHORTENED
    if not all(_is_copy(settings[key], shipped[key]) for key in (*DATA_FILES, *_MODELS)):
        yield OTHER_SOURCES


def _is_less(limit: int | None, shipped: int | None) -> bool:
    """Whether a limit leaves out more than the experiment does as it is shipped; None = no limit."""
    return limit is not None and (shipped is None or limit < shipped)


def _status(run: Run, counted: set[Path]) -> str:
    if not run.is_finished:
        return f"does not count: {run.status}"
    return "counts" if run.path in counted else "does not count: a newer run has its settings and seed"


# ---- means over questions ----


def pooled_estimate(of_seeds: Sequence[Mapping[str, float]]) -> PooledEstimate | None:
    """Pools the instances of runs that differ in their seed only; None where there are none.

    Args:
        of_seeds: values of each seed's instances by question.
    """
    questions = list(dict.fromkeys(question for values in of_seeds for question in values))
    if not questions:
        return None
    values = np.array([[of.get(question, np.nan) for question in questions] for of in of_seeds if of])
    pooled = values[~np.isnan(values)]
    if not len(pooled):
        return None
    low, high = bootstrap_interval(pooled) if len(values) == 1 else crossed_bootstrap_interval(values)
    std = float(pooled.std(ddof=1)) if len(pooled) > 1 else np.nan
    return PooledEstimate(float(pooled.mean()), std, low, high, len(pooled))


def estimate_all(metrics_of_seeds: Sequence[QuestionMetrics]) -> dict[str, PooledEstimate]:
    """Every metric of a report that has values; one value for each question."""
    names = [measure.name for measure in all_measures() if measure.has_questions]
    found = {name: pooled_estimate([metrics.get(name, {}) for metrics in metrics_of_seeds]) for name in names}
    return {name: value for name, value in found.items() if value is not None}


def paired_differences(first: Entry, second: Entry) -> dict[str, PooledEstimate]:
    """Metric -> first - second over the test questions that both rows have measured.

    Each seed that both rows have is compared with itself, and other seeds are left out; where they share
    none, the means over seeds are compared, with an interval over questions alone.
    """
    of_first, of_second = ({run.config.seed: run for run in entry.runs} for entry in (first, second))
    seeds = shared_seeds(first, second)
    if not seeds:
        means = differences(_mean_of_seeds(first), _mean_of_seeds(second))
        return estimate_all([_of_same_questions(means, first.runs[0], second.runs[0])])
    pairs = [(of_first[seed], of_second[seed]) for seed in seeds]
    return estimate_all([_of_same_questions(differences(a.after, b.after), a, b) for a, b in pairs])


def shared_seeds(first: Entry, second: Entry) -> list[int]:
    """The seeds that two rows both have."""
    of_first, of_second = ({run.config.seed for run in entry.runs} for entry in (first, second))
    return sorted(of_first & of_second)


def _of_same_questions(metrics: QuestionMetrics, first: Run, second: Run) -> QuestionMetrics:
    """Without the ids that are of another question in the other run."""
    return {
        name: {id: value for id, value in values.items() if first.has_same_question(second, id)}
        for name, values in metrics.items()
    }


def _mean_of_seeds(entry: Entry) -> QuestionMetrics:
    """Of each question, over the runs that have measured it."""
    collected: dict[str, dict[str, list[float]]] = {}
    for run in entry.runs:
        for name, values in run.after.items():
            for question, value in values.items():
                collected.setdefault(name, {}).setdefault(question, []).append(value)
    return {
        name: {question: float(np.mean(found)) for question, found in values.items()}
        for name, values in collected.items()
    }
