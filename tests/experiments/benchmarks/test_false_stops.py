"""The simulation of unchanged runs, in small."""

import numpy as np
import pytest

from experiments.benchmarks.false_stops import CORRELATION, MEAN, STD, main, stops, unchanged_runs


def test_values_are_as_told():
    runs = list(unchanged_runs(200, 2, 500))
    start = np.concatenate([values for values, _ in runs])
    later = np.concatenate([values[0] for _, values in runs])
    assert (start.mean(), start.std()) == pytest.approx((MEAN, STD), rel=0.02)
    assert np.corrcoef(start, later)[0, 1] == pytest.approx(CORRELATION, abs=0.01)


@pytest.mark.parametrize("patience", [1, 2, 3])
def test_rows_of_broken_bounds(patience):
    """Against counting, as `StopOnThresholds` does."""
    rng = np.random.default_rng(patience)
    for broken in rng.random((50, 8)) < 0.5:
        count = longest = 0
        for one in broken:
            count = count + 1 if one else 0
            longest = max(longest, count)
        assert stops(broken, patience) == (longest >= patience)


def test_a_bound_at_the_start_stops_most_runs_and_the_comparison_few(capsys):
    assert main(["--runs", "100", "--questions", "200"]) == 0
    shares = [float(cell.rstrip("%")) for cell in capsys.readouterr().out.splitlines()[-1].split()[1:]]
    assert shares[0] > 60 > shares[1] > shares[2] >= 0
    assert shares[3] <= 5
