"""Leases against a real Redis: two machines in one process, each with tables of its own."""

from __future__ import annotations

import asyncio
import os
import uuid
from collections.abc import Awaitable, Callable, Iterator
from contextlib import ExitStack
from dataclasses import replace
from typing import Any

import pytest

from shm.bucket import Ask, Limit
from shm.budget_slots import Ask as BudgetAsk
from shm.budget_slots import BudgetLimit
from shm.budgets import BudgetTable, Refused, Reservation
from shm.leases import LeaseTable
from sidecar.errors import ConfigError
from sidecar.state.leases import LeaseError, Leases
from sidecar.state.redis import DOWN, UP, RedisError, RedisLink, RedisSettings
from sidecar.state.redis_keeper import LeaseKeeper
from sidecar.state.report import LeasesView, Shared
from sidecar.telemetry.clock import SystemClock
from tests.support.programs import needs_program
from tests.support.redis_server import RedisServer

pytestmark = needs_program("redis-server")
HOUR_NS = 3_600_000_000_000
LIMIT = Limit(200, 1, HOUR_NS)
BUDGET = BudgetLimit(1_000, 365 * 24 * HOUR_NS, blocks=True, unit=1)
TTL_NS = 60_000_000_000


class Ahead:
    """The machine's clocks, put forward as a test says."""

    def __init__(self) -> None:
        self.ahead_ns = 0
        self._clock = SystemClock()

    def monotonic_ns(self) -> int:
        return self._clock.monotonic_ns() + self.ahead_ns

    def time_ns(self) -> int:
        return self._clock.time_ns()


class Machine:
    """A gateway's tables, and one process that uses them."""

    def __init__(self, settings: RedisSettings, stack: ExitStack) -> None:
        instance = f"test-{os.getpid()}-{uuid.uuid4().hex[:8]}"
        self.budgets = BudgetTable.create(instance, 100)
        stack.callback(self.budgets.close)
        self.table = LeaseTable.create(instance, 1000, self.budgets.secret)
        stack.callback(self.table.close)
        self.clock = Ahead()
        self.leases = Leases(settings, self.table, self.budgets, self.clock)
        self.keeper = LeaseKeeper(self.leases, self.table, self.budgets, settings, self.clock)

    def ask(self, cost: int = 1, limit: Limit = LIMIT, name: bytes = b"a") -> Ask:
        key = self.budgets.key(name)
        return Ask(key, name, limit, cost, self.leases.name(name))

    def times(self) -> tuple[int, int]:
        """Now, monotonic and of the wall."""
        return self.clock.monotonic_ns(), self.clock.time_ns()

    async def takes(self, count: int, ask: Ask | None = None) -> int:
        """How many of so many takes, one after the other, are allowed."""
        one = ask or self.ask()
        return sum([(await self.leases.take_all([one]))[0].allowed for _ in range(count)])

    async def reserve(
        self, amount: int = 0, limit: BudgetLimit = BUDGET
    ) -> list[Reservation] | Refused:
        name = self.leases.name(b"budget")
        ask = BudgetAsk(self.budgets.key(b"budget"), b"budget", limit, amount, name)
        return await self.leases.reserve_all([ask], self.clock.time_ns(), TTL_NS)

    async def spends(self, amount: int) -> bool:
        """Whether that much could be spent, one request."""
        made = await self.reserve()
        if isinstance(made, Refused):
            return False
        self.leases.commit(made[0], amount, self.clock.time_ns())
        return True


Play = Callable[[Machine, Machine], Awaitable[None]]


@pytest.fixture
def redis() -> Iterator[RedisServer]:
    with RedisServer() as server:
        yield server


def settings_of(redis: RedisServer, **changes: object) -> RedisSettings:
    # A long wait: how quick the machine is decides nothing.
    settings = RedisSettings.of({"redis": redis.url, "redisWait": "2s"})
    assert settings is not None
    return replace(settings, **changes)  # type: ignore[arg-type]


def play(settings: RedisSettings, scene: Play) -> None:
    async def whole(stack: ExitStack) -> None:
        machines = [Machine(settings, stack) for _ in range(2)]
        for one in machines:
            await one.leases.open()
        try:
            await scene(*machines)
        finally:
            for one in machines:
                await one.leases.close()

    with ExitStack() as stack:
        asyncio.run(whole(stack))


def test_one_machine_takes_all_of_a_bucket_and_no_more(redis: RedisServer) -> None:
    async def scene(one: Machine, _: Machine) -> None:
        assert await one.takes(300) == 200

    play(settings_of(redis), scene)


