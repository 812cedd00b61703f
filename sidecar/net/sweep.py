"""Coarse deadlines: one timer a worker looks at every connection a few times a second.

A timer per await would cost more than a small request does. Where a deadline only has to be kept
to within a quarter of a second (idle, header read, stalled bodies, connect), the owner registers
here once and says when it expires; exact deadlines (policies) use the loop's own timers.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Protocol, final

INTERVAL_SECONDS = 0.25


class Expirable(Protocol):
    """Something with a deadline. `deadline` is in loop time, 0.0 for none."""

    deadline: float

    def expire(self) -> None:
        """The deadline has passed. Must not raise; may unregister, or set a new deadline."""


@final
class Sweeper:
    """Calls `expire` of each registered object whose deadline has passed, once per passing.

    `time()` is loop time now, in seconds.
    """

    __slots__ = ("_handle", "_loop", "_members", "time")

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self.time: Callable[[], float] = loop.time
        self._members: set[Expirable] = set()
        self._handle: asyncio.TimerHandle | None = loop.call_later(INTERVAL_SECONDS, self._sweep)

    def add(self, member: Expirable) -> None:
        """Watch it from now on."""
        self._members.add(member)

    def discard(self, member: Expirable) -> None:
        """Watch it no more."""
        self._members.discard(member)

    def _sweep(self) -> None:
        # First, so that one member's failure cannot end the watch over all the others.
        self._handle = self._loop.call_later(INTERVAL_SECONDS, self._sweep)
        now = self.time()
        late = [member for member in self._members if 0.0 < member.deadline <= now]
        for member in late:
            member.deadline = 0.0
            member.expire()

    def close(self) -> None:
        """Stop the timer."""
        if self._handle is not None:
            self._handle.cancel()
            self._handle = None
