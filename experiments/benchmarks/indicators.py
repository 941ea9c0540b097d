"""The indicators of a thousand instances, batched on the device, beside a loop of NumPy and SciPy."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import scipy.stats
import torch
from torch import Tensor

from experiments.benchmarks.comparison import (
    Comparison,
    Setting,
    Size,
    TimesFaster,
    agreement_of,
    in_turns,
)
from lightning_modules.metrics.indicators import Indicator

_PERCENTILES = (90, 95)
_WITHIN = 1e-5
_TOGETHER = 100
_VALIDATION_BATCH = 4
"""Instances of a validation step, by default."""


@dataclass(frozen=True)
class _Units:
    """What `Indicator.update` takes."""

    attention: Tensor
    similarity: Tensor
    mask: Tensor
    instance_of_unit: Tensor
    num_instances: int

    @classmethod
    def made_up(cls, num_instances: int, device: torch.device) -> "_Units":
        """Five passages of 64 to 128 tokens each; similarities repeat, as those of equal tokens do."""
        generator = torch.Generator().manual_seed(0)
        count = 5 * num_instances
        lengths = torch.randint(64, 129, (count, 1), generator=generator)
        mask = torch.arange(128) < lengths
        attention = torch.rand(count, 128, generator=generator).masked_fill(~mask, 0.0)
        similarity = (torch.rand(count, 128, generator=generator) * 50).round() / 50
        of_unit = torch.arange(num_instances).repeat_interleave(5)
        made = (attention / attention.sum(dim=1, keepdim=True), similarity, mask, of_unit)
        attention, similarity, mask, of_unit = (tensor.to(device) for tensor in made)
        return cls(attention, similarity, mask, of_unit, num_instances)

    def batches(self, num_instances: int) -> Iterator["_Units"]:
        """As validation steps would give them."""
        for start in range(0, self.num_instances, num_instances):
            units = slice(5 * start, 5 * (start + num_instances))
            yield _Units(
                self.attention[units],
                self.similarity[units],
                self.mask[units],
                self.instance_of_unit[units] - start,
                min(num_instances, self.num_instances - start),
            )


def measure(setting: Setting) -> list[Comparison]:
    """In updates of many instances, and of a validation step's few."""
    num_instances = 6 if setting.size is Size.TINY else 1000
    units = _Units.made_up(num_instances, setting.device)
    wanted = _by_loop(units)
    found = []
    # what every call costs by itself is not saved in small batches
    for together, reach in ((_TOGETHER, TimesFaster(30)), (_VALIDATION_BATCH, None)):
        batches = list(units.batches(together))

        def batched(batches: list[_Units] = batches) -> Tensor:
            return _by_metric(batches, setting.device)

        agreement = agreement_of("means and deviations", batched(), wanted, _WITHIN)
        works: dict[str, Callable[[], Tensor]] = {"batched": batched, "loop": lambda: _by_loop(units)}
        took = in_turns(works, setting)
        what = f"{num_instances:,} instances of 5x128 tokens, {together:,} at a time"
        baseline = "a loop of NumPy and SciPy"
        found.append(Comparison(what, baseline, took["batched"], took["loop"], reach, agreement))
    return found


def _by_metric(batches: list[_Units], device: torch.device) -> Tensor:
    """Mean and standard deviation of each part, in the order of `_by_loop`."""
    indicator = Indicator("indicator1", _PERCENTILES).to(device)
    for batch in batches:
        indicator.update(
            batch.attention, batch.similarity, batch.mask, batch.instance_of_unit, batch.num_instances
        )
    computed = indicator.compute()
    names = [f"indicator1/{part}_p{p}" for p in _PERCENTILES for part in ("attention", "spearman")]
    return torch.stack([computed[f"{name}{end}"] for name in names for end in ("", "_std")])


def _by_loop(units: _Units) -> Tensor:
    """As a reader of the paper would write it down."""
    attention, similarity, mask = (
        tensor.cpu().numpy() for tensor in (units.attention, units.similarity, units.mask)
    )
    parts = []
    for percentile in _PERCENTILES:
        of_units = np.array(
            [_of_unit(*unit, percentile) for unit in zip(attention, similarity, mask, strict=True)]
        )
        of_instances = np.nanmean(of_units.reshape(units.num_instances, 5, 2), axis=1)
        parts += [np.stack([of_instances.mean(axis=0), of_instances.std(axis=0, ddof=1)], axis=1).ravel()]
    return torch.from_numpy(np.concatenate(parts))


def _of_unit(
    attention: np.ndarray, similarity: np.ndarray, mask: np.ndarray, percentile: int
) -> tuple[float, float]:
    attention, similarity = attention[mask], similarity[mask].astype(np.float64)
    chosen = similarity >= np.percentile(similarity, percentile) - 1e-9
    one, other = attention[chosen], similarity[chosen]
    is_constant = np.all(one == one[0]) or np.all(other == other[0])
    spearman = np.nan if is_constant else scipy.stats.spearmanr(one, other).statistic
    return float(one.mean(dtype=np.float64)), float(spearman)
