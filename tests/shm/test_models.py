"""Each table against plain dicts, through any operations and a death at any store of them."""

from __future__ import annotations

import itertools
import os
import struct
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
)

from shm import rates, sessions
from shm.bucket import FIELDS_BYTES, is_full
from shm.layout import Kind
from shm.rates import LATE_NS, Ask, Limit, RateTable
from shm.segment import segment_name
from shm.sessions import NO_PRINCIPAL, NOBODY, Owner, Session, SessionTable
from shm.table import HashTable
from tests.shm.cuts import cut

PROFILE = settings(
    max_examples=60,
    stateful_step_count=40,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow],
)
NUMBERS = itertools.count()
NAMES = st.integers(0, 7).map(b"name %d".__mod__)
STORES, TORN = st.integers(0, 14), st.integers(0, 700)
FIELDS = struct.Struct("=16sQ")
SECRET = bytes(32)
"""Known, so that an example that failed fails again."""


def is_expired(raw: bytes, now_ns: int) -> bool:
    return bool(0 < FIELDS.unpack_from(raw)[1] <= now_ns)


def made(kind: Kind, fields_bytes: int, is_over: Callable[[bytes, int], bool]) -> HashTable:
    name = segment_name(f"test-models-{os.getpid()}-{next(NUMBERS)}", kind.name)
    return HashTable.create(name, kind, fields_bytes, 50, is_over, secret=SECRET)