def test_two_machines_never_take_more_than_the_limit(redis: RedisServer) -> None:
    async def scene(one: Machine, two: Machine) -> None:
        taken = await asyncio.gather(*(each.takes(300) for each in (one, two) for _ in range(4)))
        # Both ask until they are refused, so what is left are leases of who was refused last.
        assert 180 <= sum(taken) <= 200
        for each in (one, two):
            each.clock.ahead_ns += 3_000_000_000
            await each.keeper.sweep()
        # What was given back is there for who asks.
        assert sum(taken) + await two.takes(300) == 200

    play(settings_of(redis), scene)


def test_a_lease_of_a_quiet_machine_goes_to_the_other(redis: RedisServer) -> None:
    async def scene(one: Machine, two: Machine) -> None:
        assert await one.takes(1) == 1
        assert await two.takes(300) < 199
        one.clock.ahead_ns += 3_000_000_000
        await one.keeper.sweep()
        two.clock.ahead_ns += 3_000_000_000
        first = one.table.peek(one.ask().key)
        assert first is not None
        assert first.left == 0
        assert await two.takes(300) > 0
        assert await one.takes(5) == 0

    play(settings_of(redis), scene)


def test_a_large_cost_is_leased_whole(redis: RedisServer) -> None:
    async def scene(one: Machine, two: Machine) -> None:
        (verdict,) = await one.leases.take_all([one.ask(150)])
        assert verdict.allowed
        (verdict,) = await two.leases.take_all([two.ask(60)])
        assert not verdict.allowed
        assert verdict.retry_ns > 0
        (verdict,) = await two.leases.take_all([two.ask(50)])
        assert verdict.allowed

    play(settings_of(redis), scene)


def test_debt_is_paid_by_all(redis: RedisServer) -> None:
    async def scene(one: Machine, two: Machine) -> None:
        (verdict,) = await one.leases.take_all([one.ask(0)])
        assert verdict.allowed
        one.leases.settle(one.ask(0), one.clock.monotonic_ns(), 500)
        await one.keeper.sweep()
        (verdict,) = await two.leases.take_all([two.ask(0)])
        assert not verdict.allowed

    play(settings_of(redis), scene)


def test_several_buckets_give_all_or_none(redis: RedisServer) -> None:
    async def scene(one: Machine, _: Machine) -> None:
        tight = one.ask(limit=Limit(3, 1, HOUR_NS), name=b"tight")
        allowed = 0
        for _number in range(10):
            verdicts = await one.leases.take_all([one.ask(), tight])
            allowed += all(verdict.allowed for verdict in verdicts)
        assert allowed == 3
        assert await one.takes(300) == 197

    play(settings_of(redis), scene)


def test_buckets_refill_by_the_clock_of_redis(redis: RedisServer) -> None:
    async def scene(one: Machine, two: Machine) -> None:
        limit = Limit(5, 5, 200_000_000)
        assert await one.takes(6, one.ask(limit=limit)) >= 5
        until = asyncio.get_running_loop().time() + 10
        while not await two.takes(1, two.ask(limit=limit)):
            assert asyncio.get_running_loop().time() < until
            await asyncio.sleep(0.02)

    play(settings_of(redis), scene)


def test_a_budget_is_spent_once(redis: RedisServer) -> None:
    async def scene(one: Machine, two: Machine) -> None:
        count = 0
        for _ in range(120):
            count += await one.spends(10)
            count += await two.spends(10)
        assert 80 <= count <= 101
        for each in (one, two):
            each.clock.ahead_ns += 3_000_000_000
            await each.keeper.sweep()
        while await two.spends(10):
            count += 1
        # The request that crosses the limit passes: on each machine.
        assert 100 <= count <= 101
        made = await one.reserve()
        assert isinstance(made, Refused)
        assert made.standing.exceeded

    play(settings_of(redis), scene)


def test_an_estimate_is_held_on_all_machines(redis: RedisServer) -> None:
    async def scene(one: Machine, two: Machine) -> None:
        held = await one.reserve(900)
        assert not isinstance(held, Refused)
        assert isinstance(await two.reserve(200), Refused)
        one.budgets.refund(held[0])
        one.clock.ahead_ns += 3_000_000_000
        await one.keeper.sweep()
        two.clock.ahead_ns += 3_000_000_000
        assert not isinstance(await two.reserve(200), Refused)

    play(settings_of(redis), scene)


def test_what_is_overspent_counts_everywhere(redis: RedisServer) -> None:
    async def scene(one: Machine, two: Machine) -> None:
        assert await one.spends(5_000)
        await one.keeper.sweep()
        assert not await two.spends(1)

    play(settings_of(redis), scene)


