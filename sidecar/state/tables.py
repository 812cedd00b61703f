"""Opens the shared tables as `config.state` says, before the processes are forked that use them.

Source: design section 5. `config.state` is our own.

Who does what: the supervisor makes or inherits the tables and, at the end, removes them or leaves
them to the next start; control counts them and renews the sign of life of kept ones; workers use
them. A gateway that is upgraded takes kept tables over from the one that still runs, so that both
hold one limit meanwhile.
"""

from __future__ import annotations

import hashlib
import os
import secrets
import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, Self, final

from shm.budgets import BudgetRow
from shm.endpoints import EndpointTable
from shm.errors import ShmError
from shm.generations import Generations
from shm.leases import BUDGET, LeaseTable, Slot
from shm.rates import RateTable
from shm.sessions import SessionTable
from shm.table import TableStats
from shm.tokens import TokenTable
from sidecar.state.budgets import BUDGET_KEYS, Budgets, open_budgets
from sidecar.state.leases import Leases
from sidecar.state.redis import RedisSettings
from sidecar.telemetry.clock import Clock

RATE_KEYS: Final = 100_000
ENDPOINTS: Final = 4096
SESSIONS: Final = 10_000
TOKENS: Final = 256
"""A table rounds up: with this there is room for about 700, in 6 MB."""


def kept_instance(path: Path | None) -> str:
    """The name under which a gateway with this configuration file finds its tables again."""
    # The real path: a file that is reached by another way is the same gateway's.
    name = "inline" if path is None else os.path.realpath(path)
    return "kept-" + hashlib.blake2b(os.fsencode(name), digest_size=16).hexdigest()


@final
@dataclass(frozen=True, slots=True)
class Tables:
    """The tables of one gateway, in the process that opened them and, by fork, in its children."""

    rates: RateTable
    endpoints: EndpointTable
    budgets: Budgets
    is_kept: bool
    sessions: SessionTable
    """MCP sessions."""
    session_key: bytes = b""
    """32 bytes, by which session ids are sealed."""
    is_key_given: bool = False
    """Whether other gateways, or this one after a restart, know the key too."""
    generations: Generations = field(default_factory=Generations)
    """Of what workers keep of MCP servers' lists. Without a name: gone with the gateway."""
    leases: LeaseTable | None = None
    """What is leased of buckets and budgets that Redis holds; None without Redis."""
    redis: RedisSettings | None = None
    tokens: TokenTable | None = None
    """Tokens for backends. Never kept; None: each process fetches its own."""

    def leasing(self, clock: Clock) -> Leases | None:
        """A process's use of the leases; None without Redis."""
        if self.redis is None or self.leases is None:
            return None
        return Leases(self.redis, self.leases, self.budgets.table, clock)

    @classmethod
    def open(
        cls,
        config: Mapping[str, Any],
        instance: str,
        path: Path | None = None,
        *,
        workers: int = 1,
        from_living: bool = False,
        session_key: str = "",
    ) -> Self:
        """As `config.state` says. `instance`: for tables that end with it; `path`: the file's.

        `session_key`: 64 hexadecimal digits; "" makes one that ends with the gateway.

        Raises: SegmentInUseError when another gateway keeps tables for this file; ShmError when
        there is no room; ConfigError for a journal that cannot be used.
        """
        keys = int(config.get("rateKeys") or RATE_KEYS)
        is_kept = bool(config.get("keep"))
        key = bytes.fromhex(session_key) if session_key else secrets.token_bytes(32)
        with ExitStack() as undo:
            # Load and health are those of living processes' calls: never kept.
            endpoints = EndpointTable.create(
                instance, int(config.get("endpoints") or ENDPOINTS), workers
            )
            undo.callback(endpoints.close)
            if is_kept:
                rates = RateTable.open(kept_instance(path), keys, from_living=from_living)
            else:
                rates = RateTable.create(instance, keys)
            undo.callback(_end, rates, is_kept=is_kept)
            # Of the journal's name, where there is one: it is what two gateways must not share.
            kept = kept_instance(Path(config["journal"]) if config.get("journal") else path)
            budgets = open_budgets(config, instance, kept, from_living=from_living)
            undo.callback(budgets.close)
            sessions = _sessions(config, instance, path, from_living=from_living)
            undo.callback(_end, sessions, is_kept=is_kept)
            tokens = TokenTable.create(instance, int(config.get("tokens") or TOKENS))
            undo.callback(tokens.close)
            redis, leases = RedisSettings.of(config), None
            if redis is not None:
                keys += int(config.get("budgetKeys") or BUDGET_KEYS)
                leases = _leases(budgets, instance, kept, keys, from_living=from_living)
            undo.pop_all()
        return cls(
            rates,
            endpoints,
            budgets,
            is_kept,
            sessions,
            key,
            bool(session_key),
            leases=leases,
            redis=redis,
            tokens=tokens,
        )

    @property
    def refusals(self) -> Sequence[str]:
        """Why kept tables of an earlier start could not be used and were made anew."""
        tables = [self.rates.table, self.budgets.table.table, self.sessions.table]
        if self.leases is not None:
            tables.append(self.leases.table)
        return [table.refusal for table in tables if table.refusal]

    def verify(self) -> None:
        """Check the segments once more. Raises: SegmentRefusedError, SegmentMissingError."""
        self.rates.table.segment.verify()
        self.endpoints.verify()
        self.budgets.table.table.segment.verify()
        self.sessions.table.segment.verify()
        if self.tokens is not None:
            self.tokens.table.segment.verify()
        if self.leases is not None:
            self.leases.table.segment.verify()

    def stats(self) -> Sequence[TableStats]:
        """Each table as of now. Takes no lock."""
        tables = (self.rates, self.endpoints, self.budgets.table, self.sessions)
        found = [table.stats() for table in tables]
        found += [more.stats() for more in (self.leases, self.tokens) if more is not None]
        return found

    def beat(self) -> None:
        """Renew the sign of life of kept tables; at least once an hour."""
        if self.is_kept:
            self.rates.beat()
            self.sessions.beat()
        self.budgets.beat()
        if self.leases is not None and _stays(self.budgets):
            self.leases.beat()

    def tidy(self, monotonic_ns: int) -> None:
        """Free some of the buckets that are full again, and some of the sessions and tokens that
        ended."""
        self.rates.tidy(monotonic_ns)
        self.sessions.tidy(monotonic_ns)
        if self.tokens is not None:
            self.tokens.tidy(monotonic_ns)

    def close(self) -> None:
        """Remove the tables, or leave kept ones to the next start. By the process that opened."""
        self.endpoints.close()
        if self.tokens is not None:
            self.tokens.close()
        if self.leases is not None:
            if _stays(self.budgets) and (self.is_kept or _is_needed(self.leases, self.budgets)):
                self.leases.leave()
            else:
                self.leases.close()
        self.budgets.close()
        _end(self.sessions, is_kept=self.is_kept)
        _end(self.rates, is_kept=self.is_kept)


