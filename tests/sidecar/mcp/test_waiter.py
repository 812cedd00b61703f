"""Whoever waits looks again each time it is woken, and nobody waits for what came before."""

from __future__ import annotations

import asyncio

import pytest

from sidecar.mcp.waiter import Waiter


async def waiting(waiter: Waiter) -> asyncio.Task[None]:
    task = asyncio.create_task(waiter.wait())
    await asyncio.sleep(0)
    assert not task.done()
    return task


async def test_it_is_woken_each_time() -> None:
    waiter = Waiter()
    waiter.wake()  # nobody waits
    for _ in range(2):
        task = await waiting(waiter)
        waiter.wake()
        waiter.wake()  # once more before it has looked
        await task


async def test_one_that_gave_up_is_not_woken() -> None:
    waiter = Waiter()
    task = await waiting(waiter)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    waiter.wake()
    task = await waiting(waiter)
    waiter.wake()
    await task
