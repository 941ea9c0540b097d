"""What the pre-flight check prints."""

import math
from dataclasses import replace

import pytest
from rich.console import Console

from experiments.show.console import WIDTH
from experiments.show.preflight_console import facts, print_preflight, shown_rows
from lightning_modules.metrics.estimates import Estimate
from lightning_modules.metrics.question_values import QuestionValues
from lightning_modules.preflight import Advice, PreflightResult, TeacherRow, Verdict

GOOD = Estimate(0.9, 0.8, 1.0, 50)
SHORT = Estimate(-0.71, -0.8, -0.6, 50)
UNDEFINED = Estimate(math.nan, math.nan, math.nan, 0)


def result(**changes) -> PreflightResult:
    own = TeacherRow("adist independent sum", GOOD, GOOD, GOOD, UNDEFINED, SHORT, GOOD, GOOD, 0.05, [])
    settings = {
        "verdict": Verdict(Advice.GO, ["because"]),
        "configured": own.name,
        "rows": [own],
        "reranker": None,
        "references": [],
        "measures": {
            f"indicator{i}/{part}_p90": GOOD for i in (1, 2) for part in ("attention", "spearman", "lift")
        },
        "percentiles": [90],
        "agreement": {},
        "mass_by_position": {},
        "shares": dict.fromkeys(("passages", "first_token", "rest"), GOOD),
        "share_with_both": 0.5,
        "hit_rate": 0.6,
        "recommended": None,
        "stopped_early": False,
        "num_questions": 50,
        "heads": None,
        "questions": QuestionValues(),
        "retrieved": {},
    }
    return PreflightResult(**(settings | changes))


def printed(result: PreflightResult) -> str:
    console = Console(width=WIDTH)
    with console.capture() as capture:
        print_preflight(result, console)
    return capture.get()


def test_settings_to_copy_are_never_wrapped():
    overrides = [f"objective.name={'x' * 60}", f"reader.context={'y' * 60}"]
    best = TeacherRow("best", GOOD, GOOD, GOOD, UNDEFINED, SHORT, GOOD, GOOD, 0.05, overrides)
    shown = printed(result(recommended=best))
    assert f"  {overrides[0]} {overrides[1]}\n" in shown
    assert max(len(line) for line in shown.splitlines() if not line.startswith("  ")) <= WIDTH


def test_a_check_that_recommends_nothing_says_so():
    assert "recommended: none; no teacher has an AUC surely above 0.65" in printed(result())


def test_the_configured_teacher_alone_is_compared_with_others():
    pairs = {
        "adist independent sum / pdist": GOOD,
        "pdist / length": GOOD,
        "x / adist independent sum": SHORT,
    }
    shown = " ".join(printed(result(agreement=pairs)).split())
    assert f"of adist independent sum with that of pdist {GOOD.text}; x {SHORT.text}" in shown
    assert "pdist / length" not in shown


def wide_row() -> TeacherRow:
    """As wide as rows become."""
    name = "adist concatenated averaged top20"
    return TeacherRow(name, replace(GOOD, n=1000), GOOD, GOOD, SHORT, SHORT, GOOD, GOOD, 0.00853, [])


def test_the_order_by_length_is_a_column():
    shown = printed(result(rows=[wide_row()]))
    lines = shown.splitlines()
    [row] = [i for i, line in enumerate(lines) if line.strip().startswith("teacher ")]
    first, heads, cells = lines[row - 1], lines[row], lines[row + 2]
    end = heads.index("tau") + len("tau")
    assert (first[:end].split(), heads[:end].split()[-2:]) == (["equal", "len."], ["len.", "tau"])
    assert cells[:end].split()[-1] == "-0.71"
    assert "refused beyond 0.5 with either sign" in shown


def test_nothing_is_cut_off():
    shown = printed(result(rows=[wide_row()]))
    assert f"{wide_row().name} 0.90 [0.80, 1.00]  0.90 -0.71 -0.71 0.90 0.90 0.90 0.0085 1000" in shown
    assert "…" not in shown
    assert max(len(line) for line in shown.splitlines()) <= WIDTH == 100


def test_of_each_way_the_plain_and_the_best_variant_are_shown():
    def row(way, *details, is_plain=False):
        name = " ".join([way, *details])
        return replace(wide_row(), name=name, way=way, details=list(details), is_plain=is_plain)

    rows = [
        row("adist independent", "sum", is_plain=True),
        row("adist concatenated", "top5", "with template"),
        row("adist concatenated", "top5"),
        row("adist concatenated", "top10"),
        row("pdist", is_plain=True),
        row("adist concatenated", "sum", is_plain=True),
    ]
    shown = [shown.name for shown in shown_rows(result(rows=rows))]
    assert shown == ["adist independent sum", "adist concatenated top5", "pdist", "adist concatenated sum"]


def test_where_little_was_read_it_says_how_to_read_more():
    needs = Verdict(Advice.UNSURE, ["few"], needs_more=True)
    assert "more questions: --instances" in printed(result(verdict=needs))
    assert "more questions: --instances" not in printed(result())


def test_both_indicators_have_a_row_for_each_part():
    lifts = {"indicator1/lift_p90": Estimate(1.25, 1.1, 1.4, 50)}
    shown = printed(result(measures=result().measures | lifts | {"teacher/entropy": GOOD}))
    [lift] = [line for line in shown.splitlines() if "Indicator 1 lift" in line]
    assert "1.250 [1.100, 1.400]" in lift
    assert sum("Indicator 2 " in line for line in shown.splitlines()) == 3
    assert "teacher entropy" in shown, "and so has every other measure"


@pytest.mark.parametrize(
    ("gain", "said"),
    [
        (Estimate(0.1, 0.05, 0.15, 40), "is surely the better teacher"),
        (Estimate(-0.1, -0.15, -0.05, 40), "is surely the worse teacher"),
        (Estimate(0.01, -0.05, 0.07, 40), "is not surely better or worse"),
        (UNDEFINED, "cannot be compared"),
    ],
)
def test_a_reranker_is_judged_by_its_interval(gain, said):
    found = " ".join(facts(result(reranker=("owner/judge", gain))))
    assert f"the reranker owner/judge {said}" in found