def _leases(
    budgets: Budgets, instance: str, kept: str, keys: int, *, from_living: bool
) -> LeaseTable:
    """Known to Redis by the budgets' secret: what was spent before a crash stays the same one's."""
    secret = budgets.table.secret
    if _stays(budgets):
        return LeaseTable.open(kept, keys, secret, from_living=from_living)
    return LeaseTable.create(instance, keys, secret)


def _stays(budgets: Budgets) -> bool:
    """Whether a crash leaves the budgets' table, and so the leases'."""
    return budgets.is_left or budgets.journal is not None


def _is_needed(leases: LeaseTable, budgets: Budgets) -> bool:
    """Whether the journal does not tell all: what Redis was not told, or what others have spent."""
    if budgets.is_left:
        return True
    now_ns = time.time_ns()
    try:
        rows = {row.key: row for row in budgets.table.rows()}
        return any(_tells(slot, rows.get(slot.key), now_ns) for slot in leases.rows())
    except ShmError:
        return True


def _tells(slot: Slot, row: BudgetRow | None, now_ns: int) -> bool:
    if slot.kind != BUDGET:
        return slot.used != 0 and slot.told < slot.touched
    if row is None or (slot.interval and slot.since + slot.interval <= now_ns):
        return False
    return slot.used != 0 or (slot.refill, slot.birth) != (row.spent, row.resets)


def _sessions(
    config: Mapping[str, Any], instance: str, path: Path | None, *, from_living: bool
) -> SessionTable:
    """Kept like the rates: an id that was deleted stays so over a restart."""
    keys = int(config.get("sessions") or SESSIONS)
    if config.get("keep"):
        return SessionTable.open(kept_instance(path), keys, from_living=from_living)
    return SessionTable.create(instance, keys)


def _end(table: RateTable | SessionTable, *, is_kept: bool) -> None:
    if is_kept:
        table.leave()
    else:
        table.close()
