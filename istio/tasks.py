"""Ending tasks that a wait does not need any more, without losing a cancellation of one's own.

`wait_for` of Python 3.11 returns a result in the place of a cancellation that comes with it, and
`suppress(CancelledError)` around `await task` cannot tell whose it was: neither is used here.
"""

from __future__ import annotations

import asyncio
from typing import Any


async def drop(*tasks: asyncio.Future[Any]) -> None:
    """Cancel the tasks and wait until they have ended; their results and errors are forgotten."""
    for task in tasks:
        task.cancel()
    await asyncio.wait(tasks)
    for task in tasks:
        if not task.cancelled():
            task.exception()