def test_an_audited_budget_tells_what_all_have_spent(redis: RedisServer) -> None:
    watched = replace(BUDGET, blocks=False)

    async def scene(one: Machine, two: Machine) -> None:
        for each in (one, two, one):
            made = await each.reserve(limit=watched)
            assert not isinstance(made, Refused)
            standing = each.leases.commit(made[0], 600, each.clock.time_ns())
            await each.keeper.sweep()
        assert standing.spent == 1_200
        two_more = await one.reserve(limit=watched)
        assert not isinstance(two_more, Refused)
        standing = one.leases.commit(two_more[0], 1, one.clock.time_ns())
        assert (standing.spent, standing.exceeded) == (1_801, True)

    play(settings_of(redis), scene)


def test_a_reset_forgets_what_all_have_spent(redis: RedisServer) -> None:
    async def scene(one: Machine, two: Machine) -> None:
        assert await one.spends(600)
        assert await two.spends(600)
        for each in (one, two):
            await each.keeper.sweep()
        assert not await two.spends(1)
        assert one.budgets.reset(one.budgets.key(b"budget"), one.clock.time_ns())
        await one.keeper.sweep()
        two.clock.ahead_ns += 1_000_000_000
        assert await two.spends(400)
        assert await one.spends(400)

    play(settings_of(redis), scene)


def test_a_reset_bucket_is_full_for_all(redis: RedisServer) -> None:
    async def scene(one: Machine, two: Machine) -> None:
        taken = await one.takes(60) + await two.takes(200) + await one.takes(60)
        assert taken == LIMIT.capacity
        one.leases.settle(one.ask(), one.clock.monotonic_ns(), 50)
        view = LeasesView(Shared(one.table, one.leases), one.budgets, one.clock)
        (item,) = view.items()
        assert (item.label, item.show()["owed"]) == ("a", 50)
        assert await view.reset(item.key)
        (item,) = view.items()
        assert item.show()["owed"] == 0
        two.clock.ahead_ns += 1_000_000_000
        taken = await one.takes(60) + await two.takes(200) + await one.takes(60)
        assert taken == LIMIT.capacity
        assert not await view.reset(bytes(16))

    play(settings_of(redis), scene)


def test_leases_are_shown(redis: RedisServer) -> None:
    async def scene(one: Machine, _: Machine) -> None:
        assert await one.takes(3) == 3
        assert await one.spends(10)
        view = LeasesView(Shared(one.table, one.leases), one.budgets, one.clock)
        rows: dict[object, Any] = {row["of"]: row for row in (item.show() for item in view.items())}
        bucket, budget = rows["bucket"], rows["budget"]
        assert (bucket["label"], bucket["limit"], bucket["taken"]) == ("a", 200, 3)
        assert bucket["granted"] == bucket["usable"] + 3
        assert bucket["granted"] + bucket["leftInRedis"] == 200
        assert (budget["label"], budget["limit"], budget["spentByOthers"]) == ("budget", 1000, 0)
        for item in view.items():
            assert await view.reset(item.key)
        assert [row.spent for row in one.budgets.rows()] == [0]

    play(settings_of(redis), scene)


def test_a_bucket_is_not_reset_while_redis_is_away(redis: RedisServer) -> None:
    async def scene(one: Machine, _: Machine) -> None:
        assert await one.takes(1) == 1
        redis.kill()
        with pytest.raises(RedisError):
            await one.leases.reset(one.ask().key)

    play(settings_of(redis), scene)


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


@pytest.mark.parametrize(
    "url", ["http://a", "redis://", "redis://:secret@", "unix://", "localhost:6379", "redis://a:x"]
)
def test_urls_that_are_refused(url: str) -> None:
    from pydantic import ValidationError

    from sidecar.config.model.static import StateConfig

    with pytest.raises(ValidationError) as caught:
        StateConfig.model_validate({"redis": url})
    assert "secret" not in caught.value.errors()[0]["msg"]


def test_no_password_is_shown() -> None:
    settings = RedisSettings.of({"redis": "rediss://me:secret@r.example:6380/2"})
    assert settings is not None
    assert settings.shown == "rediss://r.example:6380/2"


def test_nothing_without_redis() -> None:
    assert RedisSettings.of({}) is None


def test_without_the_library_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sidecar.state.redis.find_spec", lambda name: None)
    with pytest.raises(ConfigError, match="pip install redis"):
        RedisSettings.of({"redis": "redis://localhost"})
