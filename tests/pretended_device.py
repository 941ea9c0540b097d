"""A device that is not the CPU, on every machine: what a first run on a GPU would trip over.

Its tensors say that they are on `DEVICE` and hold their numbers in main memory. As on a GPU they cannot be
mixed with the CPU's, but for single numbers and indices, nor be made NumPy arrays without `.cpu()`.
"""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map

DEVICE = torch.device("meta")
"""A kind of device that every build of torch can move tensors to; here they keep their numbers."""

_MAY_MIX = {"aten.copy_.default", "aten._to_copy.default"}
_INDICES_MAY_BE_ON_CPU = {"aten.index.Tensor", "aten.index_put_.default", "aten.index_put.default"}
_PRODUCTS = {
    F.linear,
    F.scaled_dot_product_attention,
    torch.baddbmm,
    torch.bmm,
    torch.einsum,
    torch.matmul,
    Tensor.__matmul__,
    Tensor.matmul,
}
"""What mixed precision is of."""


class _OnDevice(Tensor):
    """A tensor of the device; `held` are its numbers."""

    held: Tensor

    @staticmethod
    def __new__(cls, held: Tensor) -> "_OnDevice":
        return Tensor._make_wrapper_subclass(  # type: ignore[attr-defined]
            cls,
            held.size(),
            strides=held.stride(),
            storage_offset=held.storage_offset(),
            dtype=held.dtype,
            device=DEVICE,
        )

    def __init__(self, held: Tensor) -> None:
        self.held = held

    # torch has words of its own for tensors of this kind of device, which hold no numbers
    def item(self) -> Any:
        return self._asked_for().item()

    def tolist(self) -> Any:
        return self._asked_for().tolist()

    def __bool__(self) -> bool:
        return bool(self._asked_for())

    def __int__(self) -> int:
        return int(self._asked_for())

    def __float__(self) -> float:
        return float(self._asked_for())

    def __index__(self) -> int:
        return self._asked_for().__index__()

    def _asked_for(self) -> Tensor:
        PretendedDevice.num_waits += 1
        return self.held

    @classmethod
    def __torch_function__(
        cls, func: Callable[..., Any], types: Any, args: tuple = (), kwargs: dict | None = None
    ) -> Any:
        if PretendedDevice.products_in is not None and func in _PRODUCTS:
            args, kwargs = tree_map(_in_halves, (args, kwargs))
        with torch._C.DisableTorchFunctionSubclass():  # what comes to the CPU is no tensor of the device
            return func(*args, **(kwargs or {}))

    @classmethod
    def __torch_dispatch__(
        cls, func: Callable[..., Any], types: Any, args: tuple = (), kwargs: dict | None = None
    ) -> Any:
        return _call(func, args, kwargs or {})


class PretendedDevice(TorchDispatchMode):
    """Inside, tensors can be made on the device and moved to it.

    In mixed precision its matrix products are of halves, as on a GPU.

    Attributes:
        num_waits: how often the host has waited for the device since the mode was entered: for numbers that
            it asked for, for the places of True values, or while indices were copied to the device.
        products_in: of mixed precision, where it is on.
    """

    num_waits: ClassVar[int] = 0
    products_in: ClassVar[torch.dtype | None] = None

    def __enter__(self) -> "PretendedDevice":
        names = ("autocast", "is_autocast_enabled", "get_autocast_dtype", "tensor")
        real = self._real = {name: getattr(torch, name) for name in names}

        def autocast(device_type: str, *args: Any, **kwargs: Any) -> AbstractContextManager[Any]:
            is_here = device_type == DEVICE.type
            return _autocast(*args, **kwargs) if is_here else real["autocast"](device_type, *args, **kwargs)

        def is_autocast_enabled(device_type: str | None = None) -> bool:
            if device_type == DEVICE.type:
                return PretendedDevice.products_in is not None
            return real["is_autocast_enabled"](*[device_type] if device_type else [])

        def get_autocast_dtype(device_type: str) -> torch.dtype:
            is_here = device_type == DEVICE.type
            return PretendedDevice.products_in or real["get_autocast_dtype"](
                "cpu" if is_here else device_type
            )

        def tensor(data: Any, *, device: Any = None, **kwargs: Any) -> Tensor:
            is_here = device is not None and torch.device(device).type == DEVICE.type
            return real["tensor"](data, **kwargs).to(DEVICE) if is_here else real["tensor"](data, **kwargs)

        torch.autocast, torch.is_autocast_enabled = autocast, is_autocast_enabled  # type: ignore[misc, assignment]
        torch.get_autocast_dtype, torch.tensor = get_autocast_dtype, tensor
        PretendedDevice.num_waits = 0
        return super().__enter__()

    def __exit__(self, *exception: Any) -> None:
        super().__exit__(*exception)
        for name, function in self._real.items():
            setattr(torch, name, function)

    def __torch_dispatch__(
        self, func: Callable[..., Any], types: Any, args: tuple = (), kwargs: dict | None = None
    ) -> Any:
        return _call(func, args, kwargs or {})


