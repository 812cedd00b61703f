"""What decides over an endpoint's ejection, as a value and as the bytes of its slot.

Source: design section 5 (`endpoints`); spec config section 10.6.

Slot of `shm.endpoints`, native byte order:

    offset size type field
    0      16   -    key
    16     8    f64  health, 0 to 1
    24     8    f64  health after the ejection, NaN: what it is then
    32     8    u64  ejected until, CLOCK_MONOTONIC ns, 0: it is not
    40     4    u32  failures in a row
    44     4    u32  times ejected
    48     4    u32  CRC-32, added by `shm.table`
"""

from __future__ import annotations

import struct
from math import nan
from typing import Final, NamedTuple

_SLOT: Final = struct.Struct("=16sddQII")
_U32_MAX: Final = 2**32 - 1
_TIME_MAX_NS: Final = 2**63 - 1

SLOT_BYTES: Final = _SLOT.size
"""Without the CRC."""
assert SLOT_BYTES == 48, "design note"


class Standing(NamedTuple):
    """What decides over an endpoint's ejection."""

    health: float = 1.0
    """From 0 to 1."""
    failures: int = 0
    """In a row; 2**32 - 1 stands for more."""
    times_ejected: int = 0
    """Since the last success; 2**32 - 1 stands for more."""
    ejected_until_ns: int = 0
    """CLOCK_MONOTONIC; 0: it is not ejected."""
    restore_health: float | None = None
    """What its health is after the ejection; None: what it was."""

    @property
    def is_troubled(self) -> bool:
        """Whether a success has something to forgive."""
        return bool(self.failures or self.times_ejected or self.health != 1.0)


FRESH: Final = Standing()


def bounded_ns(moment_ns: int) -> int:
    """A moment as far as one is told apart: 292 years after the machine's start."""
    return min(moment_ns, _TIME_MAX_NS)


def packed(key: bytes, standing: Standing) -> bytes:
    """The slot's bytes without their CRC."""
    health, failures, times_ejected, until, restore = standing
    return _SLOT.pack(
        key,
        health,
        nan if restore is None else restore,
        bounded_ns(until),
        min(failures, _U32_MAX),
        min(times_ejected, _U32_MAX),
    )


def standing_of(raw: bytes) -> Standing:
    """The value of a slot."""
    _, health, restore, until, failures, times = _SLOT.unpack_from(raw)
    return Standing(health, failures, times, until, None if restore != restore else restore)
