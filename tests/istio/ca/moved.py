"""A clock whose waits pass at once and move it."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta


class MovedClock:
    """`slept`: every wait, in seconds. A wait moves the time, and lets others run."""

    def __init__(self, now: datetime | None = None) -> None:
        self._now = now or datetime.now(UTC)
        self.slept: list[float] = []

    def now(self) -> datetime:
        return self._now

    def move(self, delta: timedelta) -> None:
        self._now += delta

    async def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)
        self._now += timedelta(seconds=seconds)
        await asyncio.sleep(0.001)
