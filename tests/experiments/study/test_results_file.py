"""The study's table: cells, and numbers that are computed from several of them, apart."""

import json
import math
import re
from dataclasses import replace
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from experiments.study.cells import Cell, Result, exactly
from experiments.study.numbers import Numbers
from experiments.study.pages import write_pages
from experiments.study.results_file import TABLE, Table, joined, read_derived, read_table, write_table
from lightning_modules.metrics.estimates import Estimate

STUDY = Path(__file__).parents[3] / "docs" / "study"
SHOWN = re.compile(r"([-+]?\d\.\d+) \[(-?\d\.\d+), (-?\d\.\d+)\]")
"""A number with its interval."""


def numbers_of(**values: float) -> Numbers:
    numbers = Numbers()
    for name, value in values.items():
        numbers.add("teachers", {"auc": Estimate(value, 0.1, 0.9, 6), "teachers": exactly(0, 6)}, name=name)
    return numbers


def test_derived_rows_are_replaced_wholly_and_are_no_cells(tmp_path):
    table = tmp_path / "t.parquet"
    result = Result(Cell.of("teachers", 3, signal="a b"), {"auc": exactly(0.25)}, {"hits": [1.0, 0.0]})
    whole = Table([result], "settings", "gemma.gguf")
    write_table(whole, Numbers(), table)
    before = pq.read_table(table)
    write_table(whole, numbers_of(old=0.3, other=0.4), table)
    write_table(joined(Table([], "settings"), table), numbers_of(new=0.5), table)
    [found] = read_table(table)
    assert (found.cell, found.measures["auc"].mean, found.questions) == (result.cell, 0.25, result.questions)
    rows = pq.read_table(table)
    assert rows.slice(0, before.num_rows).equals(before)
    assert rows.schema.metadata == before.schema.metadata
    assert rows.slice(before.num_rows).to_pylist()[0] == {
        "part": "derived",
        "cell": "derived/of=teachers/name=new",
        "seed": None,
        "factors": json.dumps({"of": "teachers", "name": "new"}),
        "measure": "auc",
        "value": 0.5,
        "low": 0.1,
        "high": 0.9,
        "n": 6,
        "questions": None,
    }
    [derived] = read_derived(table)
    assert derived.measures["auc"] == Estimate(0.5, 0.1, 0.9, 6)
    assert (derived.measures["teachers"].mean, derived.measures["teachers"].n) == (0, 6)


def test_a_table_that_is_written_again_keeps_rows_of_what_is_undefined(tmp_path):
    result = Result(Cell.of("teachers", signal="a"), {"auc": exactly(math.nan, 0)}, {"hits": [1.0]})
    write_table(Table([result], "settings"), Numbers(), tmp_path / TABLE)
    rows = pq.read_table(tmp_path / TABLE)
    write_table(joined(Table([], "settings"), tmp_path / TABLE), Numbers(), tmp_path / TABLE)
    assert pq.read_table(tmp_path / TABLE).equals(rows)
    assert rows["measure"].to_pylist() == ["auc", "hits"]


def test_what_cells_give_together_is_written_with_them(tmp_path):
    for signal, number in (("b", 1), ("a", 2)):
        measures = {"auc": exactly(0.5), "seconds": exactly(1.0)}
        result = Result(Cell.of("teachers", reader="initial", signal=signal), measures)
        write_pages(tmp_path, joined(Table([result], "settings"), tmp_path / TABLE))
        assert len(read_table(tmp_path / TABLE)) == number
        [derived] = read_derived(tmp_path / TABLE)
        assert (derived.name, derived.measures["signals"].mean) == ("derived/of=teachers", number)


def test_pages_are_made_of_cells_in_the_order_in_which_the_table_has_them(tmp_path):
    """Else a page that is made of new cells would not be the one that is made of the table."""
    made = {signal: Result(Cell.of("teachers", signal=signal), {"auc": exactly(0.5)}) for signal in "abc"}
    first = joined(Table([made["c"], made["b"]], "settings"), tmp_path / TABLE)
    write_table(first, Numbers(), tmp_path / TABLE)
    both = joined(Table([made["a"]], "settings"), tmp_path / TABLE)
    assert [[of.cell["signal"] for of in table.results] for table in (first, both)] == [
        ["b", "c"],
        ["a", "b", "c"],
    ]
    third = replace(made["a"], questions={"hits": [1 / 3]})
    [kept, *_] = joined(Table([third], "settings"), tmp_path / TABLE).results
    write_table(Table([third], "settings"), Numbers(), tmp_path / TABLE)
    assert read_table(tmp_path / TABLE)[0].questions == kept.questions != third.questions


def test_numbers_are_found_by_their_factors_and_undefined_ones_are_left_out():
    numbers = numbers_of(one=0.1, two=0.2)
    numbers.add("teachers", {"auc": exactly(math.nan), "mrr": exactly(0.5)}, name="one", less="two")
    assert numbers.at("teachers", name="two")["auc"].mean == 0.2
    assert [of["name"] for of in numbers.having("teachers", "name")] == ["one", "two"]
    assert [list(of.measures) for of in numbers.having("teachers", "name", less="two")] == [["mrr"]]
    assert numbers.at("teachers", name="three") == {}


@pytest.fixture(scope="module")
def committed():
    return pq.read_table(STUDY / "results.parquet", columns=["cell", "value", "low", "high"]).to_pylist()


def test_every_interval_of_the_readme_is_a_row(committed):
    """Of the ten sentences and the findings: its three numbers in one row, or all with the other sign."""
    text = (STUDY / "README.md").read_text()
    shown = SHOWN.findall(text[text.index("## In ten sentences") : text.index("What follows for who")])
    assert len(shown) > 40
    rows = {
        tuple(f"{side:.{decimals}f}" for side in sides)
        for row in committed
        if row["low"] is not None
        for sides in ((row["value"], row["low"], row["high"]), (-row["value"], -row["high"], -row["low"]))
        for decimals in (2, 3)
    }
    missing = [of for of in shown if (of[0].removeprefix("+"), *of[1:]) not in rows]
    assert not missing


def test_a_derived_row_is_what_its_cells_give(committed):
    """The mean over seeds and questions, of one of many."""
    names = [f"prediction/teacher=initial-answer/seed={seed}" for seed in range(3)]
    cells = pq.read_table(
        STUDY / "results.parquet",
        filters=[("cell", "in", names), ("measure", "=", "gain/beyond_length")],
    ).to_pylist()
    questions = [value for cell in cells for value in cell["questions"]]
    derived = read_derived(STUDY / "results.parquet").at("prediction", teacher="initial answer")
    assert derived["gain/beyond_length"].mean == pytest.approx(sum(questions) / len(questions))
    assert derived["gain/beyond_length"].n == len(questions) == 1500


def test_the_program_that_traces_a_number_runs(monkeypatch, capsys):
    [program] = re.findall(r"```python\n(.*?)```", (STUDY / "how.template.md").read_text(), flags=re.DOTALL)
    monkeypatch.chdir(STUDY.parents[1])
    exec(program, {})
    [row] = eval(capsys.readouterr().out)
    shown = f"{row['value']:+.3f} [{row['low']:.3f}, {row['high']:.3f}]"
    assert f"the paper's rows come to {shown}" in " ".join((STUDY / "README.md").read_text().split())
