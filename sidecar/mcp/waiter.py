"""One who waits until there is something new to look at."""

from __future__ import annotations

import asyncio
from typing import final


@final
class Waiter:
    """One reader waits at a time, and looks again each time it was woken."""

    __slots__ = ("_woken",)

    def __init__(self) -> None:
        self._woken: asyncio.Future[None] | None = None

    def wake(self) -> None:
        """Nobody waits: then there is nothing to do, as whoever comes looks first."""
        woken = self._woken
        if woken is not None and not woken.done():
            woken.set_result(None)

    async def wait(self) -> None:
        """Until `wake`."""
        self._woken = asyncio.get_running_loop().create_future()
        try:
            await self._woken
        finally:
            self._woken = None
