"""What the pre-flight check prints."""

import math

from rich.console import Console

from experiments.estimates import Estimate
from experiments.probing.result import ProbeResult
from experiments.probing.rows import TeacherRow
from experiments.probing.table import WIDTH, print_probe
from experiments.probing.verdict import Decision, Verdict

GOOD = Estimate(0.9, 0.8, 1.0, 50)
SHORT = Estimate(-0.71, -0.8, -0.6, 50)
NOTHING = Estimate(math.nan, math.nan, math.nan, 0)


def result(**changes) -> ProbeResult:
    own = TeacherRow("adist independent sum", GOOD, GOOD, GOOD, NOTHING, SHORT, GOOD, GOOD, 0.05, [])
    settings = {
        "verdict": Verdict(Decision.GO, ["because"]),
        "configured": own.name,
        "rows": [own],
        "references": [],
        "indicators": {
            f"indicator{i}/{part}_p90": GOOD for i in (1, 2) for part in ("attention", "spearman", "lift")
        },
        "agreement": {},
        "mass_by_position": {},
        "shares": dict.fromkeys(("passages", "first_token", "rest"), GOOD),
        "share_with_both": 0.5,
        "hit_rate": 0.6,
        "recommended": None,
        "stopped_early": False,
        "num_questions": 50,
    }
    return ProbeResult(**(settings | changes))


def printed(result: ProbeResult) -> str:
    console = Console(width=WIDTH)
    with console.capture() as capture:
        print_probe(result, console)
    return capture.get()


def test_settings_to_copy_are_never_wrapped():
    overrides = [f"objective.name={'x' * 60}", f"reader.context={'y' * 60}"]
    best = TeacherRow("best", GOOD, GOOD, GOOD, NOTHING, SHORT, GOOD, GOOD, 0.05, overrides)
    shown = printed(result(recommended=best))
    assert f"  {overrides[0]} {overrides[1]}\n" in shown
    assert max(len(line) for line in shown.splitlines() if not line.startswith("  ")) <= WIDTH


def test_a_check_that_recommends_nothing_says_so():
    assert "recommended: none; no way of teaching has an AUC surely above 0.65" in printed(result())


def test_the_order_by_length_is_a_column():
    name = "adist concatenated averaged top20"
    row = TeacherRow(name, GOOD, GOOD, GOOD, SHORT, SHORT, GOOD, GOOD, 0.0853, [])
    shown = printed(result(rows=[row]))
    heads, cells = (line for line in shown.splitlines() if line.startswith((" teacher  ", f" {name}")))
    end = heads.index("=len") + len("=len  ") + len("-0.71")
    assert (heads[:end].split()[-1], cells[:end].split()[-1]) == ("len", "-0.71")
    assert "refused beyond 0.5 with either sign" in shown


def test_nothing_is_cut_off():
    name = "adist concatenated averaged top20"
    row = TeacherRow(name, GOOD, GOOD, GOOD, SHORT, SHORT, GOOD, GOOD, 0.0853, [])
    shown = printed(result(rows=[row]))
    assert f"{name}  0.90 [0.80, 1.00]  0.90  -0.71  -0.71" in shown
    assert "…" not in shown


def test_both_indicators_have_a_row_for_each_part():
    lifts = {"indicator1/lift_p90": Estimate(1.25, 1.1, 1.4, 50)}
    shown = printed(result(indicators=result().indicators | lifts))
    [lift] = [line for line in shown.splitlines() if "Indicator 1 (answer), lift" in line]
    assert "1.250 [1.100, 1.400]" in lift
    assert sum("(nouns), " in line for line in shown.splitlines()) == 3