class TableMachine(RuleBasedStateMachine):
    """A table of key → number; a number is also the time at which the slot may go."""

    def __init__(self) -> None:
        super().__init__()
        self.model: dict[bytes, int] = {}
        self.table = made(Kind("test", 1), FIELDS.size, is_expired)
        self.damaged = self.evicted = 0

    def put(self, key: bytes, value: int) -> None:
        with self.table.stripe(key) as stripe:
            at = stripe.find(key)
            if at >= 0:
                stripe.write(at, stripe.read(at), FIELDS.pack(key, value))
            else:
                stripe.insert(stripe.place(key, 0), FIELDS.pack(key, value))

    @rule(name=NAMES, value=st.integers(0, 9), stores=STORES, torn=TORN)
    def change(self, name: bytes, value: int, stores: int, torn: int) -> None:
        key = self.table.key(name)
        if not cut(self.table, stores, torn, lambda: self.put(key, value)):
            self.model[key] = value

    @rule(name=NAMES, stores=STORES, torn=TORN)
    def remove(self, name: bytes, stores: int, torn: int) -> None:
        key = self.table.key(name)
        if not cut(self.table, stores, torn, lambda: self.table.remove(key)):
            self.model.pop(key, None)

    @rule(now_ns=st.integers(0, 9))
    def expire(self, now_ns: int) -> None:
        gone = [key for key, value in self.model.items() if 0 < value <= now_ns]
        assert self.table.expire(now_ns) == len(gone)
        self.evicted += len(gone)
        for key in gone:
            del self.model[key]

    @precondition(lambda self: self.model)
    @rule(data=st.data(), bit=st.integers(0, 8 * (FIELDS.size + 4) - 1))
    def damage(self, data: st.DataObject, bit: int) -> None:
        key = data.draw(st.sampled_from(sorted(self.model)))
        with self.table.stripe(key) as stripe:
            self.table.segment.file[stripe.find(key) + bit // 8] ^= 1 << bit % 8
        del self.model[key]
        self.damaged += 1
        list(self.table.raws())  # finds it, wherever the damage is

    @rule()
    def forget_hints(self) -> None:
        self.table.hints.clear()

    @invariant()
    def same(self) -> None:
        assert dict(FIELDS.unpack_from(raw) for raw in self.table.raws()) == self.model
        stats = self.table.stats()
        assert (stats.used, stats.damaged, stats.evictions, stats.refusals) == (
            len(self.model),
            self.damaged,
            self.evicted,
            0,
        )

    def teardown(self) -> None:
        self.table.segment.close()


@dataclass
class Bucket:
    """A bucket as the invariants R1 to R4 say, refilled step by step."""

    level: int
    since: int
    limit: Limit

    def advance(self, now_ns: int) -> None:
        limit = self.limit
        while self.since + limit.interval_ns <= now_ns:
            self.since += limit.interval_ns
            self.level = min(self.level + limit.refill, limit.capacity)
        if self.since - now_ns > max(limit.interval_ns, LATE_NS):
            self.since = now_ns

    def follow(self, limit: Limit, now_ns: int) -> None:
        if limit.capacity != self.limit.capacity:
            is_full = self.level == self.limit.capacity
            self.level = limit.capacity if is_full else min(self.level, limit.capacity)
        if limit.interval_ns != self.limit.interval_ns:
            self.since = now_ns
        self.limit = limit


LIMITS = (Limit(10, 3, 1_000), Limit(6, 6, 1_000), Limit(10, 1, 700), Limit(4, 1, 1_000, False))
ASKS = st.tuples(NAMES, st.sampled_from(LIMITS), st.integers(0, 11))


class RatesMachine(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.model: dict[bytes, Bucket] = {}
        self.now_ns = 100 * LATE_NS
        self.table = RateTable(made(rates.KIND, FIELDS_BYTES, is_full))

    def ask(self, asked: tuple[bytes, Limit, int]) -> Ask:
        name, limit, cost = asked
        return Ask(self.table.key(name), name, limit, cost)

    def bucket(self, ask: Ask) -> Bucket:
        """A copy of the bucket as of now, under the ask's limit."""
        found = self.model.get(ask.key)
        bucket = replace(found) if found else Bucket(ask.limit.capacity, self.now_ns, ask.limit)
        bucket.advance(self.now_ns)
        bucket.follow(ask.limit, self.now_ns)
        return bucket

    @rule(asked=ASKS, stores=STORES, torn=TORN)
    def take(self, asked: tuple[bytes, Limit, int], stores: int, torn: int) -> None:
        ask, got = self.ask(asked), []
        if cut(
            self.table.table, stores, torn, lambda: got.append(self.table.take(ask, self.now_ns))
        ):
            return
        before = self.model.get(ask.key)
        bucket = self.bucket(ask)
        allowed = bucket.level >= max(ask.cost, 1)
        if allowed:
            bucket.level -= ask.cost
            if ask.cost or before is None or before.limit != ask.limit:
                self.model[ask.key] = bucket
        (verdict,) = got
        assert (verdict.allowed, verdict.known) == (allowed, True)
        assert verdict.remaining == max(bucket.level, 0)
        self.check_times(ask, bucket, verdict)

    def check_times(self, ask: Ask, bucket: Bucket, verdict: Any) -> None:
        assert verdict.next_ns == (
            0
            if bucket.level == ask.limit.capacity
            else bucket.since + ask.limit.interval_ns - self.now_ns
        )
        for wait_ns, wanted in ((verdict.retry_ns, min(max(ask.cost, 1), ask.limit.capacity)),):
            if wait_ns:
                then = replace(bucket)
                then.advance(self.now_ns + wait_ns - 1)
                assert then.level < wanted
                then.advance(self.now_ns + wait_ns)
                assert then.level >= wanted

    @rule(asked=st.lists(ASKS, max_size=5, unique_by=lambda one: one[0]), stores=STORES)
    def take_all(self, asked: list[tuple[bytes, Limit, int]], stores: int) -> None:
        asks, got = [self.ask(one) for one in asked], []
        died = cut(
            self.table.table, stores, 40, lambda: got.extend(self.table.take_all(asks, self.now_ns))
        )
        after = {ask.key: self.bucket(ask) for ask in asks}
        allowed = [after[ask.key].level >= max(ask.cost, 1) for ask in asks]
        for ask in asks if all(allowed) else ():
            after[ask.key].level -= ask.cost
        if died:
            self.adopt(asks, after, all(allowed))
            return
        assert [verdict.allowed for verdict in got] == allowed
        assert [verdict.remaining for verdict in got] == [
            max(after[ask.key].level, 0) for ask in asks
        ]
        for ask in asks:
            if all(allowed):
                self.model[ask.key] = after[ask.key]
            elif len(asks) > 1:
                self.model.setdefault(ask.key, Bucket(ask.limit.capacity, self.now_ns, ask.limit))

    def adopt(self, asks: list[Ask], after: dict[bytes, Bucket], allowed: bool) -> None:
        """Each bucket is as before, or new and full, or as after."""
        for ask in asks:
            row = self.table.peek(ask.key, self.now_ns)
            before = self.model.get(ask.key)
            if row is None:
                assert before is None
                continue
            new = before or Bucket(ask.limit.capacity, self.now_ns, ask.limit)
            new = replace(new)
            new.advance(self.now_ns)
            if (row.level, row.limit) == (new.level, new.limit):
                if before is None:
                    self.model[ask.key] = new
            else:
                assert allowed
                assert (row.level, row.limit) == (after[ask.key].level, ask.limit)
            if (row.level, row.limit) == (after[ask.key].level, ask.limit) and allowed:
                self.model[ask.key] = after[ask.key]

    @rule(asked=ASKS, delta=st.integers(-15, 15), stores=STORES, torn=TORN)
    def settle(self, asked: tuple[bytes, Limit, int], delta: int, stores: int, torn: int) -> None:
        ask = self.ask(asked)
        if cut(self.table.table, stores, torn, lambda: self.table.settle(ask, self.now_ns, delta)):
            return
        found = self.model.get(ask.key)
        bucket = found or Bucket(ask.limit.capacity, self.now_ns, ask.limit)
        bucket.advance(self.now_ns)
        bucket.level = min(bucket.level - delta, bucket.limit.capacity)
        if not ask.limit.carry_debt:
            bucket.level = max(bucket.level, 0)
        if found or bucket.level < bucket.limit.capacity:
            self.model[ask.key] = bucket

    @rule(by=st.one_of(st.integers(-1_500, 4_000), st.just(-2 * LATE_NS)))
    def wait(self, by: int) -> None:
        self.now_ns += by

    @rule(name=NAMES)
    def reset(self, name: bytes) -> None:
        key = self.table.key(name)
        assert self.table.reset(key) is (self.model.pop(key, None) is not None)

    @rule()
    def expire(self) -> None:
        self.table.table.expire(self.now_ns)
        self.model = {
            key: bucket
            for key, bucket in self.model.items()
            if self.now(bucket).level < bucket.limit.capacity
        }

    def now(self, bucket: Bucket) -> Bucket:
        bucket = replace(bucket)
        bucket.advance(self.now_ns)
        return bucket

    @invariant()
    def same(self) -> None:
        rows = {row.key: (row.level, row.limit) for row in self.table.rows(self.now_ns)}
        assert rows == {
            key: (self.now(bucket).level, bucket.limit) for key, bucket in self.model.items()
        }
        stats = self.table.stats()
        assert (stats.used, stats.damaged, stats.refusals) == (len(rows), 0, 0)

    def teardown(self) -> None:
        self.table.close()


TTLS = st.integers(1, 4).map(lambda count: count * 1_000)
OWNERS = st.integers(0, 2).map(lambda number: Owner(number + 1, 5, number))
VALUES = st.binary(max_size=512)


class SessionsMachine(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.model: dict[bytes, Session] = {}
        self.seen: list[Session] = []
        self.now_ns = 10_000
        self.table = SessionTable(made(sessions.KIND, sessions._FIELDS_BYTES, sessions._is_expired))

    @initialize()
    def start(self) -> None:
        self.begin(b"name 0", Owner(1, 5, 0), b"", 4_000, 99, 0)

    def live(self, key: bytes) -> Session | None:
        found = self.model.get(key)
        return found if found and not found.is_deleted and not self.is_over(found) else None

    def is_over(self, session: Session) -> bool:
        return self.now_ns - session.seen_ns >= session.ttl_ns

    def do(self, stores: int, torn: int, action: Callable[[], Any]) -> tuple[bool, Any]:
        """Whether it was done, and what it gave."""
        got: list[Any] = []
        died = cut(self.table.table, stores, torn, lambda: got.append(action()))
        return not died, got[0] if got else None

    def note(self, session: Session) -> Session:
        self.model[session.key] = session
        self.seen.append(session)
        return session

    @rule(name=NAMES, owner=OWNERS, value=VALUES, ttl=TTLS, stores=STORES, torn=TORN)
    def begin(
        self, name: bytes, owner: Owner, value: bytes, ttl: int, stores: int, torn: int
    ) -> None:
        key, now = self.table.key(name), self.now_ns
        is_done, got = self.do(stores, torn, lambda: self.table.begin(key, owner, value, ttl, now))
        if is_done:
            found = self.model.get(key)
            is_free = found is None or self.is_over(found)
            new = Session(key, 1, now, now, ttl, owner, NO_PRINCIPAL, value)
            assert got == (self.note(new) if is_free else None)

    @rule(name=NAMES, stores=STORES, torn=TORN)
    def get(self, name: bytes, stores: int, torn: int) -> None:
        key = self.table.key(name)
        is_done, got = self.do(stores, torn, lambda: self.table.get(key, self.now_ns))
        if is_done:
            found = self.live(key)
            if found and self.now_ns - found.seen_ns > found.ttl_ns // 16:
                found = self.note(found._replace(seen_ns=self.now_ns))
            assert got == found
            gone = self.model.get(key)
            is_deleted = gone is not None and gone.is_deleted and not self.is_over(gone)
            assert self.table.is_deleted(key, self.now_ns) is is_deleted

    @rule(data=st.data(), value=VALUES, stores=STORES, torn=TORN)
    def update(self, data: st.DataObject, value: bytes, stores: int, torn: int) -> None:
        seen, now = data.draw(st.sampled_from(self.seen)), self.now_ns
        is_done, got = self.do(stores, torn, lambda: self.table.update(seen, value, now))
        if is_done:
            found = self.live(seen.key)
            if found and (found.generation, found.created_ns) == (seen.generation, seen.created_ns):
                assert got == self.note(self.changed(found, value=value))
            else:
                assert got is None

    @rule(name=NAMES, expected=OWNERS, owner=OWNERS, stores=STORES, torn=TORN)
    def claim(self, name: bytes, expected: Owner, owner: Owner, stores: int, torn: int) -> None:
        key, now = self.table.key(name), self.now_ns
        is_done, got = self.do(stores, torn, lambda: self.table.claim(key, expected, owner, now))
        if is_done:
            found = self.live(key)
            if found and found.owner == expected:
                assert got == self.note(self.changed(found, owner=owner))
            else:
                assert got is None

    def changed(self, session: Session, **what: Any) -> Session:
        seen_ns = max(session.seen_ns, self.now_ns)
        return session._replace(generation=session.generation + 1, seen_ns=seen_ns, **what)

    @rule(name=NAMES, ttl=TTLS, stores=STORES, torn=TORN)
    def delete(self, name: bytes, ttl: int, stores: int, torn: int) -> None:
        key, now = self.table.key(name), self.now_ns
        is_done, got = self.do(stores, torn, lambda: self.table.delete(key, ttl, now))
        if is_done:
            assert got is (self.live(key) is not None)
            generation = self.model[key].generation + 1 if key in self.model else 1
            self.note(Session(key, generation, now, now, ttl, NOBODY, NO_PRINCIPAL, b"", True))

    @rule(by=st.integers(-500, 3_000))
    def wait(self, by: int) -> None:
        self.now_ns += by

    @rule()
    def expire(self) -> None:
        over = [key for key, session in self.model.items() if self.is_over(session)]
        assert self.table.table.expire(self.now_ns) == len(over)
        for key in over:
            del self.model[key]

    @invariant()
    def same(self) -> None:
        rows = {row.key: row for row in self.table.rows(self.now_ns)}
        assert rows == {
            key: session for key, session in self.model.items() if not self.is_over(session)
        }
        stats = self.table.stats()
        assert (stats.used, stats.damaged) == (len(self.model), 0)

    def teardown(self) -> None:
        self.table.close()


TestTable = TableMachine.TestCase
TestTable.settings = PROFILE
TestRates = RatesMachine.TestCase
TestRates.settings = PROFILE
TestSessions = SessionsMachine.TestCase
TestSessions.settings = PROFILE
