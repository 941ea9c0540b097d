"""Part `tables`: the settings of the paper's Table 1 at embedded scale, whole runs of their own."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from datamodules.sealed_files import DamagedFileError, read_json
from experiments import control_length
from experiments.command_line import INTERRUPTED
from experiments.runs import RunFolder, read_first_hits
from experiments.study.cells import Cell, Result, exactly
from experiments.study.material import Material
from experiments.study.prediction import BEYOND_LENGTH, GAIN
from experiments.study.readers import Readings
from experiments.sweep import find_run_of, launch
from lightning_modules.metrics.estimates import Estimate
from lightning_modules.metrics.measures import BM25

NAME = "tables"
SETTINGS = {
    "initial": "checkpoint_vital",
    "off-the-shelf": "offshelf_vital",
    "step-1": "step1_vital",
    "step-2": "step2_vital",
    "perplexity": "perplexity_vital",
}
"""Settings of the paper, and the experiments that they are; Step 2 comes after the Step 1 that it needs."""
CONTROL = "uniform"
"""No setting of the paper's: the retriever of off-the-shelf with the same passages, all of them alike."""
_OF_CONTROL = ("training.train_reader=false", "objective.name=uniform")
EXPERIMENTS = {**SETTINGS, CONTROL: SETTINGS["off-the-shelf"]}
"""Of the settings and the control."""
LEARNS = ("off-the-shelf", "step-2", "perplexity", CONTROL)
"""The settings whose retriever is trained."""
HITS = "hit_at_5"
HITS_OF_BM25 = f"{BM25}hr_at_5"
"""Of the same test questions, over the same passages: what a retriever has to beat."""
VALIDATION = "validation/mean_hr_at_5@"
INDICATORS = tuple(
    f"indicator{number}/{name}" for number in (1, 2) for name in ("attention_p90", "spearman_p90")
)
"""Of the test questions that are read, with the models at the end."""
_K = 5
_CUT_DOWN = (
    "data.max_validation=100",
    "data.max_passages=3000",
    "reader.num_examples=0",  # the settings differ in nothing else
    "trainer.validate_every_steps=30",
    "training.num_passages=3",
    "evaluation.num_read=2",  # the indicators shown are those of the test
    "evaluation.token_drops=gradient",
    "evaluation.num_read_test=24",
    "index.refresh='0-1000000:30'",
)
NUM_STEPS = 60
"""Of each setting."""
LONGER = {"off-the-shelf": 240, "step-2": 240, CONTROL: 240}
"""Steps of the runs that show whether a gain holds; Step 2's reader is that of the same Step 1."""
_DATA = "vital"


def cells(seeds: Sequence[int]) -> list[Cell]:
    """All settings with the first seed, then with the next; then the longer runs likewise."""
    steps = [dict.fromkeys(SETTINGS, NUM_STEPS), LONGER]
    return [
        Cell.of(NAME, seed, setting=setting, steps=str(num_steps))
        for of_settings in steps
        for seed in seeds
        for setting, num_steps in of_settings.items()
    ]


def name_of(cell: Cell) -> str:
    """A cell's setting, with its steps where they are more than others have."""
    return name_with(cell["setting"], int(cell["steps"]))


def name_with(setting: str, num_steps: int) -> str:
    """A setting that is trained so long."""
    return setting + (f", {num_steps} steps" if num_steps > NUM_STEPS else "")


def validations_of(result: Result) -> dict[int, float]:
    """HR@5 of the validation questions by step, in order; empty where a run trains nothing."""
    found = {
        int(name.removeprefix(VALIDATION)): of.mean
        for name, of in result.measures.items()
        if name.startswith(VALIDATION)
    }
    return dict(sorted(found.items()))


