"""What the pre-flight check prints."""

import math

from rich.console import Console

from experiments.estimates import Estimate
from experiments.probing.result import ProbeResult
from experiments.probing.rows import TeacherRow
from experiments.probing.table import print_probe
from experiments.probing.verdict import Decision, Verdict

GOOD = Estimate(0.9, 0.8, 1.0, 50)
NOTHING = Estimate(math.nan, math.nan, math.nan, 0)


def result(**changes) -> ProbeResult:
    own = TeacherRow("adist independent sum", GOOD, GOOD, GOOD, NOTHING, GOOD, GOOD, 0.05, [])
    settings = {
        "verdict": Verdict(Decision.GO, ["because"]),
        "configured": own.name,
        "rows": [own],
        "references": [],
        "indicators": {
            f"indicator{i}/{part}_p90": GOOD for i in (1, 2) for part in ("attention", "spearman")
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
    console = Console(width=100)
    with console.capture() as capture:
        print_probe(result, console)
    return capture.get()


def test_settings_to_copy_are_never_wrapped():
    overrides = [f"objective.name={'x' * 60}", f"reader.context={'y' * 60}"]
    best = TeacherRow("best", GOOD, GOOD, GOOD, NOTHING, GOOD, GOOD, 0.05, overrides)
    shown = printed(result(recommended=best))
    assert f"  {overrides[0]} {overrides[1]}\n" in shown
    assert max(len(line) for line in shown.splitlines() if not line.startswith("  ")) <= 100


def test_a_check_that_recommends_nothing_says_so():
    assert "recommended: none; no way of teaching has an AUC surely above 0.65" in printed(result())
