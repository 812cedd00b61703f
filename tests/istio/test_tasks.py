"""Ending tasks without losing one's own cancellation."""

from __future__ import annotations

import asyncio

import pytest

from istio.tasks import drop


async def test_what_failed_finished_or_runs_is_ended() -> None:
    async def fail() -> None:
        raise ValueError("nobody asks")

    tasks = [asyncio.ensure_future(one) for one in (fail(), asyncio.sleep(0), asyncio.sleep(60))]
    await asyncio.sleep(0)
    await drop(*tasks)
    assert [one.done() for one in tasks] == [True, True, True]


async def test_a_cancellation_while_waiting_is_not_lost() -> None:
    release = asyncio.Event()

    async def slow_to_end() -> None:
        try:
            await asyncio.sleep(60)
        finally:
            await release.wait()

    inner = asyncio.ensure_future(slow_to_end())
    await asyncio.sleep(0)
    outer = asyncio.ensure_future(drop(inner))
    await asyncio.sleep(0)
    outer.cancel()
    with pytest.raises(asyncio.CancelledError):
        await outer
    release.set()
    with pytest.raises(asyncio.CancelledError):
        await inner