def run(cell: Cell, material: Material, readings: Readings) -> Result:
    """Starts a run, or goes on with it, and takes what it measured from its summary.

    Raises:
        ValueError: the run has not come to its end, or the study is of other questions.
    """
    if material.config.data.train != _DATA:
        raise ValueError(
            f"part {NAME} runs experiments of Vital QA, whose names say so; with "
            f"data.train={material.config.data.train} name the other parts"
        )
    experiment = EXPERIMENTS[cell["setting"]]
    num_steps = None if cell["setting"] == "initial" else int(cell["steps"])
    overrides = _overrides(cell, material, num_steps)
    if cell["setting"] == "step-2":
        overrides.append(f"init.reader_from={_step_1(cell, material).path}")
    found = find_run_of(experiment, overrides)
    if found is None or not found.is_finished:
        code = launch(["--exp", experiment, *overrides] if found is None else ["--resume", str(found.path)])
        if code == INTERRUPTED:
            raise KeyboardInterrupt
        found = find_run_of(experiment, overrides)
    if found is None or not found.is_finished:
        raise ValueError(f"the run of {experiment} has not come to its end")
    return _result(cell, found)


def _overrides(cell: Cell, material: Material, num_steps: int | None) -> list[str]:
    """What a run differs in from its experiment; no steps = it trains nothing."""
    of_steps = [] if num_steps is None else [f"trainer.max_steps={num_steps}"]
    of_control = _OF_CONTROL if cell["setting"] == CONTROL else ()
    return [*_CUT_DOWN, f"seed={cell.seed}", f"runs={material.folder / 'runs'}", *of_steps, *of_control]


def _step_1(cell: Cell, material: Material) -> RunFolder:
    found = find_run_of(SETTINGS["step-1"], _overrides(cell, material, NUM_STEPS))
    if found is None or not found.is_finished:
        raise ValueError(
            f"Step 2 starts from the reader of Step 1: run tables/setting=step-1/*/seed={cell.seed}"
        )
    return found


def _result(cell: Cell, found: RunFolder) -> Result:
    summary = found.read_summary()
    result = Result(cell)
    for name in ("hr_at_1", "hr_at_5", "hr_at_20", "em", "f1", "passage_words"):
        values = summary.get(name, {})
        for when, prefix in (("after", ""), ("before", "start/")):
            if values.get(when) is not None:
                result.measures[f"{prefix}{name}"] = exactly(values[when])
    of_bm25 = summary.get("bm25", {}).get(HITS_OF_BM25, {}).get("before")
    if of_bm25 is not None:
        result.measures[HITS_OF_BM25] = exactly(of_bm25)
    for name in INDICATORS:
        value = summary.get("indicators", {}).get(name, {}).get("after")
        if value is not None:
            result.measures[name] = exactly(value)
    hits = _hits(found.predictions)
    result.questions[HITS] = list(hits.values())
    if cell["setting"] in LEARNS:
        start = _hits(found.predictions_start)
        result.questions[GAIN] = [hit - start[question] for question, hit in hits.items()]
        result.measures[BEYOND_LENGTH] = _beyond_length(found)
    # a run that trains nothing has no validations
    text = found.validations.read_text(encoding="utf-8") if found.validations.is_file() else ""
    for line in map(json.loads, text.splitlines()):
        if "validation/hr_at_5" in line["metrics"]:
            value = float(line["metrics"]["validation/hr_at_5"])
            result.measures[f"{VALIDATION}{line['step']}"] = exactly(value)
    return result


def _hits(predictions: Path) -> dict[str, float]:
    """Whether an answer is among the first five passages, by the question's id."""
    ranks = read_first_hits(predictions)
    return {question: float(rank is not None and rank < _K) for question, rank in ranks.items()}


def _beyond_length(found: RunFolder) -> Estimate:
    """The gain in `HITS` that no preference for some length explains, measured once a run."""
    controlled = _read_control(found)
    if controlled is None:
        if control_length.main([str(found.path), "--k", str(_K)]) != 0:
            raise ValueError(f"the gain of {found.path} cannot be controlled for length")
        controlled = read_json(found.length_control)
    return Estimate(**controlled["beyond_length"])


def _read_control(found: RunFolder) -> dict[str, Any] | None:
    """What the run's control for length has found; None = nobody has made one of this K, or it is damaged."""
    try:
        controlled = read_json(found.length_control)
    except (FileNotFoundError, DamagedFileError):
        return None
    return controlled if controlled["k"] == _K else None
