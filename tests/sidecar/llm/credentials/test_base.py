"""The cache of fetched credentials: fresh, stale, gone, failing."""

from __future__ import annotations

import asyncio
import logging
import threading

import pytest

from sidecar.errors import UpstreamError
from sidecar.http.headers import Headers
from sidecar.llm.credentials.base import Cached, CredentialError, Fetched, Outgoing
from tests.support.clock import HeldClock


class Source:
    """Counts fetches; fails while `problem` is set; waits for `gate` when there is one."""

    def __init__(self) -> None:
        self.count = 0
        self.problem: Exception | None = None
        self.gate: threading.Event | None = None

    def __call__(self) -> Fetched[str]:
        self.count += 1
        if self.gate is not None:
            self.gate.wait(10)
        if self.problem is not None:
            raise self.problem
        return Fetched(f"value {self.count}", 60.0, 100.0)


def cached(source: Source) -> tuple[Cached[str], HeldClock]:
    clock = HeldClock()
    return Cached("test", source, clock), clock


async def _fetched() -> None:
    """Wait for fetches in the background."""
    await asyncio.wait(asyncio.all_tasks() - {asyncio.current_task()}, timeout=10)


async def test_a_value_is_fetched_once_while_it_is_fresh() -> None:
    source = Source()
    cache, clock = cached(source)
    assert cache.get_nowait() is None
    assert source.count == 0
    assert await cache.get() == "value 1"
    clock.pass_seconds(59)
    assert cache.get_nowait() == "value 1"
    assert await cache.get() == "value 1"
    assert source.count == 1


async def test_callers_at_the_same_time_share_a_fetch() -> None:
    source = Source()
    source.gate = threading.Event()
    cache, _ = cached(source)
    waiting = [asyncio.ensure_future(cache.get()) for _ in range(5)]
    await asyncio.sleep(0)
    waiting[0].cancel()
    source.gate.set()
    assert await asyncio.gather(*waiting[1:]) == ["value 1"] * 4
    assert source.count == 1


async def test_a_stale_value_is_used_while_the_next_is_fetched() -> None:
    source = Source()
    cache, clock = cached(source)
    await cache.get()
    clock.pass_seconds(61)
    assert cache.get_nowait() == "value 1"
    await _fetched()
    assert cache.get_nowait() == "value 2"
    assert source.count == 2


async def test_a_value_that_is_over_is_not_used() -> None:
    source = Source()
    cache, clock = cached(source)
    await cache.get()
    clock.pass_seconds(101)
    assert cache.get_nowait() is None
    assert await cache.get() == "value 2"


async def test_a_failure_is_told_without_its_cause_and_not_repeated_at_once(
    caplog: pytest.LogCaptureFixture,
) -> None:
    source = Source()
    source.problem = RuntimeError("the secret is s3cr3t")
    cache, clock = cached(source)
    with caplog.at_level(logging.WARNING), pytest.raises(UpstreamError) as caught:
        await cache.get()
    assert (caught.value.status, caught.value.message) == (500, "backend authentication failed")
    assert caught.value.retryable
    assert "s3cr3t" not in caplog.text
    assert "test: RuntimeError" in caplog.text
    with pytest.raises(UpstreamError):
        await cache.get()
    assert source.count == 1
    source.problem = None
    clock.pass_seconds(1.1)
    assert await cache.get() == "value 2"


async def test_a_failed_renewal_keeps_the_stale_value() -> None:
    source = Source()
    cache, clock = cached(source)
    await cache.get()
    clock.pass_seconds(61)
    source.problem = CredentialError("no")
    assert cache.get_nowait() == "value 1"
    await _fetched()
    assert cache.get_nowait() == "value 1"
    assert source.count == 2


async def test_closing_ends_a_fetch() -> None:
    source = Source()
    source.gate = threading.Event()
    cache, _ = cached(source)
    waiting = asyncio.ensure_future(cache.get())
    await asyncio.sleep(0)
    cache.close()
    source.gate.set()
    with pytest.raises(asyncio.CancelledError):
        await waiting


def test_secrets_are_not_shown() -> None:
    request = Outgoing("POST", "https", "h", "/", Headers([(b"authorization", b"s3cr3t")]))
    assert "s3cr3t" not in f"{Fetched('s3cr3t', 1, 1)!r} {request!r}"


def test_lives_end_early() -> None:
    assert Fetched.lasting("x", 3600) == ("x", 3300, 3590)
    assert Fetched.lasting("x", 20) == ("x", 15, 15)
    assert Fetched.lasting("x", -5) == ("x", 0, 0)
