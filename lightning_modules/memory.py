"""Memory that was freed, given back to the operating system."""

import ctypes
import sys
from functools import cache


def give_memory_back() -> None:
    """Gives back what the C library keeps of freed memory (glibc; elsewhere nothing is done).

    Tensors of a few megabytes, made and freed between many small objects of a tokenizer, leave gaps that
    nothing fits into: half a kilobyte for each passage that is encoded, 10 GB for Wikipedia's. It takes
    milliseconds.
    """
    trim = _malloc_trim()
    if trim is not None:
        trim(0)


@cache
def _malloc_trim() -> "ctypes._NamedFuncPointer | None":
    return getattr(ctypes.CDLL(None), "malloc_trim", None) if sys.platform == "linux" else None
