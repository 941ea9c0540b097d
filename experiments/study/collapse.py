"""Part `collapse`: when does the paper's signal ruin a retriever?"""

from collections.abc import Sequence
from itertools import product

from experiments.study.cells import Cell, Result
from experiments.study.material import Material
from experiments.study.prediction import measure_and_teach
from experiments.study.readers import INITIAL, READ_ALONE, STEP1, STEP1_STEPS, ReadingOf, Readings
from experiments.study.students import Lesson
from experiments.study.teachers import Teacher
from lightning_modules.candidates import CandidateSource

NAME = "collapse"
_WARMED_UP = "-warmed-up"
RATES = ("3e-5", "1e-4", f"1e-4{_WARMED_UP}")
"""Peak rates; the last one is reached after half of the steps, where the others are after four."""
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


def cells(seeds: Sequence[int]) -> list[Cell]:
    """All combinations with the first seed, then with the next."""
    return [
        Cell.of(NAME, seed, **dict(zip(FACTORS, levels, strict=True)))
        for seed in seeds
        for levels in product(*FACTORS.values())
    ]


def run(cell: Cell, material: Material, readings: Readings) -> Result:
    """Lets the answer's rows teach, twice as long as elsewhere, with a validation every so many steps."""
    teacher = Teacher(
        f"{cell['reader']} answer, {cell['shown']}",
        cell["reader"],
        (("answer", 1.0),),
        ReadingOf(cell["reader"], cell["shown"], cell["candidates"]),
        without_length=cell["length"] == TAKEN_OFF,
    )
    num_steps = 2 * material.config.trainer.max_steps
    rate = cell["rate"]
    warmup_steps = num_steps // 2 if rate.endswith(_WARMED_UP) else None
    peak = float(rate.removesuffix(_WARMED_UP))
    lesson = Lesson(teacher.scale, teacher.temperature, peak, num_steps, warmup_steps)
    return measure_and_teach(cell, teacher, lesson, material, readings)
