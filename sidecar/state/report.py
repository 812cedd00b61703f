"""What an operator sees of the shared tables: how full they are, what is in them, one key undone.

Source: design section 9. Nothing here is secret: labels were made to be shown, principals and keys
are hashes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from typing import Final, NamedTuple, Protocol, Self, final

from shm.budget_slots import BudgetRow
from shm.budgets import BudgetTable
from shm.endpoints import EndpointTable
from shm.endpoints import Row as EndpointRow
from shm.leases import BUDGET, OWES, LeaseTable, Slot
from shm.rates import RateTable
from shm.rates import Row as RateRow
from shm.sessions import Session, SessionTable
from shm.table import KEY_BYTES, TableStats
from sidecar.state.leases import Leases
from sidecar.state.tables import Tables
from sidecar.telemetry.clock import Clock

_SECOND_NS: Final = 1_000_000_000

Shown = Mapping[str, object]
"""One row as plain data; `key` is hexadecimal and names it for a reset."""


@final
@dataclass(frozen=True, slots=True)
class Item:
    """One row that may be shown."""

    key: bytes
    label: str
    show: Callable[[], Shown]
    """All of it; only what was chosen is written out."""

    def is_like(self, prefix: str) -> bool:
        """Whether its label or its key begins so."""
        return self.label.startswith(prefix) or self.key.hex().startswith(prefix)


class View(Protocol):
    """One table. Every method may raise ShmError."""

    @property
    def name(self) -> str:
        """As in `/state/{name}`."""

    def items(self) -> Iterator[Item]:
        """Every row, in no order."""

    async def reset(self, key: bytes) -> bool:
        """Undo what is held against a key; False when it is not known. Raises: RedisError, too."""

    def stats(self) -> TableStats:
        """How full it is."""


@final
class RatesView:
    """Token buckets."""

    name = "rates"

    def __init__(self, table: RateTable, clock: Clock) -> None:
        self._table = table
        self._clock = clock
        self.stats = table.stats

    def items(self) -> Iterator[Item]:
        """See View."""
        now = self._clock.monotonic_ns()
        for row in self._table.rows(now):
            yield Item(row.key, _text(row.label), partial(self._shown, row, now))

    def _shown(self, row: RateRow, now_ns: int) -> Shown:
        return {
            "key": row.key.hex(),
            "label": _text(row.label),
            "tokens": row.level,
            "capacity": row.limit.capacity,
            "refill": row.limit.refill,
            "intervalSeconds": row.limit.interval_ns / _SECOND_NS,
            "debt": "carry" if row.limit.carry_debt else "forgive",
            "idleSeconds": max(now_ns // _SECOND_NS - row.used_seconds, 0),
        }

    async def reset(self, key: bytes) -> bool:
        """See View: the bucket is full again."""
        return self._table.reset(key)


class Amounts(NamedTuple):
    """How what budgets count is written: policies know, and this layer is below them."""

    units: Sequence[str]
    """By the number in the table."""
    written: Callable[[int, int], str]
    """An amount and its unit's number as text."""


@final
class BudgetsView:
    """Budgets."""

    name = "budgets"

    def __init__(self, table: BudgetTable, clock: Clock, amounts: Amounts) -> None:
        self._table = table
        self._clock = clock
        self._amounts = amounts
        self.stats = table.stats

    def items(self) -> Iterator[Item]:
        """See View."""
        for row in self._table.rows():
            yield Item(row.key, _text(row.label), partial(self._shown, row))

    def _shown(self, row: BudgetRow) -> Shown:
        is_over = row.is_over(self._clock.time_ns())
        spent = 0 if is_over else row.spent
        limit, written = row.limit, self._amounts.written
        return {
            "key": row.key.hex(),
            "label": _text(row.label),
            "unit": self._amounts.units[limit.unit],
            "limit": written(limit.amount, limit.unit),
            "spent": written(spent, limit.unit),
            "reserved": written(row.reserved, limit.unit),
            "remaining": written(max(limit.amount - spent - row.reserved, 0), limit.unit),
            "windowStart": _date(row.window_start_ns),
            "windowEnd": _date(row.window_end_ns) if row.window_end_ns else None,
            "onExceeded": "Block" if limit.blocks else "Audit",
        }

    async def reset(self, key: bytes) -> bool:
        """See View: nothing is spent."""
        return self._table.reset(key, self._clock.time_ns())


@final
class SessionsView:
    """MCP sessions. Their ids are not stored, so none can be shown."""

    name = "sessions"

    def __init__(self, table: SessionTable, clock: Clock) -> None:
        self._table = table
        self._clock = clock
        self.stats = table.stats

    def items(self) -> Iterator[Item]:
        """See View."""
        now = self._clock.monotonic_ns()
        for session in self._table.rows(now):
            label = session.principal.hex()
            yield Item(session.key, label, partial(self._shown, session, now))

    def _shown(self, session: Session, now_ns: int) -> Shown:
        has_owner = session.owner.pid != 0
        return {
            "key": session.key.hex(),
            "principal": session.principal.hex() if any(session.principal) else None,
            "worker": session.owner.worker if has_owner else None,
            "workerAlive": session.owner.is_alive() if has_owner else None,
            "ageSeconds": _since(session.created_ns, now_ns),
            "idleSeconds": _since(session.seen_ns, now_ns),
            "ttlSeconds": session.ttl_ns / _SECOND_NS,
            "generation": session.generation,
            "deleted": session.is_deleted,
        }

    async def reset(self, key: bytes) -> bool:
        """See View: the session is forgotten."""
        return self._table.reset(key)


