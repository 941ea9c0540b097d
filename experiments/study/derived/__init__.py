"""What is computed from several cells, once, for the table's rows of part `derived` and for all pages."""

from collections.abc import Sequence

from experiments.study import teacher_table
from experiments.study.cells import Result, exactly, of_part
from experiments.study.derived.of_collapse import add_collapse
from experiments.study.derived.of_prediction import add_prediction
from experiments.study.derived.of_stopping import add_stopping
from experiments.study.derived.of_tables import add_tables
from experiments.study.numbers import Numbers


def derive(results: Sequence[Result]) -> Numbers:
    """All numbers that some cells give together; minutes, for the intervals of correlations.

    Args:
        results: of cells of all parts. The paper's numbers come from `experiments/paper/tables.yaml`, and
            families, pairs and bounds from this package; nothing else is looked at.
    """
    numbers = Numbers()
    add_prediction(numbers, results)
    add_stopping(numbers, results)
    if signals := of_part(results, teacher_table.NAME):
        numbers.add(teacher_table.NAME, {"signals": exactly(len(signals), len(signals))})
    add_collapse(numbers, results)
    add_tables(numbers, results)
    return numbers
