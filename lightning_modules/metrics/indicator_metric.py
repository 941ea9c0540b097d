"""Indicators 1 and 2 over all instances, as a metric on the mathematics of `indicators`."""

from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from lightning_modules.metrics.indicators import IndicatorUnits, indicator_units, instance_means
from lightning_modules.metrics.instance_values import InstanceValues
from lightning_modules.metrics.mean_and_std import mean_and_std


class Indicator(InstanceValues):
    """Indicator 1 or 2 over all instances, for each percentile p.

    M_p = tokens of the passage at or above the p-th percentile of similarity to the target. A unit's
    value is its mean attention over M_p, Spearman's correlation between attention and similarity over M_p,
    and lift, the mean attention over M_p relative to that over the passage; an instance's value is the mean
    over its K units. `compute` returns 0-dim float32 tensors, with prefix `indicator1` and p = 90:

    - `indicator1/attention_p90`, `indicator1/spearman_p90`, `indicator1/lift_p90`: mean over instances,
      undefined ones left out;
    - `indicator1/attention_p90_std`, ...: sample standard deviation over instances (ddof = 1);
    - `indicator1/undefined_p90`: number of units whose correlation is undefined;
    - `indicator1/num_instances`: number of instances seen, undefined ones included.

    Args:
        prefix: first part of the reported names.
        percentiles: the p's, whole numbers 0..100.
        kwargs: passed on to `torchmetrics.Metric`.

    Raises:
        ValueError: no percentile, one out of range, or one given twice.

    Example:
        >>> indicator = Indicator("indicator1", percentiles=[50])
        >>> indicator.update(
        ...     attention=torch.tensor([[0.1, 0.2, 0.3, 0.4]]),
        ...     similarity=torch.tensor([[0.0, 0.2, 0.9, 0.5]]),
        ...     mask=torch.ones(1, 4, dtype=torch.bool),
        ...     instance_of_unit=torch.tensor([0]),
        ...     num_instances=1,
        ... )
        >>> metrics = indicator.compute()
        >>> metrics["indicator1/attention_p50"], metrics["indicator1/spearman_p50"]
        (tensor(0.3500), tensor(-1.))
        >>> metrics["indicator1/lift_p50"]
        tensor(1.4000)
    """

    def __init__(self, prefix: str, percentiles: Sequence[int] = (90, 95), **kwargs: Any) -> None:
        if not percentiles or len(set(percentiles)) < len(percentiles):
            raise ValueError(f"an indicator needs distinct percentiles such as (90, 95), not {percentiles!r}")
        for percentile in percentiles:
            if not 0 <= percentile <= 100:
                raise ValueError(f"a percentile lies between 0 and 100, not at {percentile!r}")
        parts = [f"{part}_p{p}" for p in percentiles for part in IndicatorUnits._fields]
        super().__init__({part: f"{prefix}/{part}" for part in parts}, **kwargs)
        self.prefix = prefix
        self.percentiles = tuple(percentiles)
        for p in self.percentiles:
            self.add_state(f"undefined_p{p}", default=torch.tensor(0), dist_reduce_fx="sum")

    def update(
        self,
        attention: Float[Tensor, "units tokens"],
        similarity: Float[Tensor, "units tokens"],
        mask: Bool[Tensor, "units tokens"],
        instance_of_unit: Int[Tensor, " units"],
        num_instances: int,
    ) -> None:
        """Adds a batch of whole instances.

        Args:
            attention: as in `indicator_units`.
            similarity: as in `indicator_units`.
            mask: True = token of the unit's passage.
            instance_of_unit: index within this batch of the instance that each unit belongs to.
            num_instances: number of instances in this batch.
        """
        for p in self.percentiles:
            units = indicator_units(attention, similarity, mask, p)
            for part, of_units in units._asdict().items():
                means, _ = instance_means(of_units, instance_of_unit, num_instances)
                getattr(self, f"{part}_p{p}").append(means)
            num_undefined = units.spearman.isnan().sum()
            setattr(self, f"undefined_p{p}", getattr(self, f"undefined_p{p}") + num_undefined)

    def compute(self) -> dict[str, Float[Tensor, ""]]:
        """The metrics named above; NaN, and counts of 0, before the first update."""
        summary = {}
        values = self.current_values()
        for name, instances in values.items():
            summary[name], summary[f"{name}_std"] = mean_and_std(instances)
        for p in self.percentiles:
            summary[f"{self.prefix}/undefined_p{p}"] = getattr(self, f"undefined_p{p}").float()
        num_instances = len(next(iter(values.values())))
        summary[f"{self.prefix}/num_instances"] = torch.tensor(float(num_instances), device=self.device)
        return summary
