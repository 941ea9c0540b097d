"""Part `prediction`: what the check says of a teacher beforehand, and what it then does to the retriever."""

from collections.abc import Sequence

import numpy as np

from experiments.study.before import Asked, measures_before
from experiments.study.cells import Cell, Result, exactly
from experiments.study.material import Material
from experiments.study.readers import ReadingOf, Readings
from experiments.study.students import KS, K, Lesson, Taught, teach
from experiments.study.teachers import Teacher, scores_of, teachers
from lightning_modules.metrics.estimates import estimate

NAME = "prediction"
BEFORE = "before/"
"""Of names of measures: of the teacher, before anything is trained."""
GAIN, BY_LENGTH, BEYOND_LENGTH = "gain/hr_at_5", "gain/by_length", "gain/beyond_length"
MRR_GAIN = "gain/mrr_at_20"
VALIDATION = "validation/hr_at_5@"


def cells(seeds: Sequence[int]) -> list[Cell]:
    """Reading by reading, since to read takes longest; of each all its teachers with every seed."""
    readings = dict.fromkeys(teacher.reading or ReadingOf() for teacher in teachers().values())
    return [
        Cell.of(NAME, seed, teacher=name)
        for reading in readings
        for seed in seeds
        for name, teacher in teachers().items()
        if (teacher.reading or ReadingOf()) == reading
    ]


def run(cell: Cell, material: Material, readings: Readings) -> Result:
    """Measures a teacher, lets it teach, and measures the retriever."""
    teacher = teachers()[cell["teacher"]]
    config = material.config
    lesson = Lesson(
        teacher.scale,
        teacher.temperature,
        config.training.retriever_lr,
        config.trainer.max_steps,
    )
    return measure_and_teach(cell, teacher, lesson, material, readings)


def measure_and_teach(
    cell: Cell, teacher: Teacher, lesson: Lesson, material: Material, readings: Readings
) -> Result:
    """A cell of any part in which a teacher teaches from candidates that are fixed."""
    source = teacher.source
    candidates = material.candidates(source)
    scores = scores_of(teacher, candidates, readings)
    reading = None if teacher.reading is None else readings[teacher.reading]
    # the reader as it comes says how many tokens a passage has
    lengths = (reading or readings[ReadingOf(candidates=source.value)]).lengths
    asked = Asked(candidates.has_answer, lengths, material.log_p_retr(source))
    before = measures_before(teacher, scores, asked, reading)
    taught = teach(material, candidates, scores, lesson, cell.seed)
    result = after(cell, taught)
    result.measures |= {f"{BEFORE}{name}": found for name, found in before.items()}
    return result


def after(cell: Cell, taught: Taught) -> Result:
    """What became of a retriever, as measures of a cell."""
    result = Result(cell)
    by_length = taught.best_bonus_at_start - taught.hits_at_start[K]
    kept = {
        GAIN: taught.hits[K] - taught.hits_at_start[K],
        BY_LENGTH: by_length,
        BEYOND_LENGTH: taught.best_bonus - taught.best_bonus_at_start,
        MRR_GAIN: taught.reciprocal_ranks - taught.reciprocal_ranks_at_start,
        **{f"hr_at_{k}": taught.hits[k] for k in KS},
        **{f"start/hr_at_{k}": taught.hits_at_start[k] for k in KS},
        **{f"{VALIDATION}{step}": hits for step, hits in taught.validations.items()},
    }
    result.questions = {name: np.asarray(values).tolist() for name, values in kept.items()}
    result.measures = {name: estimate(values) for name, values in kept.items()}
    result.measures |= {
        "words": exactly(taught.words),
        "start/words": exactly(taught.words_at_start),
        "seconds/train": exactly(taught.train_s),
        "seconds/evaluate": exactly(taught.evaluate_s),
    }
    return result
