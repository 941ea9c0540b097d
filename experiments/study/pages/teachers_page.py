"""Page `teachers`: readers and signals."""

import math
from collections.abc import Sequence
from pathlib import Path

from experiments.show.text import table
from experiments.study import teacher_table
from experiments.study.analysis import PRIMARY, SAME_ORDER
from experiments.study.cells import Result, of_part
from experiments.study.numbers import Numbers
from experiments.study.pages.text import FEW, FEWEST_QUESTIONS, command, count, interval, label
from experiments.study.readers import INITIAL


def of_teachers(results: Sequence[Result], numbers: Numbers, out: Path) -> tuple[list[str], list[str]]:
    """The findings in sentences, and the lines of the page; both empty without results."""
    found = of_part(results, teacher_table.NAME)
    if not found:
        return [], []
    shown = (
        "auc",
        "auc_at_equal_length",
        SAME_ORDER,
        "length_tau",
        "gold_above_longest",
        "indicator1/spearman_p90",
    )
    found = sorted(found, key=lambda of: (of.cell["reader"], -_value(of, PRIMARY)))
    rows = [
        [
            of.cell["reader"],
            of.cell["signal"],
            *(_shown(of, name) for name in shown),
            f"{of.measures['seconds'].mean:.2f}",
        ]
        for of in found
    ]
    best = max(found, key=lambda of: _value(of, PRIMARY))
    sentences = []
    if PRIMARY in best.measures:
        sentence = (
            f"Of {count(numbers.at(teacher_table.NAME)['signals'])} signals the best at equal length is "
            f"{best.cell['signal']} of reader {best.cell['reader']}, {interval(best.measures[PRIMARY], 2)}"
        )
        paper = [of for of in found if of.cell["signal"] == "answer" and of.cell["reader"] == INITIAL]
        if paper and PRIMARY in paper[0].measures:
            of_paper = interval(paper[0].measures[PRIMARY], 2)
            sentence += f"; the paper's (the answer's rows of the initial reader) has {of_paper}"
        sentences = [f"{sentence}."]
    heads = ["reader", "signal", *(label(name) for name in shown), "seconds a question"]
    page = ["# Teachers", "", command(teacher_table.NAME), "", _OTHER_READERS, "", *table(heads, rows)]
    return sentences, page


def _shown(of: Result, name: str) -> str:
    """With its interval; of the condition that few questions meet, "-" where they are too few."""
    if name not in of.measures or (name == FEW and of.measures[name].n < FEWEST_QUESTIONS):
        return "-"
    return interval(of.measures[name], 2)


def _value(of: Result, measure: str) -> float:
    """Of a measure; less than all where it is undefined."""
    return of.measures[measure].mean if measure in of.measures else -math.inf


_OTHER_READERS = (
    "Any decoder-only reader of the hub, or a folder: `python -m experiments.study teachers --only "
    "'teachers/reader=initial/*' --out report/teachers reader.name=NAME`; *initial* is then that reader. "
    "Beside the initial one: `--second NAME`, which is *second* then. "
    "Gold above the longest: CoRe's test, whether the best positive passage scores above the longest "
    'negative one that is at least twice as long; "-" where fewer than ten questions have such ones. '
    "Seconds: of all signals of a reader together, on a shared machine, with the calibration's passes where "
    "it has them."
)
