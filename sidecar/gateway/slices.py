"""Compilation in slices of a millisecond, between which requests pass.

Source: design section 2.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Generator
from typing import Final, TypeVar, final

_SLICE_SECONDS: Final = 0.001
_PAUSE_SECONDS: Final = 0.001
T = TypeVar("T")


@final
class Slices:
    """Those of one worker. `in_flight()`: how many requests are under way."""

    __slots__ = ("_in_flight",)

    def __init__(self, in_flight: Callable[[], int]) -> None:
        self._in_flight = in_flight

    async def run(self, steps: Generator[None, None, T]) -> T:
        """Run a generator to its end; what it returns."""
        until = time.perf_counter() + _SLICE_SECONDS
        while True:
            try:
                next(steps)
            except StopIteration as stop:
                found: T = stop.value
                return found
            if time.perf_counter() > until:
                await self.give_way()
                until = time.perf_counter() + _SLICE_SECONDS

    async def give_way(self) -> None:
        """Let requests pass between two slices of a compilation.

        Each meets several turns of the loop, and would wait for a slice at every one: what has come
        is read in one turn and sent on in the next (see Outbox), and its answer likewise. So while
        there are any, they get as much time as the compilation.
        """
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        if self._in_flight():
            await asyncio.sleep(_PAUSE_SECONDS)
