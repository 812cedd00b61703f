"""Takes from what Redis holds for several gateways, through leases in shared memory.

Source: design section 5; docs/redis.md says the rules and what they bound. `shm.leases` is the
table.

A request takes from the lease, which asks nobody. One that finds it low has it renewed beside; one
that finds it empty waits for that, `redisWait` at most. Each process has its own connections, and
one of them at a time asks for a key.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from hashlib import blake2b
from typing import Final, final

from shm.bucket import Ask, Verdict
from shm.budget_slots import Ask as BudgetAsk
from shm.budget_sums import Allowance
from shm.budgets import BudgetRow, BudgetTable, Refused, Reservation, Standing
from shm.errors import ShmError
from shm.leases import BUDGET, LOW, SHORT, Answer, LeaseTable, Message, Spending, Taken
from sidecar.errors import SidecarError
from sidecar.state import redis_scripts
from sidecar.state.redis import DOWN, RedisError, RedisLink, RedisSettings
from sidecar.telemetry.clock import Clock

_log = logging.getLogger("sidecar.state.leases")
_POLL_SECONDS: Final = 0.002
_RECHECK_NS: Final = 250_000_000
"""How long a refusal is believed: others may give leases back."""
_LEAST_RECHECK_NS: Final = 1_000_000
_EARLY: Final = 20
"""A lease ends here by this part of its time before it ends in Redis: clocks differ."""
_MAX_TASKS: Final = 1024


class LeaseError(SidecarError):
    """Redis cannot be reached, no lease covers the request, and the mode is failClosed."""


@dataclass(slots=True)
class LeaseCounts:
    """What befell the leases, since the process began."""

    renewals: int = 0
    failures: int = 0
    waits: int = 0
    alone: int = 0
    """Requests that were judged without Redis."""


@final
class Leases:
    """One process's use of the leases. Only where an event loop runs, but for `name` and `settle`.

    Methods may raise ShmError.
    """

    def __init__(
        self,
        settings: RedisSettings,
        table: LeaseTable,
        budgets: BudgetTable,
        clock: Clock,
    ) -> None:
        self._settings = settings
        self._table = table
        self._budgets = budgets
        self._clock = clock
        self._machine = blake2b(
            table.table.secret, digest_size=8, person=b"agw-machine"
        ).hexdigest()
        self.link = RedisLink(
            settings, lambda: clock.monotonic_ns() / 1e9, table.mark, lambda: table.marked
        )
        self.counts = LeaseCounts()
        self._renewing: dict[bytes, asyncio.Task[None]] = {}
        self._wanted: dict[bytes, int] = {}
        """By key, what requests that wait for it lack."""

    def name(self, *parts: bytes) -> bytes:
        """What these parts are called on all machines: 16 bytes."""
        digest = blake2b(digest_size=16, person=b"agw-lease")
        for part in parts:
            digest.update(len(part).to_bytes(4, "little"))
            digest.update(part)
        return digest.digest()

    def counted(self) -> Sequence[int]:
        """As LeaseMetrics takes it."""
        counts = self.counts
        return counts.renewals, counts.failures, counts.waits, counts.alone

    def _times(self) -> tuple[int, int]:
        return self._clock.monotonic_ns(), self._clock.time_ns()

    # --- buckets ------------------------------------------------------------------------------

    def take_now(self, asks: Sequence[Ask]) -> list[Verdict] | None:
        """The verdicts, when they need no question; None: `take_all` has to wait. Takes nothing."""
        results = self._table.take_all(asks, *self._times())
        if not self._is_final(results):
            return None
        self._renew_low([ask.key for ask, one in zip(asks, results, strict=True) if _is_low(one)])
        return [one.verdict for one in results]

    async def take_all(self, asks: Sequence[Ask]) -> list[Verdict]:
        """Take all costs, or none. Waits for a lease if need be. Raises: LeaseError."""
        # Fast path: the lease has it.
        found = self.take_now(asks)
        if found is not None:
            return found
        self.counts.waits += 1
        until = self._clock.monotonic_ns() + self._settings.wait_ns
        while True:
            results = self._table.take_all(asks, *self._times())
            if self._is_final(results):
                return [one.verdict for one in results]
            lacking = {
                ask.key: max(ask.cost, 1)
                for ask, one in zip(asks, results, strict=True)
                if one.state == SHORT
            }
            if not await self._wait(lacking, until):
                break
        if not self._is_away:
            return [one.verdict for one in self._table.take_all(asks, *self._times())]
        results = self._table.take_all(asks, *self._times(), alone=self._goes_on())
        return [one.verdict for one in results]

    def settle(self, ask: Ask, now_ns: int, delta: int) -> None:
        """As RateTable.settle."""
        self._table.settle(ask, now_ns, self._clock.time_ns(), delta)

    @staticmethod
    def _is_final(results: Sequence[Taken]) -> bool:
        """All give, or one refuses that need not be asked about."""
        return not any(one.state == SHORT for one in results) or any(
            not one.verdict.allowed and one.state != SHORT for one in results
        )

    # --- budgets ------------------------------------------------------------------------------

    async def reserve_all(
        self, asks: Sequence[BudgetAsk], wall_ns: int, ttl_ns: int
    ) -> list[Reservation] | Refused:
        """As BudgetTable.reserve_all, within what is leased. Raises: LeaseError, ShmError."""
        until = 0
        while True:
            made, states = self._reserved(asks, wall_ns, ttl_ns, alone=False)
            low = [key for key, state in states.items() if state == LOW]
            if not isinstance(made, Refused) or states.get(asks[made.number].key) != SHORT:
                self._renew_low(low)
                return self._told(asks, made)
            if not until:
                self.counts.waits += 1
                until = self._clock.monotonic_ns() + self._settings.wait_ns
            ask = asks[made.number]
            lacking = {ask.key: max(ask.amount, 1)}
            if not await self._wait(lacking, until):
                break
        if self._is_away:
            made, _ = self._reserved(asks, wall_ns, ttl_ns, alone=self._goes_on())
        return self._told(asks, made)

    def _reserved(
        self, asks: Sequence[BudgetAsk], wall_ns: int, ttl_ns: int, *, alone: bool
    ) -> tuple[list[Reservation] | Refused, dict[bytes, int]]:
        """What the table gives, and the state of each lease that was looked at."""
        times = (self._clock.monotonic_ns(), wall_ns)
        states: dict[bytes, int] = {}

        def allowed(ask: BudgetAsk, committed: int, start_ns: int) -> int:
            most, states[ask.key] = self._table.allowance(
                ask, committed, start_ns, times, alone=alone
            )
            return most

        by: list[Allowance | None] = [
            partial(allowed, ask) if ask.limit.blocks else None for ask in asks
        ]
        made = self._budgets.reserve_all(asks, wall_ns, ttl_ns, by)
        for ask in asks:
            if not ask.limit.blocks:
                start_ns = wall_ns - wall_ns % ask.limit.window_ns if ask.limit.window_ns else 0
                self._table.enroll(ask, start_ns, times)
        return made, states

    def _told(
        self, asks: Sequence[BudgetAsk], made: list[Reservation] | Refused
    ) -> list[Reservation] | Refused:
        if not isinstance(made, Refused):
            return made
        return made._replace(standing=self._of_all(asks[made.number], made.standing))

    def commit(self, reservation: Reservation, actual: int, wall_ns: int) -> Standing:
        """As BudgetTable.commit; the standing counts what others have spent, as far as known."""
        standing = self._budgets.commit(reservation, actual, wall_ns)
        return self._of_all(reservation.ask, standing)

    def _of_all(self, ask: BudgetAsk, standing: Standing) -> Standing:
        others = self._table.others(ask.key, standing.window_start_ns)
        spent, limit = standing.spent + others, ask.limit.amount
        return standing._replace(spent=spent, limit=limit, exceeded=spent >= limit)

    # --- renewal ------------------------------------------------------------------------------

    @property
    def _is_away(self) -> bool:
        """Whether Redis failed, here or for who asks in our stead: one process does at a time."""
        return self.link.is_down or self._table.marked == DOWN

    def _goes_on(self) -> bool:
        """True: as if this gateway were alone. Raises: LeaseError for failClosed."""
        self.counts.alone += 1
        if not self._settings.fails_open:
            raise LeaseError("Redis cannot be reached, and no lease is left")
        return True

    def _renew_low(self, keys: Sequence[bytes]) -> None:
        for key in keys:
            if key not in self._renewing and self.link.may_try:
                self._start(key, 0)

    async def _wait(self, lacking: dict[bytes, int], until_ns: int) -> bool:
        """Have these renewed; False: the time is over, or Redis is not there."""
        left = (until_ns - self._clock.monotonic_ns()) / 1e9
        # Redis is back when another process says so: what it has must not be taken unasked.
        is_alone = self.link.is_down and not self.link.is_back
        for key, need in lacking.items():
            self._wanted[key] = self._wanted.get(key, 0) + need
        try:
            for key, need in lacking.items():
                if key not in self._renewing and self.link.may_try:
                    self._start(key, need)
            if left <= 0 or is_alone:
                # Who tries it again does so beside the requests.
                return False
            tasks = [self._renewing[key] for key in lacking if key in self._renewing]
            if not tasks:
                return False
            await asyncio.wait(tasks, timeout=left)
            return not self.link.is_down
        finally:
            for key, need in lacking.items():
                self._wanted[key] -= need
                if not self._wanted[key]:
                    del self._wanted[key]

    def _start(self, key: bytes, need: int) -> None:
        if len(self._renewing) >= _MAX_TASKS:
            return
        task = asyncio.get_running_loop().create_task(self._renewed(key, need))
        self._renewing[key] = task
        task.add_done_callback(lambda _: self._renewing.pop(key, None))

    async def _renewed(self, key: bytes, need: int) -> None:
        try:
            if not await self.report(key, need, wants=True):
                # Another process asks: look again soon.
                await asyncio.sleep(_POLL_SECONDS)
        except RedisError:
            return  # said, and counted, by the link
        except ShmError as error:
            _log.error("leases: %s", error)

    async def report(
        self, key: bytes, need: int = 0, *, wants: bool = False, returns: bool = False
    ) -> bool:
        """Tell Redis how a lease stands, and take what it grants.

        False: another process does. Raises: RedisError, ShmError.
        """
        # Requests that come in this turn of the loop wait for the same answer.
        await asyncio.sleep(0)
        message = self._begun(key, returns=returns)
        if message is None:
            return False
        answer = None
        try:
            answer = await self._sent(message, need, wants=wants)
            self.counts.renewals += 1
        except RedisError:
            self.counts.failures += 1
            raise
        finally:
            self._table.finish(message, answer, self._clock.monotonic_ns())
        return True

    def _begun(self, key: bytes, *, returns: bool) -> Message | None:
        times = self._times()
        slot = self._table.peek(key)
        if slot is None:
            return None
        begin = partial(self._table.begin, key, times, self._settings.wait_ns * 4, returns=returns)
        if slot.kind != BUDGET:
            return begin(None)

        def seen(row: BudgetRow | None) -> Message | None:
            if row is None:
                return begin(Spending(0, 0, 0, slot.since))
            return begin(
                Spending(row.spent + row.reserved, row.spent, row.resets, row.window_start_ns)
            )

        return self._budgets.inspect(key, times[1], seen)

    async def _sent(self, message: Message, need: int, *, wants: bool) -> Answer | None:
        """Send it; None: Redis has seen a later one. Raises: RedisError."""
        slot, settings = message.slot, self._settings
        want = max(slot.amount * settings.percent // 100, need, 1) if wants else 0
        asked = max(self._wanted.get(slot.key, 0), need)
        has = slot.allowance - message.committed
        need, asked = max(need - has, 0), max(asked - has, 0)
        member = f"{self._machine}.{message.member:x}"
        state = (member, slot.sequence, slot.allowance, message.spent)
        wanted = (*state, want, need, max(asked, need), settings.ttl_ns // 1000)
        name = slot.name.hex()
        if slot.kind == BUDGET:
            ends_ms = max(slot.since + slot.interval - self._clock.time_ns(), 0) // 1_000_000
            # A Redis that lost all it knew first hears the others, unless the mode is failOpen.
            # A journal knows that there was one, though it has no lease.
            is_known = slot.told > 0 or message.spent > 0
            is_strict = int(is_known and not settings.fails_open)
            stays = (ends_ms + 3_600_000) if slot.interval else 10**12
            found = await self.link.call(
                redis_scripts.BUDGET,
                f"{settings.prefix}:b:{name}:{slot.since}",
                (*wanted, slot.amount, stays, int(message.forgets), slot.used, is_strict),
            )
        else:
            limit = (slot.amount, slot.refill, repr(slot.interval / 1000), slot.carries)
            found = await self.link.call(
                redis_scripts.RATE,
                f"{settings.prefix}:r:{name}",
                (*wanted, *limit, message.hint),
            )
        return self._answer(found, message, is_short=wants and found[0] - slot.allowance < need)

    def _answer(self, found: Sequence[int], message: Message, *, is_short: bool) -> Answer | None:
        allowance, left, next_us, others = found
        if allowance == redis_scripts.STALE:
            return None
        retry_ns = 0
        if is_short or (allowance == message.slot.allowance and left <= 0):
            retry_ns = _RECHECK_NS
            if message.slot.kind != BUDGET:
                retry_ns = min(retry_ns, max(next_us * 1000, _LEAST_RECHECK_NS))
        ttl_ns = self._settings.ttl_ns - self._settings.ttl_ns // _EARLY
        return Answer(allowance, left, next_us * 1000, others, ttl_ns, retry_ns)

    async def reset(self, key: bytes) -> bool:
        """Make a bucket full, or forget what was spent of a budget, for all machines.

        False: there is no such lease. Raises: RedisError, for a bucket; ShmError.
        """
        slot = self._table.peek(key)
        if slot is None:
            return False
        if slot.kind == BUDGET:
            # Its next message says so to Redis, also if that is away now.
            return self._budgets.reset(key, self._clock.time_ns())
        name = f"{self._settings.prefix}:r:{slot.name.hex()}"
        # First what was taken here: else it would be missing of the full bucket.
        await self.report(key)
        await self.link.call(redis_scripts.RESET, name, ())
        self._table.forgive(key)
        return True

    async def open(self) -> None:
        """Connect, so that the first request need not wait for that. Takes a second at most."""
        try:
            await self.link.probe()
        except RedisError:
            return  # said, and tried again when there is something to ask

    async def close(self) -> None:
        """End what is under way, and let go of the connections."""
        tasks = list(self._renewing.values())
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await self.link.close()


def _is_low(one: Taken) -> bool:
    return one.state == LOW
