"""Measures of rankings against their definitions, written out."""

import math

import numpy as np
import pytest

from lightning_modules.metrics.ranking import RANKING_MEASURES, ranking_values

QRELS = {
    "a": {"p0": 1, "p4": 1, "p30": 1, "gone": 1, "p2": 0},
    "b": {"p11": 1},
    "c": {"p1": 0},
    "d": {"p1": 1},
}
RANKING = {of: [(f"p{i}", 50.0 - i) for i in range(50)] for of in ("a", "b", "c")}


def expected(name: str, relevant: list[int], num_relevant: int) -> float:
    kind, k = name.split("@")[0], int(name.split("@")[1])
    found = [place for place in relevant if place < k]
    match kind:
        case "nDCG":
            ideal = sum(1 / math.log2(place + 2) for place in range(min(k, num_relevant)))
            return sum(1 / math.log2(place + 2) for place in found) / ideal if ideal else 0.0
        case "MRR":
            return 1 / (found[0] + 1) if found else 0.0
        case "R":
            return len(found) / num_relevant if num_relevant else 0.0
        case _:
            return float(bool(found))


@pytest.mark.parametrize("name", RANKING_MEASURES)
def test_measures_equal_their_definitions(name):
    values = ranking_values(QRELS, RANKING, [name])[name]
    by_hand = [expected(name, [0, 4, 30], 4), expected(name, [11], 1), 0.0, 0.0]
    np.testing.assert_allclose(values, by_hand, rtol=1e-6)
