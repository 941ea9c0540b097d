"""Part `teachers`: what is known of each signal of each reader before it teaches; nothing is trained."""

from collections.abc import Sequence

from experiments.study.before import Asked, measures_before
from experiments.study.cells import Cell, Result, exactly
from experiments.study.material import Material
from experiments.study.readers import INITIAL, ReadingOf, Readings
from experiments.study.teachers import OTHER_READERS, Teacher, scores_of
from lightning_modules.candidates import CandidateSource

NAME = "teachers"
READERS = (INITIAL, *OTHER_READERS)
SIGNALS = (
    "answer",
    "question",
    "last",
    "likelihood",
    "answer+question+likelihood",
    "question qrhead:16+likelihood",
    "answer qrhead:16",
    "question qrhead:16",
    "question core:8",
    "question layers:14-17",
)


def cells(seeds: Sequence[int]) -> list[Cell]:
    """Of each reader and signal one: a frozen reader says the same every time."""
    return [Cell.of(NAME, reader=reader, signal=signal) for reader in READERS for signal in SIGNALS]


def run(cell: Cell, material: Material, readings: Readings) -> Result:
    """Reads the candidates, where that has not been done, and measures the signal."""
    of = ReadingOf(cell["reader"])
    parts = tuple((signal, 1.0) for signal in cell["signal"].split("+"))
    teacher = Teacher(f"{cell['reader']} {cell['signal']}", cell["reader"], parts, of)
    candidates = material.candidates(CandidateSource.BOTH)
    scores, reading = scores_of(teacher, candidates, readings), readings[of]
    asked = Asked(candidates.has_answer, reading.lengths, material.log_p_retr(CandidateSource.BOTH))
    result = Result(cell, measures_before(teacher, scores, asked, reading))
    result.measures["seconds"] = exactly(reading.seconds)
    return result
