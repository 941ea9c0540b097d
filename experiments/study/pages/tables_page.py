"""Page `tables`: the paper's settings at embedded scale."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from experiments.study import tables
from experiments.study.cells import Result, of_part
from experiments.study.pages.text import command, table


def of_tables(results: Sequence[Result], out: Path) -> tuple[list[str], list[str]]:
    """The findings in sentences, and the lines of the page; both empty without results."""
    found = of_part(results, tables.NAME)
    if not found:
        return [], []
    groups: dict[str, list[Result]] = {}
    for result in found:
        groups.setdefault(result.cell["setting"], []).append(result)
    shown = ("hr_at_5", "em", "f1")
    rows = [
        [setting, str(len(groups[setting])), *(_of_seeds(groups[setting], name) for name in shown)]
        for setting in tables.SETTINGS
        if setting in groups
    ]
    page = ["# The paper's settings at embedded scale", "", command(tables.NAME), ""]
    page += table(["setting", "seeds", "HR@5", "EM", "F1"], rows)
    means = {
        setting: np.mean([of.measures["hr_at_5"].mean for of in of_seeds])
        for setting, of_seeds in groups.items()
    }
    ordered = " < ".join(f"{name} ({means[name]:.3f})" for name in sorted(means, key=lambda of: means[of]))
    return [f"HR@5 of the paper's settings: {ordered}."], page


def _of_seeds(results: Sequence[Result], name: str) -> str:
    values = [of.measures[name].mean for of in results if name in of.measures]
    return ", ".join(f"{value:.3f}" for value in values) or "-"
