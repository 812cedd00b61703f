"""Waiting for a state that nothing signals."""

from __future__ import annotations

import asyncio
from collections.abc import Callable


async def turn_until(condition: Callable[[], object], seconds: float = 20.0) -> None:
    """Let the event loop turn until the condition holds."""
    async with asyncio.timeout(seconds):
        while not condition():  # noqa: ASYNC110 - what is asked for has no event
            await asyncio.sleep(0)
