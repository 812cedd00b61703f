"""The receive windows: the connection's, and one of each tunnel.

Source: RFC 9113 sections 5.2 and 6.9; spec istio 1.6.

Design note. Each octet of DATA, padding too, takes from both windows as it arrives. A tunnel's is
returned as its reader consumes, in halves of a window. The connection's is returned as any reader
consumes, or at once while all of them hold less than `unread_bytes` (see Limits).

1. `_owed` is what was taken and not returned: max(0, unread - unread_bytes), plus less than half a
   window that is not worth a frame yet.
2. Every octet taken is released once, whatever became of its stream.
"""

from __future__ import annotations

from typing import final

from h2.errors import ErrorCodes
from h2.stream import H2Stream

from hbone.errors import WireError


@final
class ConnectionWindow:
    """See the design note. Sizes in octets."""

    __slots__ = ("_half", "_left", "_owed", "_unread", "_unread_allowed")

    def __init__(self, size: int, unread_bytes: int) -> None:
        self._left = size
        self._half = size // 2
        self._unread_allowed = unread_bytes
        self._unread = self._owed = 0

    def take(self, size: int) -> None:
        """Octets arrived. Raises: WireError when the peer had no right to send them."""
        self._left -= size
        if self._left < 0:
            raise WireError(ErrorCodes.FLOW_CONTROL_ERROR, "the connection's window is exceeded")
        self._owed += size
        self._unread += size

    def release(self, size: int) -> None:
        """They were consumed, or thrown away."""
        self._unread -= size
        assert self._unread >= 0, "consumed more than was received"

    def credit(self) -> int:
        """What is to be returned to the peer now, 0 for nothing yet; it counts as returned."""
        credit = self._owed - max(0, self._unread - self._unread_allowed)
        if credit < self._half:
            return 0
        self._owed -= credit
        self._left += credit
        return credit


@final
class TunnelStream:
    """One stream: python-h2's half of it and ours."""

    __slots__ = ("_half", "_left", "_owed", "has_ended", "is_answered", "states")

    def __init__(self, states: H2Stream, window: int) -> None:
        self.states = states
        self.has_ended = False
        """The peer sends no more."""
        self.is_answered = False
        self._left = window
        self._half = max(1, window // 2)
        self._owed = 0

    def take(self, size: int) -> bool:
        """Octets arrived; whether the peer had the right to send them."""
        self._left -= size
        return self._left >= 0

    def credit(self, size: int) -> int:
        """So many were consumed: what is to be returned to the peer now, 0 for nothing yet."""
        self._owed += size
        if self.has_ended or self._owed < self._half:
            return 0
        credit, self._owed = self._owed, 0
        self._left += credit
        return credit
