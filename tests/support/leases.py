"""Machines that share limits and budgets over one Redis, as many in a process as a test wants."""

from __future__ import annotations

import asyncio
import os
import uuid
from collections.abc import Awaitable, Callable
from contextlib import ExitStack
from dataclasses import replace

from shm.bucket import Ask, Limit
from shm.budget_slots import Ask as BudgetAsk
from shm.budget_slots import BudgetLimit
from shm.budgets import BudgetTable, Refused, Reservation
from shm.leases import LeaseTable
from sidecar.state.leases import Leases
from sidecar.state.redis import RedisSettings
from sidecar.state.redis_keeper import LeaseKeeper
from sidecar.telemetry.clock import SystemClock
from tests.support.redis_server import RedisServer

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
