"""What control does for the others: it must not stop unnoticed."""

from __future__ import annotations

import asyncio

import pytest

from sidecar.gateway.tending import untiring


async def test_what_fails_begins_anew_and_says_so(caplog: pytest.LogCaptureFixture) -> None:
    runs = 0
    is_back = asyncio.Event()

    async def run() -> None:
        nonlocal runs
        runs += 1
        if runs == 1:
            raise RuntimeError("nobody thought of this")
        if runs == 3:
            is_back.set()
            await asyncio.Event().wait()

    task = asyncio.create_task(untiring("budgets", run, 0.0))
    async with asyncio.timeout(20):
        await is_back.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert runs == 3
    (record,) = caplog.records
    assert record.getMessage().startswith("budgets: failed inside the gateway")
    assert "nobody thought of this" in str(record.exc_info)
