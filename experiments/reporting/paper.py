"""The paper's numbers, for rows beside ours."""

import functools
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf

TABLES = Path(__file__).parents[1] / "paper" / "tables.yaml"


def paper_value(table: str, setting: str, dataset: str, name: str) -> tuple[float, float | None] | None:
    """A mean, with its standard deviation where the paper gives one.

    Args:
        table: `table1` (EM and F1 in percent), `table3` or `table4`.
        setting, dataset: such as `step2` and `nq`.
        name: such as `hr5` or `spearman_p90`.

    Returns:
        None where the paper has no such number.
    """
    value = _tables()[table].get(setting, {}).get(dataset, {}).get(name)
    if value is None:
        return None
    mean, std = value if isinstance(value, list) else (value, None)
    return mean, std


def paper_steps(setting: str, dataset: str) -> int | None:
    """Optimizer steps that the paper trains for; None where it trains nothing."""
    return _tables()["hyperparameters"].get(setting, {}).get(dataset, {}).get("steps")


@functools.cache
def _tables() -> dict[str, Any]:
    tables = OmegaConf.to_container(OmegaConf.load(TABLES))
    assert isinstance(tables, dict)
    return tables  # type: ignore[return-value]
