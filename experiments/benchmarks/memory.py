"""How much memory a piece of work takes at its worst moment."""

import ctypes
import gc
import sys
from collections.abc import Callable
from pathlib import Path

import torch

_STATUS = Path("/proc/self/status")
_CLEAR = Path("/proc/self/clear_refs")
_FORGET_PEAK = "5"


def can_measure(device: torch.device) -> bool:
    """Whether `peak_bytes` works here: on a GPU, and on Linux."""
    return device.type == "cuda" or (device.type == "cpu" and sys.platform == "linux" and _CLEAR.exists())


def peak_bytes(work: Callable[[], object], device: torch.device) -> int:
    """The most that was taken while it worked, beyond what was taken before.

    On a GPU what torch has given to tensors there, on the CPU the memory of the process.
    """
    gc.collect()
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
        work()
        return torch.cuda.max_memory_allocated(device) - before
    # what was freed goes back to the system first, else it would be taken without being seen
    ctypes.CDLL(None).malloc_trim(0)
    _CLEAR.write_text(_FORGET_PEAK)
    before = _status_bytes("VmRSS")
    work()
    return _status_bytes("VmHWM") - before


def free_bytes(device: torch.device) -> int:
    """What can still be taken."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    lines = Path("/proc/meminfo").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable:"))


def _status_bytes(name: str) -> int:
    lines = _STATUS.read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(f"{name}:"))
