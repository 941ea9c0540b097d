"""What the paper's tables say, worked out by hand from experiments/paper/tables.yaml."""

import pytest

from experiments.benchmarks.paper_separation import METRICS, main, separation

BY_HAND = {
    # good > bad on nq, triviaqa; in order on nq, triviaqa; highest bad, lowest good
    "indicator1/attention_p90": (True, True, True, False, 0.033, 0.039),
    "indicator1/attention_p95": (True, True, True, False, 0.039, 0.052),
    "indicator1/spearman_p90": (True, True, True, True, 0.227, 0.259),
    "indicator1/spearman_p95": (True, True, True, True, 0.206, 0.258),
    "indicator2/attention_p90": (True, True, False, False, 0.047, 0.032),
    # Step 2 and off the shelf are equal on NQ: 0.039
    "indicator2/attention_p95": (False, True, False, False, 0.063, 0.039),
    "indicator2/spearman_p90": (True, True, False, False, 0.144, 0.310),
    "indicator2/spearman_p95": (True, True, False, False, 0.260, 0.225),
}


@pytest.mark.parametrize("metric", METRICS)
def test_what_each_metric_tells(metric):
    found = separation(metric)
    assert list(found.good_above_bad) == list(found.in_order) == ["nq", "triviaqa"]
    expected = BY_HAND[metric]
    assert (*found.good_above_bad.values(), *found.in_order.values()) == expected[:4]
    assert (found.highest_bad, found.lowest_good) == expected[4:]


def test_all_metrics_are_printed(capsys):
    assert main([]) == 0
    lines = capsys.readouterr().out.splitlines()
    rows = {line.split()[0]: line.split() for line in lines if line.startswith("indicator")}
    assert list(rows) == list(BY_HAND)
    assert rows["indicator1/spearman_p95"][1:] == ["yes,", "yes", "yes,", "yes", "0.206", "to", "0.258"]
    assert rows["indicator1/attention_p95"][1:] == ["yes,", "yes", "yes,", "no", "0.039", "to", "0.052"]
    assert rows["indicator2/spearman_p95"][1:] == ["yes,", "yes", "no,", "no", "none"]
    assert sum("none" not in cells for cells in rows.values()) == 5
