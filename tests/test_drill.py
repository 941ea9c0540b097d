"""The short form of `make drill`: a signal of a scheduler, a kill and two resumes at once, a full disk."""

import pytest

from tests.drill.cases import Counts, Drill
from tests.drill.table import Case, Outcome, Table


def test_nothing_is_lost_and_nothing_silently_wrong(tmp_path):
    counts = Counts(kills=0, kills_of_two=0, signals=1, changes=0, resumed=0, sizes=1, twice=1)
    table = Drill(tmp_path.resolve()).run(counts, jobs=1)
    assert table.is_good, table.text()
    assert len(table.cases) + len(table.skipped) == 1 + 1 + 2  # of two resumes one is refused


@pytest.mark.parametrize(("outcome", "is_good"), [(Outcome.REFUSED, True), (Outcome.WRONG, False)])
def test_the_table_counts(outcome, is_good):
    table = Table([Case("kill", Outcome.RECOVERED), Case("kill", outcome, "why")], ["kill"], ["nothing"])
    assert table.is_good == is_good
    shown = table.text().splitlines()
    assert shown[0] == "| | injected | recovered | told | refused | lost | silently wrong |"
    assert shown[2] == f"| kill | 2 | 1 | 0 | {int(is_good)} | 0 | {int(not is_good)} |"
    assert ("kill: silently wrong: why" in shown) != is_good