@final
class EndpointsView:
    """Endpoints of services."""

    name = "endpoints"

    def __init__(self, table: EndpointTable, clock: Clock) -> None:
        self._table = table
        self._clock = clock
        self.stats = table.stats

    def items(self) -> Iterator[Item]:
        """See View."""
        for row in self._table.rows():
            yield Item(row.key, _text(row.label), partial(self._shown, row))

    def _shown(self, row: EndpointRow) -> Shown:
        now = self._clock.monotonic_ns()
        standing = row.standing
        left = max(standing.ejected_until_ns - now, 0)
        return {
            "key": row.key.hex(),
            "label": _text(row.label),
            "inFlight": sum(row.in_flight),
            "inFlightByWorker": list(row.in_flight),
            "health": round(standing.health, 6),
            "latencySeconds": round(row.latency_seconds, 6),
            "failures": standing.failures,
            "timesEjected": standing.times_ejected,
            "ejectedForSeconds": left / _SECOND_NS if left else None,
            "workers": row.users,
        }

    async def reset(self, key: bytes) -> bool:
        """See View: it is as good as a new one, at once in all workers."""
        return self._table.reset(key)


class Shared(NamedTuple):
    """What there is only where Redis is."""

    table: LeaseTable
    leases: Leases


@final
class LeasesView:
    """What this gateway has leased of the buckets and budgets that Redis holds."""

    name = "leases"

    def __init__(self, shared: Shared, budgets: BudgetTable, clock: Clock) -> None:
        self._table = shared.table
        self._leases = shared.leases
        self._budgets = budgets
        self._clock = clock
        self.stats = shared.table.stats

    def items(self) -> Iterator[Item]:
        """See View."""
        labels = {row.key: row.label for row in self._budgets.rows()}
        for slot in self._table.rows():
            label = labels.get(slot.key, b"") if slot.kind == BUDGET else slot.label.rstrip(b"\0")
            yield Item(slot.key, _text(label), partial(self._shown, slot, _text(label)))

    def _shown(self, slot: Slot, label: str) -> Shown:
        now_ns = self._clock.monotonic_ns()
        is_budget = slot.kind == BUDGET
        runs_ns = max(slot.expires - now_ns, 0)
        return {
            "key": slot.key.hex(),
            "label": label,
            "of": "budget" if is_budget else "bucket",
            "limit": slot.amount,
            "granted": slot.allowance,
            "taken": None if is_budget else slot.used,
            "usable": None if is_budget else max(slot.left, 0) if runs_ns else 0,
            "owed": None if is_budget else max(-slot.left, 0),
            "spentByOthers": slot.used if is_budget else None,
            "leftInRedis": slot.pool if slot.told else None,
            "endsInSeconds": runs_ns / _SECOND_NS if runs_ns else None,
            "answeredSeconds": _since(slot.told, now_ns) if slot.told > OWES else None,
            "idleSeconds": _since(slot.touched, now_ns),
        }

    async def reset(self, key: bytes) -> bool:
        """See View: for all gateways the bucket is full again, or nothing of the budget spent."""
        return await self._leases.reset(key)


@final
class Report:
    """The tables that a gateway has, by name."""

    def __init__(self, views: Sequence[View]) -> None:
        self.views: Mapping[str, View] = {view.name: view for view in views}

    @classmethod
    def of(
        cls, tables: Tables, clock: Clock, amounts: Amounts, leases: Leases | None = None
    ) -> Self:
        """Of all that a gateway has. `leases`: of the process that reports; None without Redis."""
        views: list[View] = [
            RatesView(tables.rates, clock),
            BudgetsView(tables.budgets.table, clock, amounts),
            EndpointsView(tables.endpoints, clock),
            SessionsView(tables.sessions, clock),
        ]
        if leases is not None and tables.leases is not None:
            shared = Shared(tables.leases, leases)
            views.append(LeasesView(shared, tables.budgets.table, clock))
        return cls(views)

    def overview(self) -> Mapping[str, object]:
        """`{"tables": [...]}`: how full each is and what befell it. Takes no lock."""
        return {"tables": [_filled(name, view.stats()) for name, view in self.views.items()]}


def parsed_key(text: str) -> bytes | None:
    """A key as rows show it; None for anything else."""
    try:
        key = bytes.fromhex(text)
    except ValueError:
        return None
    return key if len(key) == KEY_BYTES and text == key.hex() else None


def _filled(name: str, stats: TableStats) -> Mapping[str, object]:
    return {
        "name": name,
        "used": stats.used,
        "slots": stats.slots,
        "fillPercent": round(100 * stats.used / stats.slots, 1),
        "sizeBytes": stats.size_bytes,
        "evictions": stats.evictions,
        "refusals": stats.refusals,
        "repairs": stats.repairs,
        "damaged": stats.damaged,
        "lockWaits": stats.waits,
        "lockTimeouts": stats.timeouts,
    }


def _text(label: bytes) -> str:
    return label.decode("utf-8", "replace")


def _since(moment_ns: int, now_ns: int) -> float:
    return round(max(now_ns - moment_ns, 0) / _SECOND_NS, 3)


def _date(wall_ns: int) -> str:
    """As RFC 3339; a moment past the year 9999 as nanoseconds since 1970."""
    try:
        return datetime.fromtimestamp(wall_ns / _SECOND_NS, UTC).isoformat(timespec="seconds")
    except (OverflowError, ValueError, OSError):
        return str(wall_ns)
