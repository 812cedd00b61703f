"""Tokens over workers: who fetches, who waits, who finds, and what happens when one fails."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Iterator

import pytest

from shm.segment import Identity, segment_name, start_ticks, unlink
from shm.tokens import MAX_VALUE_BYTES, TokenTable
from sidecar.errors import UpstreamError
from sidecar.llm.credentials.base import Cached, CredentialError, Fetched
from sidecar.llm.credentials.recent import RecentTokens
from sidecar.llm.credentials.shared import Share, SharedTokens
from tests.support.clock import HeldClock


class Source:
    """Gives another token each time, once it may."""

    def __init__(self) -> None:
        self.count = 0
        self.may = asyncio.Event()
        self.may.set()
        self.problem: Exception | None = None

    async def __call__(self) -> Fetched[bytes]:
        self.count += 1
        number = self.count
        await self.may.wait()
        if self.problem is not None:
            raise self.problem
        return Fetched(b"token-%d" % number, 100.0, 200.0)


@pytest.fixture
def table() -> Iterator[TokenTable]:
    instance = f"test-shared-{os.getpid()}"
    made = TokenTable.create(instance, 16)
    yield made
    made.close()
    unlink(segment_name(instance, "tokens"))


@pytest.fixture
def clock() -> HeldClock:
    return HeldClock()


@pytest.fixture
def one(table: TokenTable, clock: HeldClock) -> SharedTokens:
    return SharedTokens(table, clock)


@pytest.fixture
def other(table: TokenTable, clock: HeldClock) -> SharedTokens:
    """As another worker has it."""
    made = SharedTokens(table, clock)
    parent = os.getppid()
    made._me = Identity(parent, start_ticks(parent) or 0, 0)
    return made


async def test_one_fetches_and_all_find_it(one: SharedTokens, other: SharedTokens) -> None:
    key, source = one.key(b"k"), Source()
    assert one.get_nowait(key) is None
    assert await one.obtain(key, source) == (b"token-1", 100.0, 200.0)
    assert await one.obtain(key, source) == (b"token-1", 100.0, 200.0)
    assert await other.obtain(key, source) == (b"token-1", 100.0, 200.0)
    assert other.get_nowait(key) == (b"token-1", 100.0, 200.0)
    assert source.count == 1
    assert other.key(b"k") == key


async def test_others_wait_for_who_fetches(one: SharedTokens, other: SharedTokens) -> None:
    key, source = one.key(b"k"), Source()
    source.may.clear()
    waiting = [asyncio.ensure_future(one.obtain(key, source)) for _ in range(3)]
    await asyncio.sleep(0)
    waiting += [asyncio.ensure_future(other.obtain(key, source)) for _ in range(3)]
    await asyncio.sleep(0)
    source.may.set()
    assert {got.value for got in await asyncio.gather(*waiting)} == {b"token-1"}
    assert source.count == 1


async def test_who_waits_no_more_ends_nothing(one: SharedTokens) -> None:
    key, source = one.key(b"k"), Source()
    source.may.clear()
    first = asyncio.ensure_future(one.obtain(key, source))
    await asyncio.sleep(0)
    second = asyncio.ensure_future(one.obtain(key, source))
    await asyncio.sleep(0)
    first.cancel()
    source.may.set()
    assert (await second).value == b"token-1"
    assert first.cancelled()


async def test_after_a_failure_the_next_one_tries(one: SharedTokens, other: SharedTokens) -> None:
    key, source = one.key(b"k"), Source()
    source.may.clear()
    source.problem = UpstreamError(500, "UpstreamFailure", "down")
    first = asyncio.ensure_future(one.obtain(key, source))
    await asyncio.sleep(0)
    good = Source()
    second = asyncio.ensure_future(other.obtain(key, good))
    await asyncio.sleep(0)
    source.may.set()
    with pytest.raises(UpstreamError, match="down"):
        await first
    assert (await second).value == b"token-1"


async def test_a_stale_one_is_used_while_another_worker_renews_it(
    one: SharedTokens, other: SharedTokens, clock: HeldClock
) -> None:
    key, source = one.key(b"k"), Source()
    await one.obtain(key, source)
    clock.pass_seconds(150)
    source.may.clear()
    renewal = asyncio.ensure_future(one.obtain(key, source))
    await asyncio.sleep(0)
    assert await other.obtain(key, source) == (b"token-1", 1.0, 50.0)
    source.may.set()
    assert (await renewal).value == b"token-2"
    assert (await other.obtain(key, source)).value == b"token-2"


async def test_nobody_waits_for_ever(
    one: SharedTokens, other: SharedTokens, table: TokenTable, clock: HeldClock
) -> None:
    key = one.key(b"k")
    now_ns = clock.monotonic_ns()
    # Another worker that never comes to an end, and always has time left.
    table.claim(key, other._me, now_ns, now_ns + 10**12)
    waiting = one.begin(key, Source(), 2.0)
    await asyncio.sleep(0)
    clock.pass_seconds(2.0)
    with pytest.raises(UpstreamError):
        await waiting


async def test_without_room_each_fetches_its_own(
    one: SharedTokens, other: SharedTokens, table: TokenTable, clock: HeldClock
) -> None:
    source = Source()
    for number in range(100_000):
        await one.obtain(one.key(b"%d" % number), source)
        if table.stats().refusals:
            break
    last = one.key(b"%d" % (source.count - 1))
    assert (await one.obtain(last, source)).value != (await other.obtain(last, source)).value


async def test_what_fits_not_or_lasts_not_is_not_kept(one: SharedTokens) -> None:
    key = one.key(b"k")

    async def long() -> Fetched[bytes]:
        return Fetched(b"x" * (MAX_VALUE_BYTES + 1), 100.0, 200.0)

    async def brief() -> Fetched[bytes]:
        return Fetched(b"x", 0.0, 0.0)

    for fetch in (long, brief):
        assert (await one.obtain(key, fetch)).value
        assert one.get_nowait(key) is None


async def test_without_a_table(clock: HeldClock) -> None:
    alone, source = SharedTokens(None, clock), Source()
    key = alone.key(b"a", b"bc")
    assert key != alone.key(b"ab", b"c")
    source.may.clear()
    waiting = [asyncio.ensure_future(alone.obtain(key, source)) for _ in range(3)]
    await asyncio.sleep(0)
    source.may.set()
    assert {got.value for got in await asyncio.gather(*waiting)} == {b"token-1"}
    assert alone.get_nowait(key) is None


async def test_what_clouds_give_is_shared(
    one: SharedTokens, other: SharedTokens, clock: HeldClock
) -> None:
    asked: list[str] = []

    def fetch() -> Fetched[str]:
        asked.append("")
        return Fetched("token", 100.0, 200.0)

    key = one.key(b"cloud")
    cached = [
        Cached("cloud", fetch, clock, Share(tokens, key, str.encode, bytes.decode))
        for tokens in (one, other)
    ]
    assert [await each.get() for each in cached] == ["token", "token"]
    assert len(asked) == 1
    assert cached[1].get_nowait() == "token"


async def test_what_clouds_fail_to_give(one: SharedTokens, clock: HeldClock) -> None:
    def fetch() -> Fetched[str]:
        raise CredentialError("no")

    cached = Cached("cloud", fetch, clock, Share(one, one.key(b"c"), str.encode, bytes.decode))
    with pytest.raises(UpstreamError):
        await cached.get()


def test_the_least_recently_used_go_first() -> None:
    recent = RecentTokens(2)
    for name in (b"a", b"b"):
        assert recent.put(name, Fetched(name, 10.0, 20.0), 0) == name.decode()
    assert recent.get(b"a", 0) == ("a", 10 * 10**9, 20 * 10**9)
    recent.put(b"c", Fetched(b"c", 10.0, 20.0), 0)
    assert recent.get(b"b", 0) is None
    assert recent.get(b"a", 20 * 10**9) is None
    assert len(recent) == 1
    recent.put(b"d", Fetched(b"d", 0.0, 0.0), 0)
    assert recent.get(b"d", 0) is None
    assert RecentTokens(0).put(b"a", Fetched(b"a", 10.0, 20.0), 0) == "a"
