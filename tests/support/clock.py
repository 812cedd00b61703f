"""A clock that stands still until it is told."""

from __future__ import annotations


class HeldClock:
    """Both clocks of telemetry.clock.Clock, moved together by `pass_seconds`."""

    def __init__(self, monotonic_ns: int = 1_000_000_000_000) -> None:
        self._now_ns = monotonic_ns

    def pass_seconds(self, seconds: float) -> None:
        self._now_ns += round(seconds * 1e9)

    def monotonic_ns(self) -> int:
        return self._now_ns

    def time_ns(self) -> int:
        return 1_700_000_000_000_000_000 + self._now_ns
