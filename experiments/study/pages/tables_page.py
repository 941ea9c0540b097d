"""Page `tables`: the paper's settings at embedded scale."""

from collections.abc import Mapping, Sequence
from itertools import pairwise
from pathlib import Path

import numpy as np

from experiments.show.report_runs import paper_value
from experiments.study import tables
from experiments.study.analysis import crossed_estimate
from experiments.study.cells import Result, of_part
from experiments.study.figures import draw_curves
from experiments.study.pages.text import command, interval, label, over_seeds, table
from experiments.study.prediction import BEYOND_LENGTH, GAIN
from lightning_modules.metrics.estimates import Estimate

_Groups = Mapping[str, Sequence[Result]]
_PAPER = {"initial": "checkpoint", "off-the-shelf": "offshelf", "step-1": "step1", "step-2": "step2"}
"""What the paper's tables call a setting."""
_ORDER = ("off-the-shelf", "step-1", "step-2")
"""Settings of the paper's Table 1, whose HR@5 rises in this order there."""
_DATA = "nq"


def of_tables(results: Sequence[Result], out: Path) -> tuple[list[str], list[str]]:
    """The findings in sentences, and the lines of the page; both empty without results."""
    found = of_part(results, tables.NAME)
    if not found:
        return [], []
    groups = {
        setting: of_setting
        for setting in tables.SETTINGS
        if (of_setting := [result for result in found if result.cell["setting"] == setting])
    }
    _draw(groups, out / "tables.svg")
    said = " ".join([*_gains(groups), *_ordering(groups)])
    page = ["# The paper's settings at embedded scale", "", command(tables.NAME), "", said, ""]
    page += ["![Validations](tables.svg)", "", "## Table 1", "", *_table_1(groups), ""]
    return [said] if said else [], [*page, "## Tables 3 and 4", "", *_indicators(groups)]


def _gains(groups: _Groups) -> list[str]:
    """What each setting that trains the retriever does to it."""
    said = [
        f"{setting} {interval(over_seeds(groups[setting], GAIN))}, beyond length "
        f"{_mean(groups[setting], BEYOND_LENGTH):+.3f} (surely above 0 with {_num_sure(groups[setting])} of "
        f"{len(groups[setting])} seeds)"
        for setting in tables.LEARNS
        if setting in groups
    ]
    return [f"HR@5 of test questions changes by: {'; '.join(said)}."] if said else []


def _ordering(groups: _Groups) -> list[str]:
    """Whether the paper's is there: each setting of its Table 1 beside the one above it."""
    said = []
    for setting, above in pairwise(_ORDER):
        if setting not in groups or above not in groups:
            return []
        difference = _difference(groups[above], groups[setting])
        theirs = [paper_value("table1", _PAPER[name], _DATA, "hr5") for name in (above, setting)]
        assert theirs[0] is not None, "the paper's Table 1 has it"
        assert theirs[1] is not None, "the paper's Table 1 has it"
        said.append(
            f"{above} less {setting} {interval(difference)} where the paper has "
            f"{theirs[0][0] - theirs[1][0]:+.3f} ({_sure(difference)})"
        )
    return [f"The order of the paper's Table 1 (NQ): {'; '.join(said)}."]


def _sure(difference: Estimate) -> str:
    """Whether a setting is above another as it is in the paper."""
    return "as there" if difference.low > 0 else "the other way round" if difference.high < 0 else "undecided"


def _difference(of: Sequence[Result], less: Sequence[Result]) -> Estimate:
    """Of HR@5, over the seeds that both have, and their questions."""
    by_seed = {result.cell.seed: result.questions[tables.HITS] for result in less}
    pairs = [
        np.subtract(result.questions[tables.HITS], by_seed[result.cell.seed])
        for result in of
        if result.cell.seed in by_seed
    ]
    return crossed_estimate(np.array(pairs))


def _table_1(groups: _Groups) -> list[str]:
    rows = [
        [
            setting,
            str(len(of_seeds)),
            _of_seeds(of_seeds, "hr_at_5"),
            interval(over_seeds(of_seeds, GAIN)) if setting in tables.LEARNS else "-",
            _of_seeds(of_seeds, BEYOND_LENGTH),
            *(_of_seeds(of_seeds, name) for name in ("em", "f1")),
            _of_seeds(of_seeds, "passage_words", decimals=0),
            _paper_of(setting, "table1", "hr5"),
        ]
        for setting, of_seeds in groups.items()
    ]
    heads = ["setting", "seeds", "HR@5", "gain", "beyond length", "EM", "F1", "words", "HR@5 in the paper"]
    return [
        "Of each seed; the gain is against the start, over seeds and questions. The end has the weights of "
        "the best validation, the start's where none is better, so that what a setting ruins shows in the "
        "curves alone. EM and F1 are of few questions. Words are those of the first five passages. The "
        "paper's numbers are those of NQ, after thousands of times as many steps.",
        "",
        *table(heads, rows),
    ]


def _indicators(groups: _Groups) -> list[str]:
    rows = []
    for setting, of_seeds in groups.items():
        row = [setting]
        for name in tables.INDICATORS:
            number, measure = name.removeprefix("indicator").split("/")
            paper = _paper_of(setting, "table3" if number == "1" else "table4", measure)
            row.append(f"{_of_seeds(of_seeds, name)} ({paper})")
        rows.append(row)
    return [
        "Of each seed, over the test questions that are read, with the models at the end; the paper's on NQ "
        "in brackets.",
        "",
        *table(["setting", *(label(name) for name in tables.INDICATORS)], rows),
    ]


def _paper_of(setting: str, of_table: str, name: str) -> str:
    found = paper_value(of_table, _PAPER.get(setting, setting), _DATA, name)
    return "-" if found is None else f"{found[0]:.3f}"


def _of_seeds(results: Sequence[Result], name: str, decimals: int = 3) -> str:
    values = [of.measures[name].mean for of in results if name in of.measures]
    return ", ".join(f"{value:.{decimals}f}" for value in values) or "-"


def _mean(results: Sequence[Result], name: str) -> float:
    return float(np.mean([of.measures[name].mean for of in results]))


def _num_sure(results: Sequence[Result]) -> int:
    """Seeds whose gain beyond length is surely one."""
    return sum(of.measures[BEYOND_LENGTH].low > 0 for of in results)


def _draw(groups: _Groups, path: Path) -> None:
    """Validations of the settings that train the retriever."""
    lines = []
    for setting in tables.LEARNS:
        curves = [_validations(result) for result in groups.get(setting, ())]
        if curves:
            lines.append((setting, list(curves[0]), [list(curve.values()) for curve in curves]))
    if lines:
        draw_curves(lines, "HR@5, validation", path)


def _validations(result: Result) -> dict[int, float]:
    found = {
        int(name.removeprefix(tables.VALIDATION)): of.mean
        for name, of in result.measures.items()
        if name.startswith(tables.VALIDATION)
    }
    return dict(sorted(found.items()))
