"""What the pre-flight check prints."""

import math
from dataclasses import replace

import pytest
from rich.console import Console

from experiments.show.console import WIDTH
from experiments.show.preflight_console import facts, print_preflight, shown_rows
from lightning_modules.metrics.estimates import Estimate
from lightning_modules.metrics.question_values import QuestionValues
from lightning_modules.preflight import Advice, HeadChoice, PreflightResult, TeacherRow, Verdict

GOOD = Estimate(0.9, 0.8, 1.0, 50)
SHORT = Estimate(-0.71, -0.8, -0.6, 50)
UNDEFINED = Estimate(math.nan, math.nan, math.nan, 0)


def own_row() -> TeacherRow:
    return TeacherRow("adist independent sum", GOOD, GOOD, GOOD, UNDEFINED, SHORT, GOOD, GOOD, 0.05, [])


def result(**changes) -> PreflightResult:
    """The first row is of the paper's teacher, and configured."""
    rows = changes.get("rows", [own_row()])
    settings = {
        "verdict": Verdict(Advice.GO, ["because"]),
        "configured": rows[0].name,
        "papers": rows[0].name,
        "rows": rows,
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
        "notes": [],
        "questions": QuestionValues(),
        "retrieved": {},
    }
    return PreflightResult(**(settings | changes))


def printed(result: PreflightResult, split: str = "validation") -> str:
    console = Console(width=WIDTH)
    with console.capture() as capture:
        print_preflight(result, split, console)
    return capture.get()


def test_settings_to_copy_are_never_wrapped():
    overrides = [f"objective.name={'x' * 60}", f"reader.context={'y' * 60}"]
    best = TeacherRow("best", GOOD, GOOD, GOOD, UNDEFINED, SHORT, GOOD, GOOD, 0.05, overrides)
    shown = printed(result(recommended=best))
    assert f"  {overrides[0]} {overrides[1]}\n" in shown
    assert max(len(line) for line in shown.splitlines() if not line.startswith("  ")) <= WIDTH


def test_a_check_that_recommends_nothing_says_so():
    assert "recommended: none; no teacher has an AUC surely above 0.65 over at least 10" in printed(result())


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
    shown = printed(result(rows=[own_row(), wide_row()]))
    lines = shown.splitlines()
    [row] = [i for i, line in enumerate(lines) if line.strip().startswith("teacher ")]
    first, heads, cells = lines[row - 1], lines[row], lines[row + 2]
    end = heads.index("tau") + len("tau")
    assert (first[:end].split(), heads[:end].split()[-2:]) == (["equal", "len."], ["len.", "tau"])
    assert cells[:end].split()[-1] == "-0.71"
    assert "refused beyond 0.5 with either sign" in shown


def test_nothing_is_cut_off():
    shown = printed(result(rows=[own_row(), wide_row()]))
    assert f"{wide_row().name} 0.90 [0.80, 1.00]  0.90 -0.71 -0.71 0.90 0.90 0.90 0.0085 1000" in shown
    assert "…" not in shown
    assert max(len(line) for line in shown.splitlines()) <= WIDTH == 100


def test_the_configured_teacher_is_marked():
    rows = [own_row(), replace(own_row(), name="signals question"), wide_row()]
    found = result(rows=rows, configured="signals question")
    assert found.configured_row is rows[1]
    lines = [line.strip() for line in printed(found).splitlines()]
    starts = [line.partition(" 0.90")[0].rstrip() for line in lines if " 0.90 [0.80" in line]
    assert starts[:3] == ["adist independent sum", "signals question *", wide_row().name]
    assert "*: as configured; first row: the paper's own teacher" in lines


def test_of_each_way_the_plain_and_the_best_variant_are_shown():
    def row(way, *details, is_plain=False, scale=None):
        name = " ".join([way, *details, *([scale] if scale else [])])
        return replace(wide_row(), name=name, way=way, details=list(details), is_plain=is_plain, scale=scale)

    rows = [
        row("adist independent", "sum", is_plain=True),
        row("adist independent", "top5", "with template"),
        row("adist independent", "top5", "with template", scale="raw"),
        row("adist concatenated", "top5", "with template"),
        row("adist concatenated", "top5"),
        row("adist concatenated", "top10"),
        row("adist core:8", "sum"),
        row("adist core:8", "sum"),
        row("pdist", is_plain=True),
        row("adist concatenated", "sum", is_plain=True),
        row("adist concatenated", "top20", "with template"),
    ]
    rows[6] = replace(rows[6], name="adist concatenated core:8 sum", auc=replace(rows[6].auc, n=24))
    configured, recommended = rows[1].name, rows[-1]
    shown = shown_rows(result(rows=rows, configured=configured, recommended=recommended))
    assert [row.name for row in shown] == [
        "adist independent sum",
        "adist independent top5 with template",
        "adist independent top5 with template raw",
        "adist concatenated top5",
        "adist core:8 sum",
        "pdist",
        "adist concatenated sum",
        "adist concatenated top20 with template",
    ]


def test_chosen_heads_are_pasted_with_whose_rows_they_are_of():
    heads = HeadChoice(
        heads="0.1,2.*",
        rows="question",
        overrides=["objective.name=signals", 'reader.attention_heads="0.1,2.*"'],
        auc=0.9,
        auc_of_all=0.8,
        gain=0.1,
        low=0.05,
        high=0.15,
        at_equal_length=GOOD,
        at_equal_length_of_all=GOOD,
        pays=True,
        num_questions=50,
        layer_auc=[0.8],
        head_auc=[[0.8]],
    )
    shown = printed(result(heads=heads, recommended=wide_row()))
    assert "  objective.name=signals 'reader.attention_heads=\"0.1,2.*\"'\n" in shown
    assert "attention heads 0.1,2.* of the question's rows, chosen by their AUC" in " ".join(shown.split())


def test_what_is_missing_is_said():
    assert "· no calibrated signals are compared" in printed(
        result(notes=["no calibrated signals are compared"])
    )


def test_where_little_was_read_it_says_how_to_read_more():
    needs = Verdict(Advice.UNSURE, ["few"], needs_more=True)
    assert "more questions: --instances" in printed(result(verdict=needs))
    assert "more questions: --instances" not in printed(result())


@pytest.mark.parametrize(
    ("split", "other"), [("train", "validation"), ("validation", "train"), ("test", "train")]
)
def test_other_questions_are_those_of_another_split(split, other):
    best = TeacherRow("best", GOOD, GOOD, GOOD, UNDEFINED, SHORT, GOOD, GOOD, 0.05, ["seed=0"])
    few = Verdict(Advice.UNSURE, ["few"], needs_more=True)
    shown = " ".join(printed(result(recommended=best, verdict=few), split).split())
    assert f"confirm it on other questions, --split {other})" in shown
    assert f"more questions: --instances, --split {other};" in shown


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
