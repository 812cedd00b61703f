"""Leases while Redis, or one of the machines, is away: two machines in one process."""

from __future__ import annotations

import asyncio

import pytest

from shm.bucket import Limit
from sidecar.state.leases import LeaseError, Leases
from sidecar.state.redis import DOWN, UP, RedisError, RedisLink, RedisSettings
from tests.support.leases import LIMIT, Ahead, Machine, play, settings_of
from tests.support.programs import needs_program
from tests.support.redis_server import RedisServer

pytestmark = needs_program("redis-server")


def test_a_dead_machines_leases_come_back(redis: RedisServer) -> None:
    async def scene(one: Machine, two: Machine) -> None:
        assert await one.takes(1) == 1
        before = await two.takes(300)
        assert before < 199
        # Redis's own time must pass: the shortest lease there is.
        until = asyncio.get_running_loop().time() + 20
        while (before := before + await two.takes(1)) < 199:
            assert asyncio.get_running_loop().time() < until
            await asyncio.sleep(0.05)
        # What the dead one took was not reported any more: at most its lease is taken twice.
        assert await two.takes(5) == 1

    play(settings_of(redis, ttl_ns=1_000_000_000), scene)


def test_a_lease_ends_here_before_it_ends_in_redis(redis: RedisServer) -> None:
    async def scene(one: Machine, _: Machine) -> None:
        assert await one.takes(1) == 1
        slot = one.table.peek(one.ask().key)
        assert slot is not None
        assert slot.left > 0
        one.clock.ahead_ns += 10_000_000_000
        redis.kill()
        with pytest.raises(LeaseError):
            await one.takes(1)

    play(settings_of(redis, fails_open=False), scene)


def test_leases_in_hand_serve_while_redis_is_away(redis: RedisServer) -> None:
    async def scene(one: Machine, _: Machine) -> None:
        assert await one.takes(1) == 1
        slot = one.table.peek(one.ask().key)
        assert slot is not None
        redis.kill()
        assert await one.takes(slot.left) == slot.left
        with pytest.raises(LeaseError):
            await one.takes(1)
        made = one.leases.counted()
        assert made[3] > 0

    play(settings_of(redis, fails_open=False), scene)


def test_open_each_machine_goes_on_with_what_was_left(redis: RedisServer) -> None:
    async def scene(one: Machine, two: Machine) -> None:
        assert await one.takes(100) == 100
        redis.kill()
        taken = await one.takes(300)
        # What Redis had left when it last answered, and nothing more.
        assert 90 <= taken <= 100
        assert await two.takes(300) == 200  # it never heard of the bucket: stated in docs/redis.md

    play(settings_of(redis), scene)


def test_what_was_taken_alone_is_charged_when_redis_is_back(redis: RedisServer) -> None:
    async def scene(one: Machine, two: Machine) -> None:
        assert await one.takes(100) == 100
        redis.hold()
        taken = await one.takes(60)
        assert taken == 60
        redis.go_on()
        await asyncio.sleep(0)
        until = asyncio.get_running_loop().time() + 20
        one.clock.ahead_ns += 6_000_000_000
        while one.leases.link.is_down:
            assert asyncio.get_running_loop().time() < until
            one.clock.ahead_ns += 6_000_000_000
            await one.keeper.sweep()
        assert await two.takes(300) <= 40

    play(settings_of(redis, wait_ns=200_000_000), scene)


def test_what_is_taken_alone_while_a_message_is_under_way_is_charged_before_more_is_granted(
    redis: RedisServer,
) -> None:
    """Redis comes back while a message waits that was sent before all was taken alone."""

    async def scene(one: Machine, two: Machine) -> None:
        assert await one.takes(100) == 100
        key = one.ask().key
        # What renews the lease beside has its answer.
        while not await one.leases.report(key):
            continue
        redis.hold()
        try:
            asked = asyncio.create_task(one.leases.report(key, wants=True))
            before = one.table.peek(key)
            assert before is not None
            for _ in range(2):
                await asyncio.sleep(0)
            slot = one.table.peek(key)
            assert slot is not None
            assert slot.claim
            # Another worker has found out that nobody answers.
            rest = one.ask(before.left + before.pool)
            (alone,) = one.table.take_all([rest], *one.times(), alone=True)
            assert alone.verdict.allowed
        finally:
            redis.go_on()
        assert await asked
        slot = one.table.peek(key)
        assert slot is not None
        assert (slot.left, slot.pool) == (0, 0)
        assert await one.takes(5) == 0
        # It is said at once, also when nobody asks.
        await one.keeper.sweep()
        assert await two.takes(5) == 0

    play(settings_of(redis), scene)


def told(one: Machine) -> bool:
    """Whether Redis has answered about its bucket."""
    slot = one.table.peek(one.ask().key)
    return slot is not None and slot.told > 0


