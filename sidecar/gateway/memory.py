"""How a process keeps memory: what the C library gives back, and when Python looks for cycles.

Source: mallopt(3); the module gc.

A connection that carries much takes and frees buffers of 64 to 256 KiB all the time. As it comes,
glibc gives the larger ones back to the system each time, and what is free at the heap's end too;
pages that are made anew cost more than enciphering what is put in them. This way a tunnel carries
40 to 50 % more for the same CPU time (`python -m tests.bench.hbone_bench`).
"""

from __future__ import annotations

import ctypes
import gc
from typing import Final

_M_TRIM_THRESHOLD: Final = -1
_M_MMAP_THRESHOLD: Final = -3
_KEPT_BYTES: Final = 4 * 1024 * 1024
"""What may stay free at the heap's end."""
_OWN_MAPPING_BYTES: Final = 1024 * 1024
"""Larger blocks are still the system's again as soon as they are free."""
_THRESHOLDS: Final = (20_000, 20, 50)
"""Requests make no cycles, and of ten thousand resources there is nothing to collect; but each look
at them is a pause, and the default looks every 700 objects."""


def keep_freed_memory() -> bool:
    """Of this process from now on; False where the C library is another than glibc."""
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is None:
        return False
    return bool(
        mallopt(_M_TRIM_THRESHOLD, _KEPT_BYTES) and mallopt(_M_MMAP_THRESHOLD, _OWN_MAPPING_BYTES)
    )


def collect_seldom() -> None:
    """Have Python look for cycles seldom, from now on."""
    gc.set_threshold(*_THRESHOLDS)


def collect_frozen() -> None:
    """Free what earlier configurations left in cycles, which `gc.freeze` keeps for ever.

    It stops the worker for about 10 µs a route that runs, so it waits until many resources have
    been replaced, and for a moment without requests unless there are very many.
    """
    gc.unfreeze()
    gc.collect()
    gc.freeze()
