"""Keeps leases alive while they are used, gives back those that are not, and reports spend.

Source: design section 5; docs/redis.md. Runs in control: no request waits for it.
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Sequence
from typing import Final, final

from shm.budgets import BudgetTable
from shm.errors import ShmError
from shm.leases import BUDGET, LeaseTable, Slot
from sidecar.state.leases import Leases
from sidecar.state.redis import RedisError, RedisSettings
from sidecar.state.redis_scripts import EPOCH
from sidecar.telemetry.clock import Clock

_log = logging.getLogger("sidecar.state.redis_keeper")
SWEEP_SECONDS: Final = 1.0
IDLE_NS: Final = 2_000_000_000
"""A lease that was not used for so long is given back."""
_PARALLEL: Final = 8
_GIVE_BACK_SECONDS: Final = 2.0
_HEARTBEAT: Final = 4
"""A lease is renewed when this part of its time has gone."""


@final
class LeaseKeeper:
    """One in a gateway."""

    def __init__(
        self,
        leases: Leases,
        table: LeaseTable,
        budgets: BudgetTable,
        settings: RedisSettings,
        clock: Clock,
    ) -> None:
        self._leases = leases
        self._table = table
        self._budgets = budgets
        self._beat_ns = settings.ttl_ns // _HEARTBEAT
        self._clock = clock
        self._epoch_key = f"{settings.prefix}:epoch"
        self._epoch = 0
        self._marks: Sequence[int] = ()
        self._spent: set[bytes] = set()
        """Budgets whose spend changed, and that is not reported yet."""

    async def run(self) -> None:
        """Until cancelled."""
        while True:
            await self.sweep()
            await asyncio.sleep(SWEEP_SECONDS)

    async def sweep(self) -> None:
        """Do once what is due."""
        link = self._leases.link
        if not link.may_try:
            return
        try:
            (epoch,) = await link.call(EPOCH, self._epoch_key, (random.getrandbits(52),))
            if epoch != self._epoch:
                # Redis knows nothing, or not of us: say again what was spent.
                self._epoch, self._marks = epoch, ()
            rows, self._marks = self._budgets.changed(self._marks)
            self._spent.update(row.key for row in rows)
            due = [
                (slot.key, returns) for slot in self._table.rows() for returns in self._due(slot)
            ]
            self._spent.intersection_update({key for key, _ in due})
            await self._report(due)
        except RedisError:
            return  # the link has said so
        except ShmError as error:
            _log.error("leases: %s", error)

    def _due(self, slot: Slot) -> Sequence[bool]:
        """Whether to report the lease, and then whether to give it back; empty: not now."""
        now_ns = self._clock.monotonic_ns()
        is_idle = now_ns - slot.touched > IDLE_NS
        is_fresh = now_ns - slot.told < self._beat_ns
        if slot.kind == BUDGET:
            if slot.since + slot.interval <= self._clock.time_ns() and slot.interval:
                self._table.forget(slot, now_ns)
                return ()
            if slot.key in self._spent:
                return (is_idle,)
            has_some = slot.allowance > slot.refill and now_ns < slot.expires
        else:
            if slot.left < 0:
                return (False,)
            if is_idle and slot.left == 0 and slot.told >= slot.touched:
                self._table.forget(slot, now_ns)
                return ()
            if slot.touched > slot.told and not is_fresh:
                return (is_idle,)
            has_some = slot.left > 0
        if has_some and (is_idle or not is_fresh):
            return (is_idle,)
        return ()

    async def _report(self, due: Sequence[tuple[bytes, bool]]) -> None:
        """Raises: RedisError, ShmError."""
        for first in range(0, len(due), _PARALLEL):
            part = due[first : first + _PARALLEL]
            told = await asyncio.gather(
                *(self._leases.report(key, returns=returns) for key, returns in part),
                return_exceptions=True,
            )
            for (key, _), outcome in zip(part, told, strict=True):
                if isinstance(outcome, BaseException):
                    raise outcome
                if outcome:
                    self._spent.discard(key)

    async def give_back(self) -> None:
        """Return all leases, and report all spend: no worker runs any more."""
        try:
            async with asyncio.timeout(_GIVE_BACK_SECONDS):
                await self._report([(slot.key, True) for slot in self._table.rows()])
        except (RedisError, TimeoutError) as error:
            _log.warning("leases stay until their time is over: %s", error or "Redis is too slow")
        except ShmError as error:
            _log.error("leases: %s", error)
        await self._leases.close()
