"""Pages written by hand: their numbers come from rows, and none is typed."""

import pytest

from experiments.config import ConfigError
from experiments.study.cells import Cell, Result, exactly
from experiments.study.numbers import Numbers
from experiments.study.pages.templates import Rows, fill
from experiments.study.results_file import TABLE, Table, write_table
from lightning_modules.metrics.estimates import Estimate

CELL = Result(Cell.of("teachers", signal="a"), {"auc": Estimate(0.8421, 0.79, 0.9, 128)})


@pytest.fixture
def rows(tmp_path):
    numbers = Numbers()
    numbers.add("teachers", {"gain": Estimate(-0.0534, -0.0691, -0.0362, 9), "teachers": exactly(2, 9)})
    numbers.add("teachers", {"saved": exactly(0.296), "by_chance": exactly(1.8)}, rule="first")
    numbers.add("teachers", {"gain": Estimate(0.031, 0.0, 0.06, 9)}, rule="first")
    table = tmp_path / "nq" / TABLE
    below = Numbers()
    below.add("teachers", {"gain": Estimate(0.1, 0.05, 0.15, 9)})
    write_table(Table([CELL], "settings"), below, table)
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
        ("derived/of=teachers gain surely_down", "-0.053 [-0.069, -0.036]"),
        ("derived/of=teachers/rule=first gain unsure", "+0.031 [0.000, 0.060]"),
        ("derived/of=teachers/rule=first by_chance about", "two"),
        ("derived/of=teachers/rule=first saved percent", "30%"),
        ("teachers/signal=a/seed=0 auc value", "0.84"),
        ("teachers/signal=a/seed=0 auc level", "0.842"),
        ("teachers/signal=a/seed=0 auc correlation", "0.84 [0.79, 0.90]"),
        ("teachers/signal=a/seed=0 auc interval", "[0.79, 0.90]"),
        ("nq:derived/of=teachers gain", "+0.100 [0.050, 0.150]"),
        ("nq:derived/of=teachers gain rise", "0.100 [0.050, 0.150]"),
        ("nq:derived/of=teachers gain surely_up", "+0.100 [0.050, 0.150]"),
        ("nq:teachers/signal=a/seed=0 auc value", "0.84"),
        ("= 0.5", "0.5"),
        ("= 3e-5", "3e-5"),
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
        ("derived/of=teachers gain rise", "is -0.053 [-0.069, -0.036], not surely above 0"),
        ("derived/of=teachers/rule=first gain rise", "not surely above 0 as the sentence says"),
        ("derived/of=teachers/rule=first gain surely_up", "not surely above 0 as the sentence says"),
        ("derived/of=teachers/rule=first gain surely_down", "not surely below 0 as the sentence says"),
        ("derived/of=teachers/rule=first saved surely_up", "not surely above 0 as the sentence says"),
        ("nq:derived/of=teachers gain fall", "not surely below 0 as the sentence says"),
        ("nq:derived/of=teachers gain unsure", "is +0.100 [0.050, 0.150], which is sure"),
        ("derived/of=teachers/rule=first saved unsure", "no interval"),
        ("derived/of=teachers gain word", "is -0.0534, no count"),
        ("derived/of=teachers/rule=first by_chance count", "is 1.8, no count"),
        ("= so and so", "one plain number"),
        ("= 31 of 72", "one plain number"),
        ("=", "one plain number"),
    ],
)
def test_a_placeholder_that_names_nothing_or_says_otherwise_is_refused(placeholder, said, rows, tmp_path):
    with pytest.raises(ConfigError, match=r"page\.template\.md") as error:
        filled(f"It is {{{{{placeholder}}}}}.", rows, tmp_path)
    assert f"{{{{{placeholder}}}}}: " in str(error.value)
    assert said in str(error.value)


@pytest.mark.parametrize(
    "typed",
    [
        *("0.053", "-0.05", "-.05", ".05", "[0.1, 0.2]", "30%", "5 %", "30 percent", "30 per cent"),
        *("31 of 72", "31 of\n72", "31 out of 72", "31/72", "1e-2", "`0.053`", "`31 of 72`", "`30 %`"),
        *("{{derived/of=teachers teachers count}} of 72", "31 out of {{derived/of=teachers teachers word}}"),
    ],
)
def test_a_number_that_is_typed_by_hand_is_refused(typed, rows, tmp_path):
    with pytest.raises(ConfigError, match="is typed by hand"):
        filled(f"It gains {typed} here.", rows, tmp_path)


@pytest.mark.parametrize(
    "text",
    [
        *("`teachers/signal=a/seed=0` at `rate=0.5`", "`rate=1e-4` and `x[0.5]`", "```\nx=0.5\n```"),
        *("[a](b-0.5.md), 2,500 at HR@5", "32 steps of four questions", "the 229th to the 356th of them."),
        *("six candidates, of 500 three", "1. first\n2. second, step1-40", "and/or; 24 questions. 9 more"),
    ],
)
def test_code_links_and_whole_numbers_are_no_results(text, rows, tmp_path):
    assert filled(text, rows, tmp_path) == text


def test_lines_are_broken_anew_but_not_within_a_number_or_code(rows, tmp_path):
    number = "{{derived/of=teachers gain}}"
    text = f"# Head\n\n1. {'word ' * 22}\n{number} and\n   so on\n2. next\n\n```\na  b\nc\n```\n"
    assert filled(text, rows, tmp_path).split("\n") == [
        "# Head",
        "",
        f"1. {'word ' * 22}".rstrip(),
        "   -0.053 [-0.069, -0.036] and so on",
        "2. next",
        "",
        "```",
        "a  b",
        "c",
        "```",
        "",
    ]


@pytest.mark.parametrize("cited", ["teachers/signal=b/seed=0", "derived/of=nothing"])
def test_what_is_cited_must_be_there(cited, rows, tmp_path):
    with pytest.raises(ConfigError, match=f"cites {cited}"):
        filled(f"So it is (`{cited}`).", rows, tmp_path)
