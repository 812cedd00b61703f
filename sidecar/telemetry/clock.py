"""The one source of time: a seam, so that tests can hold it still."""

from __future__ import annotations

import time
from typing import Protocol, final


class Clock(Protocol):
    """Two clocks: `monotonic_ns` for durations, `time_ns` for dates. Nanoseconds."""

    def monotonic_ns(self) -> int:
        """A clock that only goes forward; its zero means nothing."""

    def time_ns(self) -> int:
        """Time since 1970."""


@final
class SystemClock:
    """The machine's clocks."""

    __slots__ = ()

    monotonic_ns = staticmethod(time.monotonic_ns)
    time_ns = staticmethod(time.time_ns)
