"""Leases of a bucket and of a budget against plain dicts and a plain store, amid any deaths.

The store answers late, twice or never, and a process may die at any store to memory.
"""

from __future__ import annotations

import itertools
import os
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from shm.bucket import Ask, Limit
from shm.budget_slots import Ask as BudgetAsk
from shm.budget_slots import BudgetLimit
from shm.leases import SHORT, Answer, LeaseTable, Message, Spending
from tests.shm.cuts import cut

SECOND = 1_000_000_000
NOW, WALL = 1_000 * SECOND, 2_000_000 * SECOND
LEASE_NS = 5 * SECOND
LIMIT = Limit(40, 3, SECOND)
WINDOW = 3600 * SECOND
AMOUNT = 60
BUCKET_KEY, BUDGET_KEY = b"\1" * 16, b"\2" * 16
START = WALL - WALL % WINDOW
BUCKET = Ask(BUCKET_KEY, b"bucket", LIMIT, 1, b"n" * 16)
BUDGET = BudgetAsk(BUDGET_KEY, b"budget", BudgetLimit(AMOUNT, 0, blocks=True), 1, b"m" * 16)
STORES, TORN = st.integers(0, 6), st.integers(0, 210)
NUMBERS = itertools.count()


@dataclass
class Bucket:
    """A bucket's lease as plain numbers."""

    since: int
    allowance: int = 0
    used: int = 0
    pool: int = LIMIT.capacity
    expires: int = 0

    def advance(self, now_ns: int) -> None:
        while self.since + LIMIT.interval_ns <= now_ns:
            self.since += LIMIT.interval_ns
            self.pool = min(self.pool + LIMIT.refill, LIMIT.capacity)
        if now_ns >= self.expires and self.allowance > self.used:
            self.pool = min(self.pool + self.allowance - self.used, LIMIT.capacity)
            self.allowance = self.used

    @property
    def left(self) -> int:
        return self.allowance - self.used


@dataclass
class Shared:
    """What the machine's budget is, here and in `shm.budgets`."""

    allowance: int = 0
    expires: int = 0
    spent: int = 0
    reserved: int = 0


@dataclass
class Store:
    """What the store knows of this machine: the last message it took, and what it granted."""

    total: int
    allowance: int = 0
    sequence: int = 0
    answers: dict[int, Answer] = field(default_factory=dict)

    def take(self, message: Message, granted: int) -> Answer | None:
        """None: a later message came before."""
        if message.slot.sequence in self.answers:
            return self.answers[message.slot.sequence]
        if message.slot.sequence <= self.sequence:
            return None
        self.sequence = message.slot.sequence
        granted = max(min(granted, self.total - message.slot.allowance), 0)
        self.allowance = message.slot.allowance + granted
        answer = Answer(self.allowance, self.total - self.allowance, SECOND, 0, LEASE_NS, 0)
        self.answers[self.sequence] = answer
        return answer


