"""Page `tables`: the paper's settings at embedded scale."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from experiments.show.report_runs import paper_value
from experiments.show.text import table
from experiments.study import tables
from experiments.study.analysis import is_sure
from experiments.study.cells import Result
from experiments.study.derived.of_tables import (
    BASELINE,
    DATA,
    HITS,
    HITS_IN_PAPER,
    LAST_LESS_FIRST,
    LAST_LESS_HIGHEST,
    PAPER,
    SEEDS,
    groups_of,
)
from experiments.study.figures import draw_curves
from experiments.study.numbers import Numbers
from experiments.study.pages.text import command, count, interval, label
from experiments.study.prediction import BEYOND_LENGTH, GAIN
from lightning_modules.metrics.estimates import Estimate

_Groups = Mapping[str, Sequence[Result]]


def of_tables(results: Sequence[Result], numbers: Numbers, out: Path) -> tuple[list[str], list[str]]:
    """The findings in sentences, and the lines of the page; both empty without results."""
    groups = groups_of(results)
    if not groups:
        return [], []
    _draw(groups, out / "tables.svg")
    said = " ".join(
        [*_gains(groups, numbers), *_longer(groups, numbers), *_beside_control(numbers), *_ordering(numbers)]
    )
    page = ["# The paper's settings at embedded scale", "", command(tables.NAME), "", said, ""]
    page += ["![Validations](tables.svg)", "", "## Table 1", "", *_table_1(groups, numbers), ""]
    return [said] if said else [], [*page, "## Tables 3 and 4", "", *_indicators(groups)]


def _gains(groups: _Groups, numbers: Numbers) -> list[str]:
    """What each setting that trains the retriever does to it."""
    said = []
    for name in groups:
        found = numbers.at(tables.NAME, setting=name)
        if GAIN in found:
            sure = found["seeds_surely_above_0"]
            said.append(
                f"{name} {interval(found[GAIN])}, beyond length {found[BEYOND_LENGTH].mean:+.3f} (surely "
                f"above 0 with {count(sure)} of {sure.n} seeds)"
            )
    return [f"HR@5 of test questions changes by: {'; '.join(said)}."] if said else []


def _longer(groups: _Groups, numbers: Numbers) -> list[str]:
    """What further steps do."""
    found = {
        name: numbers.at(tables.NAME, setting=name, longer_than=of_seeds[0].cell["setting"])
        for name, of_seeds in groups.items()
    }
    said = [f"{name} {interval(of[HITS])} ({_seeds(of)})" for name, of in found.items() if of]
    return [f"Longer runs beside the others: {'; '.join(said)}."] if said else []


def _beside_control(numbers: Numbers) -> list[str]:
    """What is the reader's doing."""
    said = [
        f"{of['setting']} {interval(of.measures[HITS])} ({_seeds(of.measures)})"
        for of in numbers.having(tables.NAME, "setting", "control")
    ]
    return [f"Beside the same without a reader (uniform): {'; '.join(said)}."] if said else []


def _seeds(of: Mapping[str, Estimate]) -> str:
    """Of how many a difference is; of one its interval is over questions alone."""
    return "1 seed" if of[SEEDS].mean == 1 else f"{count(of[SEEDS])} seeds"


def _ordering(numbers: Numbers) -> list[str]:
    """Whether the paper's is there: settings of its Table 1 beside those that are below them there."""
    said = [
        f"{of['setting']} less {of['less']} {interval(of.measures[HITS])} where the paper has "
        f"{of.measures[HITS_IN_PAPER].mean:+.3f} ({_sure(of.measures[HITS])}, {_seeds(of.measures)})"
        for of in numbers.having(tables.NAME, "setting", "less")
    ]
    return [f"The order of the paper's Table 1 (NQ): {'; '.join(said)}."] if said else []


def _sure(difference: Estimate) -> str:
    """Whether a setting is above another as it is in the paper."""
    return {True: "as there", False: "the other way round", None: "undecided"}[is_sure(difference)]


def _table_1(groups: _Groups, numbers: Numbers) -> list[str]:
    rows = [
        [
            name,
            str(len(of_seeds)),
            _of_seeds(of_seeds, "hr_at_5"),
            _gain(numbers, name),
            _of_seeds(of_seeds, BEYOND_LENGTH),
            *(_of_seeds(of_seeds, name) for name in ("em", "f1")),
            _of_seeds(of_seeds, "passage_words", decimals=0),
            *(_over_seeds(numbers, name, of) for of in (LAST_LESS_FIRST, LAST_LESS_HIGHEST)),
            _paper_of(of_seeds[0], "table1", "hr5"),
        ]
        for name, of_seeds in groups.items()
    ]
    if of_bm25 := numbers.at(tables.NAME, setting=BASELINE):
        rows.append([BASELINE, "-", f"{of_bm25[HITS].mean:.3f}", *["-"] * 8])
    heads = ["setting", "seeds", "HR@5", "gain", "beyond length", "EM", "F1", "words"]
    heads += ["last validation less the first", "last less the highest", "HR@5 in the paper"]
    return [
        "Of each seed; the gain is against the start, over seeds and questions. The end has the weights of "
        "the best validation, the start's where none is better, so that what a setting ruins shows in the "
        "validations alone, drawn above and in two columns: HR@5 of the last one less the first, and less "
        "the highest of its run, the mean over seeds. EM and F1 are of few questions. Words are those of the "
        "first five passages. BM25 ranks the same passages for the same questions. Where there is one seed, "
        "intervals are over questions alone. The paper's numbers are those of NQ, after thousands of times "
        "as many steps.",
        "",
        *table(heads, rows),
    ]


def _indicators(groups: _Groups) -> list[str]:
    rows = []
    for setting, of_seeds in groups.items():
        row = [setting]
        for name in tables.INDICATORS:
            number, measure = name.removeprefix("indicator").split("/")
            paper = _paper_of(of_seeds[0], "table3" if number == "1" else "table4", measure)
            row.append(f"{_of_seeds(of_seeds, name)} ({paper})")
        rows.append(row)
    return [
        "Of each seed, over the test questions that are read, with the models at the end; the paper's on NQ "
        "in brackets.",
        "",
        *table(["setting", *(label(name) for name in tables.INDICATORS)], rows),
    ]


def _paper_of(result: Result, of_table: str, name: str) -> str:
    setting = result.cell["setting"]
    found = paper_value(of_table, PAPER.get(setting, setting), DATA, name)
    return "-" if found is None else f"{found[0]:.3f}"


def _of_seeds(results: Sequence[Result], name: str, decimals: int = 3) -> str:
    values = [of.measures[name].mean for of in results if name in of.measures]
    return ", ".join(f"{value:.{decimals}f}" for value in values) or "-"


def _gain(numbers: Numbers, setting: str) -> str:
    found = numbers.at(tables.NAME, setting=setting).get(GAIN)
    return "-" if found is None else interval(found)


def _over_seeds(numbers: Numbers, setting: str, measure: str) -> str:
    found = numbers.at(tables.NAME, setting=setting).get(measure)
    return "-" if found is None else f"{found.mean:+.3f}"


def _draw(groups: _Groups, path: Path) -> None:
    """Validations of the settings that train the retriever."""
    lines = [
        ((name,), [tables.validations_of(result) for result in of_seeds])
        for name, of_seeds in groups.items()
        if of_seeds[0].cell["setting"] in tables.LEARNS
    ]
    if lines:
        draw_curves(lines, "HR@5, validation", path)
