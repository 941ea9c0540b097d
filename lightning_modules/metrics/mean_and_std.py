"""Mean and spread of what is defined."""

import torch
from jaxtyping import Float
from torch import Tensor


def mean_and_std(values: Float[Tensor, " instances"]) -> tuple[Float[Tensor, ""], Float[Tensor, ""]]:
    """Mean and sample standard deviation (ddof = 1) of the values that are not NaN.

    Args:
        values: one value an instance, NaN where the instance has none.

    Returns:
        The mean, NaN where no value is defined, and the standard deviation, NaN where fewer than two are.

    Example:
        >>> mean, std = mean_and_std(torch.tensor([1.0, float("nan"), 3.0]))
        >>> round(mean.item(), 4), round(std.item(), 4)
        (2.0, 1.4142)
    """
    defined = values[~values.isnan()]
    # torch.std warns about fewer than two values instead of only returning NaN
    std = defined.std() if len(defined) > 1 else defined.new_full((), torch.nan)
    return defined.mean(), std
