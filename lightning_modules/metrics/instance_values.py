"""What the metrics over instances share: one value an instance, gathered over processes, summarised last."""

import functools
import warnings
from collections.abc import Callable, Mapping
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from torchmetrics import Metric
from torchmetrics.utilities import dim_zero_cat

from lightning_modules.metrics.mean_and_std import mean_and_std as mean_and_std


class InstanceValues(Metric):
    """A metric that keeps every instance's value, so that it can be plotted and bootstrapped.

    Subclasses append one tensor `[instances]` of float32 to the states in `update`, and summarise
    `current_values()` in `compute`. Without any update, `compute` summarises nothing and does not warn:
    a validation set of which no instance was sampled is reported as NaN.

    Args:
        reported_names: name of the state -> name under which its values are reported.
        kwargs: passed on to `torchmetrics.Metric`.
    """

    full_state_update = False

    def __init__(self, reported_names: Mapping[str, str], **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.reported_names = dict(reported_names)
        for state in self.reported_names:
            self.add_state(state, default=[], dist_reduce_fx="cat")

    def values(self) -> dict[str, Float[Tensor, " instances"]]:
        """Every instance's value under its reported name, NaN where undefined.

        Under DDP the values of all processes, process after process; all of them must call this together.
        """
        with self.sync_context(dist_sync_fn=self.dist_sync_fn, should_sync=self._to_sync):
            return self.current_values()

    def current_values(self) -> dict[str, Float[Tensor, " instances"]]:
        """Like `values`, without gathering: for `compute`, which runs when that has been done."""
        return {name: self._concatenated(state) for state, name in self.reported_names.items()}

    def _concatenated(self, state: str) -> Float[Tensor, " instances"]:
        values = getattr(self, state)
        return dim_zero_cat(values) if len(values) else torch.empty(0, device=self.device)

    def _wrap_compute(self, compute: Callable) -> Callable:
        wrapped = super()._wrap_compute(compute)

        @functools.wraps(compute)
        def without_warning(*args: Any, **kwargs: Any) -> Any:
            with warnings.catch_warnings():
                warnings.filterwarnings("ignore", message=".*was called before the ``update`` method")
                return wrapped(*args, **kwargs)

        return without_warning
