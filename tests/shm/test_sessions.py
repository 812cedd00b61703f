"""Sessions: life, deletion, ownership, bounds, and death in the middle of each change."""

from __future__ import annotations

import itertools
import os
from collections.abc import Callable, Iterator
from functools import partial

import pytest

from shm.errors import SegmentMissingError, ShmError, TableFullError, ValueTooLongError
from shm.segment import segment_name, unlink
from shm.sessions import MAX_VALUE_BYTES, NO_PRINCIPAL, NOBODY, Owner, Session, SessionTable
from tests.shm.cuts import cut, exit_code, fork, killed

SECOND = 1_000_000_000
START = 5_000 * SECOND
TTL = 60 * SECOND
ONE, TWO = Owner(11, 1, 0), Owner(22, 2, 1)


@pytest.fixture
def instance() -> Iterator[str]:
    instance = f"test-sessions-{os.getpid()}"
    yield instance
    unlink(segment_name(instance, "sessions"))


@pytest.fixture
def table(instance: str) -> SessionTable:
    return SessionTable.create(instance, 100)


@pytest.fixture
def key(table: SessionTable) -> bytes:
    return table.key(b"session")


def begin(table: SessionTable, key: bytes, now_ns: int = START) -> Session:
    session = table.begin(key, ONE, b"value", TTL, now_ns, table.key(b"alice"))
    assert session is not None
    return session


def test_a_session_is_what_was_begun(table: SessionTable, key: bytes) -> None:
    assert table.get(key, START) is None
    session = begin(table, key)
    assert table.get(key, START) == session
    assert session == (key, 1, START, START, TTL, ONE, table.key(b"alice"), b"value", False)
    assert list(table.rows(START)) == [session]


def test_an_id_is_begun_once(table: SessionTable, key: bytes) -> None:
    session = begin(table, key)
    assert table.begin(key, TWO, b"other", TTL, START) is None
    assert table.get(key, START) == session


def test_it_lives_for_its_ttl_after_its_last_use(table: SessionTable, key: bytes) -> None:
    begin(table, key)
    assert table.get(key, START + TTL - 1) is not None
    assert table.get(key, START + 2 * TTL - 2) is not None
    assert table.get(key, START + 3 * TTL) is None
    assert list(table.rows(START + 3 * TTL)) == []
    assert begin(table, key, START + 3 * TTL).generation == 1


@pytest.mark.parametrize(("ttl_ns", "lag_ns"), [(TTL, SECOND), (1_600, 100)])
def test_the_last_use_is_noted_after_a_while(
    table: SessionTable, key: bytes, ttl_ns: int, lag_ns: int
) -> None:
    table.begin(key, ONE, b"", ttl_ns, START)
    soon, later = table.get(key, START + lag_ns), table.get(key, START + lag_ns + 1)
    assert soon is not None
    assert later is not None
    assert (soon.seen_ns, later.seen_ns) == (START, START + lag_ns + 1)
    assert (soon.generation, later.generation) == (1, 1)


def test_a_clock_set_back_ends_no_session(table: SessionTable, key: bytes) -> None:
    session = begin(table, key)
    assert table.get(key, START - 10 * TTL) == session
    assert table.update(session, b"new", START - 10 * TTL) == session._replace(
        value=b"new", generation=2
    )


def test_a_deleted_id_does_not_come_back_before_its_time(table: SessionTable, key: bytes) -> None:
    session = begin(table, key)
    assert table.delete(key, TTL, START) is True
    assert table.get(key, START) is None
    assert table.is_deleted(key, START + TTL - 1)
    assert table.begin(key, ONE, b"", TTL, START + TTL - 1) is None
    assert table.update(session, b"new", START) is None
    assert table.claim(key, ONE, TWO, START) is None
    assert table.claim(key, NOBODY, TWO, START) is None
    assert table.delete(key, TTL, START) is False
    (row,) = table.rows(START)
    assert row == (key, 3, START, START, TTL, NOBODY, NO_PRINCIPAL, b"", True)
    assert not table.is_deleted(key, START + TTL)
    assert begin(table, key, START + TTL).generation == 1


def test_a_deletion_wipes_the_value(table: SessionTable, key: bytes) -> None:
    begin(table, key)
    table.delete(key, TTL, START)
    with table.table.stripe(key) as stripe:
        raw = stripe.read(stripe.find(key))
    assert b"value" not in raw
    assert table.key(b"alice") not in raw


def test_an_id_that_is_not_there_can_be_deleted(table: SessionTable, key: bytes) -> None:
    assert table.delete(key, TTL, START) is False
    assert table.is_deleted(key, START)
    assert table.begin(key, ONE, b"", TTL, START) is None


def test_of_two_updates_at_once_one_is_told(table: SessionTable, key: bytes) -> None:
    session = begin(table, key)
    first = table.update(session, b"first", START)
    assert first is not None
    assert table.update(session, b"second", START) is None
    assert table.update(first, b"third", START) is not None
    assert table.update(first._replace(generation=3, created_ns=1), b"", START) is None
    found = table.get(key, START)
    assert found is not None
    assert (found.value, found.generation) == (b"third", 3)


