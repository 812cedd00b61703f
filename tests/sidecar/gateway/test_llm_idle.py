"""One timer for all reads of a stream: it fires for the one that takes too long, and only then."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable

import pytest

from sidecar.gateway.llm_idle import IdleWatch


async def held() -> bytes:
    future: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()
    return await future


async def after(seconds: float) -> bytes:
    await asyncio.sleep(seconds)
    return b"x"


async def waited(watch: IdleWatch, read: Awaitable[bytes]) -> bytes:
    with watch:
        return await read


async def test_a_read_that_never_ends() -> None:
    watch = IdleWatch(0.02)
    for _ in range(2):
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(waited(watch, held()), 20)
    watch.close()


async def test_each_read_has_all_the_time() -> None:
    watch = IdleWatch(0.5)
    for _ in range(4):
        assert await waited(watch, after(0.2)) == b"x"
    watch.close()


async def test_a_cancellation_from_elsewhere_stays_one() -> None:
    watch = IdleWatch(30)
    task = asyncio.ensure_future(waited(watch, held()))
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    watch.close()


async def test_what_a_read_raises_is_raised() -> None:
    async def fails() -> bytes:
        raise ConnectionError

    watch = IdleWatch(30)
    with pytest.raises(ConnectionError):
        await waited(watch, fails())
    watch.close()
