"""Pages written by hand: their numbers come from rows, and none is typed."""

import pytest

from experiments.config import ConfigError
from experiments.study.cells import Cell, Result, exactly
from experiments.study.numbers import Numbers, counted
from experiments.study.pages.templates import Rows, fill
from experiments.study.results_file import TABLE, write_derived, write_table
from lightning_modules.metrics.estimates import Estimate

CELL = Result(Cell.of("teachers", signal="a"), {"auc": Estimate(0.8421, 0.79, 0.9, 128)})


@pytest.fixture
def rows(tmp_path):
    numbers = Numbers()
    numbers.add("teachers", {"gain": Estimate(-0.0534, -0.0691, -0.0362, 9), "teachers": counted(2, 9)})
    numbers.add("teachers", {"saved": exactly(0.296)}, rule="first")
    table = tmp_path / "nq" / TABLE
    write_table([CELL], table, "settings")
    below = Numbers()
    below.add("teachers", {"gain": Estimate(0.1, 0.05, 0.15, 9)})
    write_derived(below, table)
    return Rows([CELL], numbers, tmp_path)


def filled(text, rows, tmp_path):
    page = tmp_path / "page.template.md"
    page.write_text(text)
    return fill(page, rows)


@pytest.mark.parametrize(
    ("placeholder", "shown"),
    [
        ("derived/of=teachers gain", "-0.053 [-0.069, -0.036]"),
        ("derived/of=teachers\n  gain fall", "0.053 [0.036, 0.069]"),
        ("derived/of=teachers teachers count", "2"),
        ("derived/of=teachers teachers word", "two"),
        ("derived/of=teachers/rule=first saved percent", "30%"),
        ("teachers/signal=a/seed=0 auc value", "0.84"),
        ("teachers/signal=a/seed=0 auc level", "0.842"),
        ("teachers/signal=a/seed=0 auc correlation", "0.84 [0.79, 0.90]"),
        ("teachers/signal=a/seed=0 auc interval", "[0.79, 0.90]"),
        ("nq:derived/of=teachers gain", "+0.100 [0.050, 0.150]"),
        ("nq:derived/of=teachers gain rise", "0.100 [0.050, 0.150]"),
        ("nq:teachers/signal=a/seed=0 auc value", "0.84"),
        ("= 0.5", "0.5"),
    ],
)
def test_a_placeholder_becomes_what_its_row_says(placeholder, shown, rows, tmp_path):
    assert filled(f"It is {{{{{placeholder}}}}}, so.", rows, tmp_path) == f"It is {shown}, so."


@pytest.mark.parametrize(
    ("placeholder", "said"),
    [
        ("derived/of=nothing gain", "has no row of cell 'derived/of=nothing' and measure 'gain'"),
        ("derived/of=teachers nothing", "has no row of cell 'derived/of=teachers' and measure 'nothing'"),
        ("derived/of=teachers gain nicely", "format 'nicely' is unknown"),
        ("derived/of=teachers", "a placeholder is CELL MEASURE"),
        ("elsewhere:derived/of=teachers gain", "there is no "),
        ("derived/of=teachers gain rise", "is -0.053, no such change as the sentence says"),
        ("nq:derived/of=teachers gain fall", "no such change as the sentence says"),
    ],
)
def test_a_placeholder_that_names_nothing_or_says_otherwise_is_refused(placeholder, said, rows, tmp_path):
    with pytest.raises(ConfigError, match=r"page\.template\.md") as error:
        filled(f"It is {{{{{placeholder}}}}}.", rows, tmp_path)
    assert f"{{{{{placeholder}}}}}: " in str(error.value)
    assert said in str(error.value)


@pytest.mark.parametrize("typed", ["0.053", "-0.05", "[0.1, 0.2]", "30%", "31 of 72"])
def test_a_number_that_is_typed_by_hand_is_refused(typed, rows, tmp_path):
    with pytest.raises(ConfigError, match="is typed by hand"):
        filled(f"It gains {typed} here.", rows, tmp_path)


@pytest.mark.parametrize(
    "text", ["`teachers/signal=a/seed=0` at `rate=0.5`", "```\nx=0.5\n```", "[a](b-0.5.md), 2,500 at HR@5"]
)
def test_code_links_and_whole_numbers_are_no_results(text, rows, tmp_path):
    assert filled(text, rows, tmp_path) == text


@pytest.mark.parametrize("cited", ["teachers/signal=b/seed=0", "derived/of=nothing"])
def test_what_is_cited_must_be_there(cited, rows, tmp_path):
    with pytest.raises(ConfigError, match=f"cites {cited}"):
        filled(f"So it is (`{cited}`).", rows, tmp_path)
