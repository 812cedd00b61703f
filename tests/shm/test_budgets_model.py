"""Budgets of several processes against plain dicts, through any operations and deaths amid them."""

from __future__ import annotations

import itertools
import os
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from shm.budget_slots import HOLDS
from shm.budgets import Ask, BudgetTable, Refused, Reservation
from tests.shm.cuts import cut
from tests.shm.spending import AUDIT, BLOCK, HOUR, NOW, TTL, Peer

NAMES = st.sampled_from([b"a", b"b", b"c"])
AMOUNTS = st.integers(0, 20)
PEERS = st.integers(0, HOLDS + 1)
STORES, TORN = st.integers(0, 8), st.integers(0, 330)
LONG = TTL * 10**4
SECRET = bytes(32)
NUMBERS = itertools.count()


@dataclass
class Modelled:
    """A budget as plain numbers."""

    start: int
    spent: int = 0
    holds: dict[int, int] = field(default_factory=dict)
    """By handle."""


@dataclass(frozen=True)
class Open:
    """A reservation, and whose it is."""

    peer: int
    name: bytes
    made: Reservation


class BudgetsMachine(RuleBasedStateMachine):
    """More processes than a slot has room for: some hold in annexes."""

    def __init__(self) -> None:
        super().__init__()
        name = f"test-machine-{os.getpid()}-{next(NUMBERS)}"
        self.table = BudgetTable.create(name, 100, SECRET)
        self.model: dict[bytes, Modelled] = {}
        self.open: list[Open] = []
        self.peers: dict[int, Peer] = {}
        self.now = NOW

    def teardown(self) -> None:
        for peer in self.peers.values():
            peer.kill()
        self.table.close()

    # --- the model --------------------------------------------------------------------------

    def view(self, name: bytes) -> tuple[int, int]:
        """Start and spend of the window of now, as one who asks sees it."""
        one = self.model.get(name) or Modelled(0)
        start = self.now - self.now % HOUR
        return (start, 0) if start > one.start else (one.start, one.spent)

    def budget(self, name: bytes) -> Modelled:
        """The budget, about to be changed, in the window of now."""
        one = self.model.setdefault(name, Modelled(0))
        one.start, one.spent = self.view(name)
        return one

    def holds(self, name: bytes) -> int:
        return sum(self.model[name].holds.values()) if name in self.model else 0

    def is_refused(self, ask: Ask) -> bool:
        committed = self.view(ask.label)[1] + self.holds(ask.label)
        return ask.limit.blocks and committed + max(ask.amount, 1) > ask.limit.amount

    def charge(self, name: bytes, made: Reservation, actual: int) -> None:
        one = self.budget(name)
        one.holds.pop(id(made), None)
        one.spent += actual

    def drop(self, one: Open) -> None:
        """Nothing is held by it any more."""
        if one.name in self.model:
            self.model[one.name].holds.pop(id(one.made), None)

    def adopt(self, name: bytes) -> None:
        """A step of an operation that died was done: the budget was made, or its window begun."""
        for row in self.table.rows():
            one = self.model.get(name)
            if row.label == name and (one is None or row.window_start_ns != one.start):
                self.budget(name)
                assert row.window_start_ns == self.model[name].start

    # --- processes --------------------------------------------------------------------------

    def peer(self, number: int) -> BudgetTable:
        if number not in self.peers:
            self.peers[number] = Peer(self.table)
        return self.peers[number].table

    def bury(self, number: int) -> None:
        """The process dies, and control returns what it held."""
        self.peers.pop(number).kill()
        self.table.release_dead(self.now)
        for one in [one for one in self.open if one.peer == number]:
            self.drop(one)
        self.open = [one for one in self.open if one.peer != number]

    def is_cut(self, stores: int, torn: int, action: Callable[[], object]) -> bool:
        """Whether the action ended at that store, and what it had begun was undone."""
        return cut(self.table.table, stores, torn, action)

    # --- operations -------------------------------------------------------------------------

    def asks(self, wanted: list[tuple[bytes, int]], blocks: bool) -> list[Ask]:
        limit = BLOCK if blocks else AUDIT
        return [Ask(self.table.key(name), name, limit, amount) for name, amount in wanted]

    @rule(
        peer=PEERS,
        wanted=st.lists(st.tuples(NAMES, AMOUNTS), min_size=1, unique_by=lambda one: one[0]),
        blocks=st.sampled_from([True, True, False]),
    )
    def reserve(self, peer: int, wanted: list[tuple[bytes, int]], blocks: bool) -> None:
        asks = self.asks(wanted, blocks)
        refused = [self.is_refused(ask) for ask in asks]
        made = self.peer(peer).reserve_all(asks, self.now, LONG)
        if any(refused):
            assert isinstance(made, Refused)
            assert made.number == refused.index(True)
            return
        assert not isinstance(made, Refused)
        for one, (name, amount) in zip(made, wanted, strict=True):
            self.open.append(Open(peer, name, one))
            budget = self.budget(name)
            if amount:
                budget.holds[id(one)] = amount

    @precondition(lambda self: self.open)
    @rule(data=st.data(), actual=AMOUNTS)
    def commit(self, data: st.DataObject, actual: int) -> None:
        one = self.open.pop(data.draw(st.integers(0, len(self.open) - 1)))
        self.charge(one.name, one.made, actual)
        standing = self.peer(one.peer).commit(one.made, actual, self.now)
        assert standing.spent == self.model[one.name].spent
        assert standing.reserved == self.holds(one.name)

    @precondition(lambda self: self.open)
    @rule(data=st.data())
    def refund(self, data: st.DataObject) -> None:
        one = self.open.pop(data.draw(st.integers(0, len(self.open) - 1)))
        self.drop(one)
        self.peer(one.peer).refund(one.made)

    @rule(peer=PEERS, name=NAMES, amount=AMOUNTS, stores=STORES, torn=TORN)
    def die_in_reserve(self, peer: int, name: bytes, amount: int, stores: int, torn: int) -> None:
        (ask,), table = self.asks([(name, amount)], blocks=False), self.peer(peer)
        if not self.is_cut(stores, torn, lambda: table.reserve_all([ask], self.now, LONG)):
            self.budget(name)
        self.bury(peer)
        self.adopt(name)

    @precondition(lambda self: self.open)
    @rule(data=st.data(), actual=st.integers(1, 20), stores=STORES, torn=TORN)
    def die_in_commit(self, data: st.DataObject, actual: int, stores: int, torn: int) -> None:
        one = data.draw(st.sampled_from(self.open))
        table, before = self.peer(one.peer), self.view(one.name)[1]
        if not self.is_cut(stores, torn, lambda: table.commit(one.made, actual, self.now)):
            self.charge(one.name, one.made, actual)
        else:
            assert self.table_spent(one.name) == before
        self.bury(one.peer)
        self.adopt(one.name)

    @precondition(lambda self: self.open)
    @rule(data=st.data(), actual=st.integers(1, 20), stores=STORES)
    def fail_in_commit(self, data: st.DataObject, actual: int, stores: int) -> None:
        """What an exception interrupts is undone; the process lives, and tries again."""
        one = data.draw(st.sampled_from(self.open))
        table, before = self.peer(one.peer), self.view(one.name)[1]
        if self.is_cut(stores, 0, lambda: table.commit(one.made, actual, self.now)):
            assert self.table_spent(one.name) == before
            table.commit(one.made, actual, self.now)
        self.charge(one.name, one.made, actual)
        self.open.remove(one)

    @precondition(lambda self: self.peers)
    @rule(data=st.data())
    def die(self, data: st.DataObject) -> None:
        self.bury(data.draw(st.sampled_from(sorted(self.peers))))

    @precondition(lambda self: self.peers)
    @rule(data=st.data(), stores=STORES, torn=TORN)
    def die_in_release(self, data: st.DataObject, stores: int, torn: int) -> None:
        """Control dies while it returns what a dead process held; its successor does the rest."""
        number = data.draw(st.sampled_from(sorted(self.peers)))
        self.peers[number].kill()
        self.peers[number] = Peer(self.table)
        cut(self.table.table, stores, torn, lambda: self.table.release_dead(self.now))
        self.bury(number)

    @rule(name=NAMES)
    def reset(self, name: bytes) -> None:
        if self.table.reset(self.table.key(name), self.now):
            one = self.budget(name)
            one.start, one.spent = self.now - self.now % HOUR, 0

    @rule(step=st.integers(-3 * HOUR, 3 * HOUR))
    def clock(self, step: int) -> None:
        self.now = max(NOW - 100 * HOUR, self.now + step)

    @rule()
    def tidy(self) -> None:
        """Empty annexes go; so do budgets that say nothing any more."""
        self.table.table.expire(self.now)
        for name, one in list(self.model.items()):
            if self.table.standing(self.table.key(name), self.now) is None:
                assert not one.holds
                assert self.view(name)[1] == 0
                del self.model[name]

    def table_spent(self, name: bytes) -> int:
        standing = self.table.standing(self.table.key(name), self.now)
        return standing.spent if standing is not None else 0

    @invariant()
    def agrees(self) -> None:
        for name in self.model:
            standing = self.table.standing(self.table.key(name), self.now)
            assert standing is not None
            assert (standing.window_start_ns, standing.spent) == self.view(name), name
            assert standing.reserved == self.holds(name), name
        assert self.table.stats().damaged == 0


TestBudgets: Any = BudgetsMachine.TestCase
TestBudgets.settings = settings(
    max_examples=60,
    stateful_step_count=40,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow],
)
