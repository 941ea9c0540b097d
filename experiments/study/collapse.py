"""Part `collapse`: when does the paper's signal ruin a retriever?"""

from collections.abc import Sequence
from dataclasses import replace
from itertools import product

from experiments.study.cells import Cell, Result
from experiments.study.material import Material
from experiments.study.prediction import measure_and_teach
from experiments.study.readers import INITIAL, READ_ALONE, STEP1, STEP1_STEPS, ReadingOf, Readings
from experiments.study.students import Lesson
from experiments.study.teachers import Teacher, teachers
from lightning_modules.candidates import CandidateSource

NAME = "collapse"
_WARMED_UP = "-warmed-up"
RATES = ("5e-6", "3e-5", "1e-4", f"1e-4{_WARMED_UP}")
"""Peak rates, the highest twenty times the lowest, as the paper's two are; the last one is reached after half
of the steps, where the others are after four."""
_READERS = (INITIAL, f"{STEP1}-{STEP1_STEPS[-1]}")
_SHOWN = (READ_ALONE, "rank", "shuffled")
_CANDIDATES = (CandidateSource.BOTH.value, CandidateSource.INDEX.value)
AS_IT_IS, TAKEN_OFF = "as-it-is", "taken-off"
FACTORS: dict[str, tuple[str, ...]] = {
    "reader": _READERS,
    "shown": _SHOWN,
    "candidates": _CANDIDATES,
    "rate": RATES,
    "length": (AS_IT_IS, TAKEN_OFF),
}
"""What is crossed; steps are within a cell."""
CONTROLS = ("uniform", "order", "labels")
"""Teachers without a reader, at the same rates: what any training does, the order of the candidates, and true
labels."""
FACTORS_OF_CONTROLS: dict[str, tuple[str, ...]] = {
    "control": CONTROLS,
    "candidates": _CANDIDATES,
    "rate": RATES,
}


def cells(seeds: Sequence[int]) -> list[Cell]:
    """All combinations, then all controls, with the first seed, then with the next."""
    return [
        Cell.of(NAME, seed, **dict(zip(factors, levels, strict=True)))
        for seed in seeds
        for factors in (FACTORS, FACTORS_OF_CONTROLS)
        for levels in product(*factors.values())
    ]


def is_control(cell: Cell) -> bool:
    """Whether a cell of the part has a teacher without a reader."""
    return dict(cell.factors).keys() == FACTORS_OF_CONTROLS.keys()


def run(cell: Cell, material: Material, readings: Readings) -> Result:
    """Lets the answer's rows teach, twice as long as elsewhere, with a validation every so many steps."""
    teacher = _control(cell) if is_control(cell) else _teacher(cell)
    num_steps = 2 * material.config.trainer.max_steps
    rate = cell["rate"]
    warmup_steps = num_steps // 2 if rate.endswith(_WARMED_UP) else None
    peak = float(rate.removesuffix(_WARMED_UP))
    lesson = Lesson(teacher.scale, teacher.temperature, peak, num_steps, warmup_steps)
    return measure_and_teach(cell, teacher, lesson, material, readings)


def _teacher(cell: Cell) -> Teacher:
    return Teacher(
        f"{cell['reader']} answer, {cell['shown']}",
        cell["reader"],
        (("answer", 1.0),),
        ReadingOf(cell["reader"], cell["shown"], cell["candidates"]),
        without_length=cell["length"] == TAKEN_OFF,
    )


def _control(cell: Cell) -> Teacher:
    return replace(teachers()[cell["control"]], of_control=CandidateSource(cell["candidates"]))