@pytest.mark.parametrize("carries", [False, True])
@pytest.mark.parametrize("comes_back", ["as it was", "empty"])
def test_what_a_newcomer_took_alone_is_charged(
    redis: RedisServer, comes_back: str, carries: bool
) -> None:
    limit = Limit(LIMIT.capacity, LIMIT.refill, LIMIT.interval_ns, carry_debt=carries)

    async def scene(one: Machine, two: Machine) -> None:
        if comes_back == "as it was":
            assert await one.takes(20, one.ask(limit=limit)) == 20
            redis.hold()
        else:
            redis.kill()
        # It never heard of the bucket.
        assert await two.takes(150, two.ask(limit=limit)) == 150
        if comes_back == "as it was":
            redis.go_on()
        else:
            redis.start()
        until = asyncio.get_running_loop().time() + 20
        while one.leases.link.is_down or two.leases.link.is_down or not told(two):
            assert asyncio.get_running_loop().time() < until
            for each in (one, two):
                each.clock.ahead_ns += 6_000_000_000
                await each.keeper.sweep()
        left = 30 if comes_back == "as it was" else 50
        assert left - 20 <= await one.takes(300, one.ask(limit=limit)) <= left

    play(settings_of(redis, wait_ns=200_000_000), scene)


def test_a_process_that_waits_for_another_learns_from_it_that_redis_is_away(
    redis: RedisServer,
) -> None:
    async def scene(one: Machine, _: Machine) -> None:
        assert await one.takes(1) == 1
        peer = Leases(settings_of(redis), one.table, one.budgets, one.clock)
        await peer.open()
        try:
            redis.hold()
            with pytest.raises(RedisError):
                await one.leases.reset(one.ask().key)
            # The first process asks, and does not hear: the lease is claimed all the while.
            slot = one.table.peek(one.ask().key)
            assert slot is not None
            assert one.table.begin(slot.key, (one.clock.monotonic_ns(), 0), 60_000_000_000)
            assert not peer.link.is_down
            large = one.ask(cost=slot.left + 1)
            assert [verdict.allowed for verdict in await peer.take_all([large])] == [True]
            assert not peer.link.is_down
        finally:
            redis.go_on()
            await peer.close()

    play(settings_of(redis, wait_ns=200_000_000), scene)


def test_a_process_learns_from_another_that_redis_is_back(redis: RedisServer) -> None:
    async def scene(one: Machine, two: Machine) -> None:
        assert await one.takes(1) == 1
        clock = Ahead()
        peer = Leases(settings_of(redis), one.table, one.budgets, clock)
        await peer.open()
        try:
            redis.hold()
            for each in (one.leases, peer):
                with pytest.raises(RedisError):
                    await each.report(one.ask().key)
            redis.go_on()
            # The peer would not try again for long.
            clock.ahead_ns -= 2_000_000_000
            assert not peer.link.may_try
            while one.leases.link.is_down:
                one.clock.ahead_ns += 1_000_000_000
                await one.leases.open()
            assert await two.takes(300) > 150
            slot = one.table.peek(one.ask().key)
            assert slot is not None
            # What Redis had left before is not taken unasked.
            large = one.ask(cost=slot.left + slot.pool)
            assert [verdict.allowed for verdict in await peer.take_all([large])] == [False]
            assert not peer.link.is_down
            assert peer.counts.alone == 0
        finally:
            redis.go_on()
            await peer.close()

    play(settings_of(redis, wait_ns=200_000_000), scene)


def test_a_process_that_is_cut_off_is_not_told_that_redis_is_back() -> None:
    """Others reach Redis; here it is tried once on their word, and then as seldom as before."""

    async def scene() -> None:
        words = [DOWN]
        now = 100.0
        settings = RedisSettings.of({"redis": "unix:///nowhere/redis.sock"})
        assert settings is not None
        link = RedisLink(settings, lambda: now, lambda word: False, lambda: words[0])
        try:
            for _ in range(2):
                with pytest.raises(RedisError):
                    await link.probe()
                assert (link.is_back, link.may_try) == (False, False)
            words[0] = UP
            assert (link.is_back, link.may_try) == (True, True)
            with pytest.raises(RedisError):
                await link.probe()
            assert (link.is_back, link.may_try) == (False, False)
            now += 5.0
            assert (link.is_back, link.may_try) == (False, True)
        finally:
            await link.close()

    asyncio.run(scene())


def test_an_empty_redis_learns_what_was_spent(redis: RedisServer) -> None:
    async def scene(one: Machine, two: Machine) -> None:
        for each in (one, two):
            for _ in range(30):
                assert await each.spends(10)
            await each.keeper.sweep()
        redis.command("FLUSHALL")
        for each in (one, two):
            each.clock.ahead_ns += 5_000_000_000
            await each.keeper.sweep()
        count = 60
        for _ in range(100):
            count += await one.spends(10)
            count += await two.spends(10)
        for each in (one, two):
            each.clock.ahead_ns += 3_000_000_000
            await each.keeper.sweep()
        while await two.spends(10):
            count += 1
        # The request that crosses the limit passes: on each machine.
        assert 100 <= count <= 101

    play(settings_of(redis), scene)
