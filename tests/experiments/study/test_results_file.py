"""The study's table: cells, and numbers that are computed from several of them, apart."""

import json
import math
import re
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from experiments.study.cells import Cell, Result, exactly
from experiments.study.derived import derive
from experiments.study.numbers import Numbers, counted
from experiments.study.results_file import read_derived, read_table, write_derived, write_table
from lightning_modules.metrics.estimates import Estimate

STUDY = Path(__file__).parents[3] / "docs" / "study"
SHOWN = re.compile(r"([-+]?\d\.\d+) \[(-?\d\.\d+), (-?\d\.\d+)\]")
"""A number with its interval."""


def numbers_of(**values: float) -> Numbers:
    numbers = Numbers()
    for name, value in values.items():
        numbers.add("teachers", {"auc": Estimate(value, 0.1, 0.9, 6), "teachers": counted(0, 6)}, name=name)
    return numbers


def test_derived_rows_are_replaced_wholly_and_are_no_cells(tmp_path):
    table = tmp_path / "t.parquet"
    result = Result(Cell.of("teachers", 3, signal="a b"), {"auc": exactly(0.25)}, {"hits": [1.0, 0.0]})
    write_table([result], table, "settings", "gemma.gguf")
    before = pq.read_table(table)
    write_derived(numbers_of(old=0.3, other=0.4), table)
    write_derived(numbers_of(new=0.5), table)
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


def test_cells_that_are_added_leave_what_was_derived_until_it_is_derived_again(tmp_path):
    table = tmp_path / "t.parquet"
    for signal in ("b", "a"):
        write_table([Result(Cell.of("teachers", signal=signal), {"auc": exactly(0.5)})], table, "settings")
        if signal == "b":
            write_derived(numbers_of(old=0.3), table)
    assert [result.cell["signal"] for result in read_table(table)] == ["a", "b"]
    assert [derived["name"] for derived in read_derived(table)] == ["old"]
    write_derived(derive(read_table(table)), table)
    [derived] = read_derived(table)
    assert (derived.name, derived.measures["signals"].mean) == ("derived/of=teachers", 2)


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
    assert f"the paper's rows come to\n   {shown}" in (STUDY / "README.md").read_text()