def test_of_many_workers_one_takes_a_dead_ones_session(table: SessionTable, key: bytes) -> None:
    begin(table, key)

    def claim(worker: int) -> None:
        assert table.claim(key, ONE, Owner(1_000 + worker, 9, worker), START) is not None

    pids = [fork(lambda worker=worker: claim(worker)) for worker in range(8)]  # type: ignore[misc]
    assert sorted(exit_code(pid) for pid in pids) == [0] + [1] * 7
    found = table.get(key, START)
    assert found is not None
    assert found.owner.pid == 1_000 + found.owner.worker


def test_owners_live_and_die(table: SessionTable) -> None:
    assert Owner.of_self(3).is_alive()
    assert Owner.of_self(3).worker == 3
    assert not NOBODY.is_alive()
    assert not Owner(os.getpid(), 1, 3).is_alive()  # a later process of the same pid


def test_values_have_a_bound(table: SessionTable, key: bytes) -> None:
    longest = b"x" * MAX_VALUE_BYTES
    session = table.begin(key, ONE, longest, TTL, START)
    assert session is not None
    assert table.get(key, START) == session
    with pytest.raises(ValueTooLongError, match="513 bytes, the table holds 512"):
        table.update(session, longest + b"x", START)
    with pytest.raises(ValueTooLongError, match="513 bytes"):
        table.begin(table.key(b"other"), ONE, longest + b"x", TTL, START)
    assert table.get(key, START) == session


def test_what_does_not_fit_is_refused(table: SessionTable, key: bytes) -> None:
    for ttl_ns in (0, -1, 2**62):
        with pytest.raises(ShmError, match="ttl"):
            table.begin(key, ONE, b"", ttl_ns, START)
    with pytest.raises(ShmError, match="principal"):
        table.begin(key, ONE, b"", TTL, START, b"alice")


def test_a_full_table_keeps_what_it_has(table: SessionTable) -> None:
    stripe = table.table.stripes[0]
    held: list[bytes] = []
    for number in itertools.count():
        key = table.key(b"%d" % number)
        if table.table.stripe(key) is not stripe:
            continue
        try:
            begin(table, key)
        except TableFullError:
            break
        held.append(key)
    with pytest.raises(TableFullError):
        table.delete(key, TTL, START)
    assert all(table.get(one, START) for one in held)
    assert table.delete(held[0], TTL, START)  # a deletion needs no room
    assert begin(table, key, START + TTL).key == key
    assert table.stats().evictions == 1


def test_reset_forgets(table: SessionTable, key: bytes) -> None:
    assert table.reset(key) is False
    table.delete(key, TTL, START)
    assert table.reset(key) is True
    assert not table.is_deleted(key, START)


def test_damage_ends_a_session(table: SessionTable, key: bytes) -> None:
    for byte in (0, 16, 24, 64, 68, 72, 92, 97, 603, 604, 607):
        begin(table, key)
        with table.table.stripe(key) as stripe:
            table.table.segment.file[stripe.find(key) + byte] ^= 4
        assert table.get(key, START) is None
        assert list(table.rows(START)) == []
    assert (table.stats().damaged, table.stats().used) == (11, 0)


def test_segments(instance: str) -> None:
    table = SessionTable.create(instance, 100)
    session = begin(table, table.key(b"session"))
    other = SessionTable.attach(instance)
    assert other.get(other.key(b"session"), START) == session
    table.close()
    with pytest.raises(SegmentMissingError):
        SessionTable.attach(instance)


ACTIONS: dict[str, Callable[[SessionTable, bytes, Session], object]] = {
    "get": lambda table, key, _: table.get(key, START + 5 * SECOND),
    "update": lambda table, _, session: table.update(session, b"new", START),
    "claim": lambda table, key, _: table.claim(key, ONE, TWO, START),
    "delete": lambda table, key, _: table.delete(key, TTL, START),
    "begin": lambda table, key, _: table.begin(table.key(b"other"), ONE, b"", TTL, START),
}


@pytest.mark.parametrize("action", ACTIONS)
@pytest.mark.parametrize("torn", [0, 30, 400])
def test_who_dies_in_a_change_has_changed_nothing(
    table: SessionTable, key: bytes, action: str, torn: int
) -> None:
    for stores in itertools.count():
        table.reset(key)
        session = begin(table, key)
        change = partial(ACTIONS[action], table, key, session)
        if not cut(table.table, stores, torn, change):
            break
        assert list(table.rows(START)) == [session]
    assert stores >= 4
    assert list(table.rows(START)) != [session]
    assert table.stats().damaged == 0


def test_53_who_is_killed_in_a_claim_leaves_the_session_to_others(
    table: SessionTable, key: bytes
) -> None:
    for stores in itertools.count():
        table.reset(key)
        session = begin(table, key)
        if not killed(table.table, stores, 100, lambda: table.claim(key, ONE, TWO, START)):
            break
        assert table.get(key, START) == session
    assert stores == table.stats().repairs == 4
    assert table.claim(key, TWO, ONE, START) is not None
