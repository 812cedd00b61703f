"""Has the C library keep what a worker frees, for its next buffers.

Source: mallopt(3).

A connection that carries much takes and frees buffers of 64 to 256 KiB all the time. As it comes,
glibc gives the larger ones back to the system each time, and what is free at the heap's end too;
pages that are made anew cost more than enciphering what is put in them. This way a tunnel carries
40 to 50 % more for the same CPU time (`python -m tests.bench.hbone_bench`).
"""

from __future__ import annotations

import ctypes
from typing import Final

_M_TRIM_THRESHOLD: Final = -1
_M_MMAP_THRESHOLD: Final = -3
_KEPT_BYTES: Final = 4 * 1024 * 1024
"""What may stay free at the heap's end."""
_OWN_MAPPING_BYTES: Final = 1024 * 1024
"""Larger blocks are still the system's again as soon as they are free."""


def keep_freed_memory() -> bool:
    """Of this process from now on; False where the C library is another than glibc."""
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is None:
        return False
    return bool(
        mallopt(_M_TRIM_THRESHOLD, _KEPT_BYTES) and mallopt(_M_MMAP_THRESHOLD, _OWN_MAPPING_BYTES)
    )
