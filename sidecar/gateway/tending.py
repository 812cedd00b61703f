"""What control looks after beside the configuration: shared tables, leases, budgets, logged rows.

Source: design section 5; spec/config.md section 9.1.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, Final

from shm.errors import ShmError
from sidecar.config.scalars import duration_ns
from sidecar.config.snapshot import Resource
from sidecar.state.keeper import BudgetKeeper
from sidecar.state.leases import Leases
from sidecar.state.redis_keeper import LeaseKeeper
from sidecar.state.request_log import RequestLogDatabase
from sidecar.state.retention import RowKeeper
from sidecar.state.tables import Tables
from sidecar.telemetry.clock import SystemClock
from sidecar.telemetry.metrics import GatewayMetrics

_log = logging.getLogger("sidecar.gateway.control")
COLLECT_SECONDS: Final = 1.0


async def untiring(
    what: str, run: Callable[[], Awaitable[None]], pause_seconds: float = COLLECT_SECONDS
) -> None:
    """Run until cancelled; begin anew, a little later, after what nobody has thought of.

    A task that ended would not be missed: the journal, say, would just stay behind.
    """
    while True:
        try:
            await run()
        except Exception:
            _log.exception("%s: failed inside the gateway; beginning anew", what)
        await asyncio.sleep(pause_seconds)


def tend_tables(tables: Tables) -> None:
    """Renew what would go stale, and take back what dead workers held."""
    try:
        tables.beat()
        tables.tidy(time.monotonic_ns())
        tables.endpoints.release_dead()
    except ShmError as error:
        _log.error("shared tables: %s", error)


def lease_keeper(tables: Tables, leases: Leases | None) -> LeaseKeeper | None:
    """What tells Redis of the leases; None without Redis."""
    clock = SystemClock()
    if leases is None or tables.leases is None or tables.redis is None:
        return None
    return LeaseKeeper(leases, tables.leases, tables.budgets.table, tables.redis, clock)


def count_leases(tables: Tables, leases: Leases | None, own: GatewayMetrics) -> None:
    """Whether Redis is there, and what is leased of it."""
    if leases is not None and tables.leases is not None:
        own.redis_connected.set(0 if leases.link.is_down else 1)
        own.leases.set(tables.leases.stats().used)


def row_keeper(
    database: RequestLogDatabase, resources: Callable[[], Mapping[str, Resource]]
) -> RowKeeper:
    """What deletes old rows of the request log. `resources`: those in force."""
    return RowKeeper(database, lambda: row_age_ns(resources()), time.time_ns)


def row_age_ns(resources: Mapping[str, Resource]) -> int | None:
    """How long the request log keeps a row."""
    found = resources.get("frontend/accessLog")
    policy: Any = {} if found is None else found.data["policy"]
    age = (policy.get("database") or {}).get("retention")
    return None if age is None else duration_ns(age)


def budget_keeper(tables: Tables, own: GatewayMetrics) -> BudgetKeeper:
    """What keeps the journal, and takes back what the dead held."""
    budgets = tables.budgets
    return BudgetKeeper(
        budgets.table,
        budgets.writer(),
        time.time_ns,
        wrote=own.journal_rows.add,
        failed=own.journal_failures.add,
    )