class LeasesMachine(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.table = LeaseTable.create(f"test-{os.getpid()}-{next(NUMBERS)}", 10, bytes(32))
        self.now = NOW
        self.bucket: Bucket | None = None
        self.budget: Shared | None = None
        self.stores = {BUCKET_KEY: Store(10**6), BUDGET_KEY: Store(AMOUNT)}
        self.sent: list[Message] = []
        self.claims: dict[bytes, int] = {}
        self.owes = False
        """A cost was known too late, or there was no store: then more is taken than was granted."""
        self.heard = 0
        """What the store knows to be taken of the bucket."""

    def teardown(self) -> None:
        self.table.close()

    @property
    def times(self) -> tuple[int, int]:
        return self.now, WALL + self.now - NOW

    def is_cut(self, stores: int, torn: int, action: Callable[[], object]) -> bool:
        return cut(self.table.table, stores, torn, action)

    def known(self) -> Bucket:
        """The bucket's lease as of now, made by its first use."""
        if self.bucket is None:
            self.bucket = Bucket(self.now)
        self.bucket.advance(self.now)
        return self.bucket

    def learn(self) -> None:
        """A use that died may have made the lease, and no more."""
        if self.bucket is None and self.table.peek(BUCKET_KEY) is not None:
            self.bucket = Bucket(self.now)

    # --- a bucket ---------------------------------------------------------------------------

    @rule(cost=st.integers(0, 12), alone=st.booleans(), stores=STORES, torn=TORN)
    def take(self, cost: int, alone: bool, stores: int, torn: int) -> None:
        got: list[Any] = []
        asks = [BUCKET._replace(cost=cost)]
        now, wall = self.times
        if self.is_cut(
            stores, torn, lambda: got.extend(self.table.take_all(asks, now, wall, alone=alone))
        ):
            self.learn()
            return
        bucket = self.known()
        left = bucket.left + (max(bucket.pool, 0) if alone else 0)
        allowed = max(cost, 1) <= left
        assert got[0].verdict.allowed == allowed
        assert allowed or alone or got[0].state == SHORT
        if allowed:
            own = max(cost - bucket.left, 0)
            self.owes |= own > 0
            bucket.allowance += own
            bucket.pool -= own
            bucket.used += cost

    @rule(delta=st.integers(-3, 12), stores=STORES, torn=TORN)
    def settle(self, delta: int, stores: int, torn: int) -> None:
        now, wall = self.times
        if self.is_cut(stores, torn, lambda: self.table.settle(BUCKET, now, wall, delta)):
            self.learn()
            return
        self.known().used += delta
        self.owes |= delta != 0

    @precondition(lambda self: self.bucket is not None)
    @rule(stores=STORES, torn=TORN)
    def forgive(self, stores: int, torn: int) -> None:
        if not self.is_cut(stores, torn, lambda: self.table.forgive(BUCKET_KEY)):
            bucket = self.known()
            forgiven = max(bucket.used - bucket.allowance, 0)
            bucket.used, bucket.pool = bucket.used - forgiven, LIMIT.capacity
            self.heard -= forgiven

    # --- a budget ---------------------------------------------------------------------------

    @rule(amount=st.integers(0, 20), stores=STORES, torn=TORN)
    def reserve(self, amount: int, stores: int, torn: int) -> None:
        """As `shm.budgets` does, under its lock."""
        got: list[tuple[int, int]] = []
        before = self.budget or Shared()
        ask, committed = BUDGET._replace(amount=amount), before.spent + before.reserved
        is_cut = self.is_cut(
            stores, torn, lambda: got.append(self.table.allowance(ask, committed, 0, self.times))
        )
        if self.budget is None and self.table.peek(BUDGET_KEY) is not None:
            self.budget = before
        if is_cut:
            return
        most, state = got[0]
        assert most == (before.allowance if self.now < before.expires else 0)
        assert (state == SHORT) == (committed + max(amount, 1) > most)
        if committed + max(amount, 1) <= most:
            before.reserved += amount

    @precondition(lambda self: self.budget is not None and self.budget.reserved)
    @rule(data=st.data())
    def commit(self, data: st.DataObject) -> None:
        assert self.budget is not None
        amount = data.draw(st.integers(1, self.budget.reserved))
        self.budget.reserved -= amount
        self.budget.spent += data.draw(st.integers(0, amount))

    # --- messages ---------------------------------------------------------------------------

    @rule(
        key=st.sampled_from([BUCKET_KEY, BUDGET_KEY]),
        returns=st.booleans(),
        stores=STORES,
        torn=TORN,
    )
    def begin(self, key: bytes, returns: bool, stores: int, torn: int) -> None:
        shared, spending = self.budget, None
        if key == BUDGET_KEY:
            held = shared or Shared()
            spending = Spending(held.spent + held.reserved, held.spent, 0, 0)
        got: list[Message | None] = []
        died = self.is_cut(
            stores,
            torn,
            lambda: got.append(
                self.table.begin(key, self.times, SECOND, spending, returns=returns)
            ),
        )
        is_there = self.bucket is not None if key == BUCKET_KEY else shared is not None
        is_asking = self.claims.get(key, 0) > self.now
        if died:
            return
        (message,) = got
        assert (message is not None) == (is_there and not is_asking)
        if message is None:
            return
        self.claims[key] = self.now + SECOND
        self.sent.append(message)
        assert all(
            message.slot.sequence > other.slot.sequence
            for other in self.sent[:-1]
            if other.slot.key == key
        )
        if key == BUCKET_KEY:
            bucket = self.known()
            if returns:
                bucket.allowance = min(bucket.allowance, max(bucket.used, 0))
            assert (message.spent, message.slot.allowance) == (bucket.used, bucket.allowance)
        elif shared is not None:
            if returns or self.now >= shared.expires:
                shared.allowance = min(shared.allowance, shared.spent + shared.reserved)
            assert message.slot.allowance == shared.allowance

    @precondition(lambda self: self.sent)
    @rule(data=st.data(), granted=st.integers(0, 15), stores=STORES, torn=TORN)
    def answered(self, data: st.DataObject, granted: int, stores: int, torn: int) -> None:
        """A message arrives, perhaps again, and its answer is taken, or who takes it dies."""
        message = data.draw(st.sampled_from(self.sent))
        self.finish(message, self.stores[message.slot.key].take(message, granted), stores, torn)

    @precondition(lambda self: self.sent)
    @rule(data=st.data(), arrives=st.booleans(), granted=st.integers(0, 15))
    def lost(self, data: st.DataObject, arrives: bool, granted: int) -> None:
        """The message is lost, or only its answer."""
        message = data.draw(st.sampled_from(self.sent))
        if arrives:
            self.stores[message.slot.key].take(message, granted)
        self.finish(message, None, 99, 0)

    def finish(self, message: Message, answer: Answer | None, stores: int, torn: int) -> None:
        key = message.slot.key
        slot = self.table.peek(key)
        is_last = slot is not None and slot.sequence == message.slot.sequence
        # An answer is taken once: who has sent the message waits for one.
        if not is_last or slot is None or slot.claim == 0:
            self.sent.remove(message)
            if not is_last:
                self.table.finish(message, answer, self.now)
                assert self.table.peek(key) == slot
            return
        if self.is_cut(stores, torn, lambda: self.table.finish(message, answer, self.now)):
            return
        self.claims[key] = 0
        if answer is None:
            return
        expires = message.sent_ns + LEASE_NS
        granted = answer.allowance - message.slot.allowance
        if key == BUCKET_KEY:
            # The message has ended the lease if it was over; what was taken since stays.
            assert self.bucket is not None
            owed = max(self.bucket.allowance - answer.allowance, 0)
            self.bucket.allowance = max(self.bucket.allowance, answer.allowance)
            self.bucket.pool = max(answer.left - owed, min(answer.left, 0))
            self.bucket.since, self.bucket.expires = self.now, expires
            self.heard = message.spent
        else:
            assert self.budget is not None
            self.budget.allowance += granted
            self.budget.expires = expires

    @rule(by=st.integers(0, 7 * SECOND))
    def wait(self, by: int) -> None:
        self.now += by

    # --- always -----------------------------------------------------------------------------

    @invariant()
    def agrees(self) -> None:
        slots = {slot.key: slot for slot in self.table.rows()}
        assert set(slots) == {
            key
            for key, one in ((BUCKET_KEY, self.bucket), (BUDGET_KEY, self.budget))
            if one is not None
        }
        if self.bucket is not None:
            assert slots[BUCKET_KEY].used == self.bucket.used
            assert slots[BUCKET_KEY].left >= self.bucket.left
        if self.budget is not None:
            assert slots[BUDGET_KEY].allowance == self.budget.allowance
        assert self.table.stats().damaged == 0

    @invariant()
    def the_store_thinks_no_less_of_it_than_may_be_used(self) -> None:
        """L2, but for what was taken without a store, or was known too late."""
        for key, one in ((BUCKET_KEY, self.bucket), (BUDGET_KEY, self.budget)):
            if one is not None and not (self.owes and key == BUCKET_KEY):
                assert one.allowance <= max(self.stores[key].allowance, 0)
        if self.budget is not None:
            assert self.budget.spent + self.budget.reserved <= self.stores[BUDGET_KEY].allowance

    @invariant()
    def what_the_store_was_not_told_will_be_said(self) -> None:
        slot = self.table.peek(BUCKET_KEY)
        if slot is not None and slot.told >= slot.touched:
            assert slot.used <= self.heard


TestLeases: Any = LeasesMachine.TestCase
TestLeases.settings = settings(
    max_examples=80,
    stateful_step_count=40,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow],
)