@contextmanager
def _autocast(dtype: torch.dtype = torch.bfloat16, enabled: bool = True, **_: Any) -> Iterator[None]:
    """Mixed precision of the device."""
    before = PretendedDevice.products_in
    PretendedDevice.products_in = dtype if enabled else None
    try:
        yield
    finally:
        PretendedDevice.products_in = before


def _in_halves(one: Any) -> Any:
    is_single = isinstance(one, Tensor) and one.dtype is torch.float32
    return one.to(PretendedDevice.products_in) if is_single else one


def _is_waited_for(func: Callable[..., Any], args: tuple, kwargs: dict[str, Any]) -> bool:
    """Whether a GPU would have to be done before the host goes on."""
    name = str(func)
    if name in _INDICES_MAY_BE_ON_CPU:
        indices = [one for one in args[1] if one is not None]
        return any(not isinstance(one, _OnDevice) or one.dtype is torch.bool for one in indices)
    if name == "aten._to_copy.default":
        return torch.device(kwargs.get("device") or DEVICE).type != DEVICE.type
    return name == "aten.nonzero.default"


def _call(func: Callable[..., Any], args: tuple, kwargs: dict[str, Any]) -> Any:
    """What the operation gives, on the device that it would be on."""
    tensors = [one for one in tree_leaves((args, kwargs)) if isinstance(one, Tensor)]
    on_device = [one for one in tensors if isinstance(one, _OnDevice)]
    if on_device and str(func) not in _MAY_MIX:
        checked = args[:1] + args[2:] if str(func) in _INDICES_MAY_BE_ON_CPU else args
        mixed = [one for one in tree_leaves((checked, kwargs)) if isinstance(one, Tensor)]
        if any(not isinstance(one, _OnDevice) and one.dim() > 0 for one in mixed):
            raise RuntimeError(
                f"{func}: expected all tensors to be on the same device, found {DEVICE} and cpu"
            )
    if on_device and _is_waited_for(func, args, kwargs):
        PretendedDevice.num_waits += 1
    wanted = kwargs.get("device")
    stays = isinstance(args[0], _OnDevice) if str(func) == "aten.copy_.default" else bool(on_device)
    is_of_device = stays if wanted is None else torch.device(wanted).type == DEVICE.type
    if wanted is not None:
        kwargs = {**kwargs, "device": torch.device("cpu")}
    wrapper_of = {id(one.held): one for one in on_device}

    def wrapped(one: Any) -> Any:
        if not isinstance(one, Tensor) or isinstance(one, _OnDevice) or not is_of_device:
            return one
        own = wrapper_of.get(id(one))  # of an operation in place
        return _OnDevice(one) if own is None else own

    held_args, held_kwargs = tree_map(lambda one: getattr(one, "held", one), (args, kwargs))
    return tree_map(wrapped, func(*held_args, **held_kwargs))
