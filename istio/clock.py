"""Time as an argument, so that tests can move it.

Source: house style, "bytes and time come in as arguments".
"""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime
from typing import Protocol, final


class Clock(Protocol):
    """The time of day, and waiting."""

    def now(self) -> datetime:
        """Now, in UTC."""

    async def sleep(self, seconds: float) -> None:
        """Return after `seconds`."""


@final
class SystemClock:
    """The machine's clock and the event loop's."""

    __slots__ = ()

    def now(self) -> datetime:
        """Now, in UTC."""
        return datetime.now(UTC)

    async def sleep(self, seconds: float) -> None:
        """Return after `seconds`."""
        await asyncio.sleep(seconds)
