"""When to ask whether the peer is still there, and when to give it up.

Source: spec istio 1.8; RFC 9113 section 6.7.

Whatever arrives is a sign of life: behind megabytes of tunnel data a pong comes late, and the data
says as much.
"""

from __future__ import annotations

from typing import Final, final

PAYLOAD: Final = b"hbonekap"


@final
class Keepalive:
    """Seconds, monotonic, come in. An interval of 0 never asks."""

    __slots__ = ("_asked", "_heard", "_interval", "_timeout")

    def __init__(self, interval_seconds: float, timeout_seconds: float, now: float) -> None:
        self._interval = interval_seconds
        self._timeout = timeout_seconds
        self._heard = now
        self._asked: float | None = None

    def heard(self, now: float) -> None:
        """Octets arrived."""
        self._heard = now
        self._asked = None

    def is_lost(self, now: float) -> bool:
        """Whether the peer had time enough to answer and did not."""
        return self._asked is not None and now - self._asked >= self._timeout

    def asks(self, now: float) -> bool:
        """Whether a PING is to be sent now; it then counts as sent."""
        if not self._interval or self._asked is not None or now - self._heard < self._interval:
            return False
        self._asked = now
        return True

    def due(self) -> float | None:
        """When to look again, None for never."""
        if not self._interval:
            return None
        return self._heard + self._interval if self._asked is None else self._asked + self._timeout
