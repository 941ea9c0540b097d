import numpy as np
import pytest

from lightning_modules.metrics.estimates import estimate


def test_estimates_leave_out_what_is_undefined():
    found = estimate([0.2, np.nan, 0.4])
    assert (found.mean, found.n) == (pytest.approx(0.3), 2)
    assert found.text == "0.30 [0.20, 0.40]"
    assert estimate([np.nan]).text == "-"
