"""Writes docs/measures.md from the table of measures: `python docs/write_measures.py`."""

from pathlib import Path

from lightning_modules.metrics.measures import Measure, Prominence, all_measures

_HEAD = """# What is measured

Written from the table in `lightning_modules/metrics/measures.py` by `python docs/write_measures.py`. A
validation logs each measure under the name given here, a test under `test/` and its name without
`validation/`. Means over questions come with `NAME_std`, their standard deviation. Of a reader that is
trained, those of the reader are also measured on the passages that the start retrieved, as
`start_candidates/NAME`.

| name | in tables | meaning | better |
|---|---|---|---|
"""


def describe(measure: Measure) -> str:
    """A row of the table."""
    label = "" if measure.prominence is Prominence.COUNT else measure.label
    row = f"| `{measure.in_validation}` | {label} | {measure.meaning} | {measure.better} |"
    return row.replace("||", "\\|\\|")


def write() -> str:
    """The whole page."""
    return _HEAD + "\n".join(map(describe, all_measures())) + "\n"


if __name__ == "__main__":
    Path(__file__).with_name("measures.md").write_text(write(), encoding="utf-8")
