"""What the pages of the study have in common: names of measures, intervals."""

import math

from experiments.study.analysis import EARLY, SAME_ORDER, VERDICT_NOW
from experiments.study.before import VERDICT
from experiments.study.numbers import DERIVED, OF
from lightning_modules.metrics.estimates import Estimate
from lightning_modules.metrics.measures import measure_labels

LABELS = {
    "auc": "teacher AUC",
    "auc_at_equal_length": "AUC at equal length",
    "mrr": "MRR",
    "mass_on_answers": "mass on answers",
    "entropy": "entropy of the target",
    "length_tau": "Kendall's tau with length",
    "length_tau_size": "Kendall's tau with length, without its sign",
    "gold_above_longest": "gold above the longest",
    SAME_ORDER: "same order for unrelated questions",
    VERDICT: "the check's verdict, then",
    VERDICT_NOW: "the check's verdict, now",
    EARLY: "validation after a quarter of the training",
    **measure_labels(),
}
"""Of what is measured before."""
FEW, FEWEST_QUESTIONS = "gold_above_longest", 10
"""A measure that few questions decide, and how many it takes to be shown."""


def label(measure: str) -> str:
    """What people call a measure."""
    return LABELS.get(measure, measure)


def count(of: Estimate) -> str:
    """A whole number."""
    return f"{of.mean:.0f}"


def with_n(of: Estimate | None) -> str:
    """With its interval, where it has one, and the number that it is over; "-" where there is none."""
    return "-" if of is None or math.isnan(of.mean) else f"{interval(of, 2)} ({of.n})"


def command(part: str) -> str:
    """How a page is made, and from which rows."""
    return (
        f"`python -m experiments.study {part}`; [results.parquet](results.parquet), rows of part `{part}`, "
        f"and {rows_over(part)} for what is over several cells."
    )


def rows_over(part: str) -> str:
    """What the table's rows of numbers that are computed from several cells of a part are called."""
    return f"rows `{DERIVED}/{OF}={part}...`"


def mean(of: Estimate | None) -> str:
    """Without its interval; "-" where there is none."""
    return "-" if of is None or math.isnan(of.mean) else f"{of.mean:.2f}"


def interval(of: Estimate, decimals: int = 3) -> str:
    """A mean with its interval; three decimals are those of a change, which has a sign."""
    if math.isnan(of.mean):
        return "-"
    if math.isnan(of.low):
        return f"{of.mean:.{decimals}f}"
    sign = "+" if decimals == 3 else ""
    return f"{of.mean:{sign}.{decimals}f} [{of.low:.{decimals}f}, {of.high:.{decimals}f}]"


def file_name(name: str) -> str:
    """Of a measure, without what parts folders."""
    return name.replace("/", "-")
