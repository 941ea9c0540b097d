"""Against the plain mean over questions."""

import math

import numpy as np
import pytest

from lightning_modules.metrics.question_mean import QuestionMean


def test_batches_of_any_size_give_the_mean_over_questions():
    values = np.random.default_rng(0).normal(size=12)
    mean = QuestionMean()
    for batch in np.split(values, [1, 6, 8]):
        mean.update(float(batch.mean()), len(batch))
    assert float(mean.compute()) == pytest.approx(values.mean(), rel=1e-5)
    mean.update(math.nan, 1)
    assert math.isnan(mean.compute()), "a broken number is not left out"
    mean.reset()
    mean.update(3.0, 2)
    assert float(mean.compute()) == 3
