"""Budgets as the tests use them: one limit, one moment, short calls."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable

from shm.budget_slots import OWNER
from shm.budgets import BudgetLimit, BudgetTable, Reservation
from shm.segment import start_ticks
from tests.shm.cuts import exit_code, fork

HOUR = 3600 * 10**9
NOW = 1_000_000 * HOUR
TTL = HOUR
BLOCK = BudgetLimit(100, HOUR, blocks=True)
AUDIT = BudgetLimit(100, HOUR, blocks=False)


def reserve(
    table: BudgetTable,
    amount: int = 0,
    limit: BudgetLimit = BLOCK,
    now: int = NOW,
    name: bytes = b"k",
) -> Reservation | None:
    return table.reserve(table.key(name), name, limit, amount, now, TTL)


def held(table: BudgetTable, amount: int, name: bytes = b"k") -> Reservation:
    """A reservation that must not be refused."""
    made = reserve(table, amount, AUDIT, name=name)
    assert made is not None
    return made


def spend(
    table: BudgetTable, amount: int, limit: BudgetLimit = BLOCK, now: int = NOW, name: bytes = b"k"
) -> None:
    made = reserve(table, 0, limit, now, name)
    assert made is not None
    table.commit(made, amount, now)


def spent(table: BudgetTable, now: int = NOW, name: bytes = b"k") -> int:
    standing = table.standing(table.key(name), now)
    assert standing is not None
    return standing.spent


def reserved(table: BudgetTable, name: bytes = b"k") -> int:
    standing = table.standing(table.key(name), NOW)
    return standing.reserved if standing is not None else 0


def in_child(work: Callable[[], object]) -> None:
    assert exit_code(fork(work)) == 0


class Peer:
    """Another process, which lives until it is killed; what its table holds is held in its name."""

    _lifeline = os.pipe()

    def __init__(self, table: BudgetTable) -> None:
        self.pid = fork(self._live)
        self.table = BudgetTable(table.table)
        self.table._holder.who = OWNER.pack(start_ticks(self.pid) or 0, self.pid)

    def _live(self) -> None:
        # Ends with the test's process, too.
        os.close(self._lifeline[1])
        os.read(self._lifeline[0], 1)

    def kill(self) -> None:
        os.kill(self.pid, signal.SIGKILL)
        assert exit_code(self.pid) == -signal.SIGKILL
