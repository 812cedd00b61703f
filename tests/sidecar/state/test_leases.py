"""Leases against a real Redis: two machines in one process, each with tables of its own."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import Any

import pytest

from shm.bucket import Limit
from shm.budgets import Refused
from sidecar.state.redis import RedisError
from sidecar.state.report import LeasesView, Shared
from tests.support.leases import BUDGET, HOUR_NS, LIMIT, Machine, play, settings_of
from tests.support.programs import needs_program
from tests.support.redis_server import RedisServer

pytestmark = needs_program("redis-server")


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
