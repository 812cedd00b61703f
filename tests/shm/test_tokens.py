"""Tokens: who may show one until when, who fetches it, and death in the middle of each change."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest

from shm.errors import TableFullError, ValueTooLongError
from shm.segment import Identity, segment_name, start_ticks, unlink
from shm.tokens import MAX_VALUE_BYTES, Token, TokenTable
from tests.shm.cuts import cut, exit_code, fork, killed

SECOND = 1_000_000_000
NOW = 5_000 * SECOND
LEASE = NOW + 12 * SECOND
TOKEN = Token(b"secret", NOW + 200 * SECOND, NOW + 285 * SECOND)


@pytest.fixture
def instance() -> Iterator[str]:
    instance = f"test-tokens-{os.getpid()}"
    yield instance
    unlink(segment_name(instance, "tokens"))


@pytest.fixture
def table(instance: str) -> TokenTable:
    return TokenTable.create(instance, 16)


@pytest.fixture
def key(table: TokenTable) -> bytes:
    return table.key(b"policy", b"subject")


@pytest.fixture
def me() -> Identity:
    return Identity.of_self()


@pytest.fixture
def parent() -> Identity:
    """Another process that lives."""
    pid = os.getppid()
    found = Identity.of_self()
    return Identity(pid, start_ticks(pid) or 0, found.namespace)


def test_a_value_is_given_until_it_ends(table: TokenTable, key: bytes, me: Identity) -> None:
    assert table.get(key, NOW) is None
    assert table.claim(key, me, NOW, LEASE)
    assert table.get(key, NOW) is None
    assert table.put(key, me, TOKEN)
    assert table.get(key, NOW) == TOKEN
    assert table.get(key, TOKEN.valid_ns - 1) == TOKEN
    assert table.get(key, TOKEN.valid_ns) is None
    assert not table.is_fetched(key, NOW)


def test_it_does_not_show_in_a_traceback() -> None:
    assert "secret" not in repr(TOKEN)


def test_one_process_fetches(table: TokenTable, key: bytes, me: Identity, parent: Identity) -> None:
    assert table.claim(key, parent, NOW, LEASE)
    assert table.is_fetched(key, NOW)
    assert not table.claim(key, me, NOW, LEASE)
    assert not table.put(key, me, TOKEN)
    table.give_up(key, me)
    assert table.is_fetched(key, NOW)
    assert table.claim(key, parent, NOW, LEASE)


def test_the_lease_ends(table: TokenTable, key: bytes, me: Identity, parent: Identity) -> None:
    assert table.claim(key, parent, NOW, LEASE)
    assert not table.is_fetched(key, LEASE)
    assert table.claim(key, me, LEASE, LEASE + SECOND)
    assert not table.put(key, parent, TOKEN)
    assert table.get(key, NOW) is None


def test_the_dead_are_relieved(table: TokenTable, key: bytes, me: Identity) -> None:
    pid = fork(lambda: table.claim(key, Identity.of_self(), NOW, LEASE) and None)
    assert exit_code(pid) == 0
    assert not table.is_fetched(key, NOW)
    assert table.claim(key, me, NOW, LEASE)


def test_a_value_stays_while_another_is_fetched(
    table: TokenTable, key: bytes, me: Identity
) -> None:
    table.claim(key, me, NOW, LEASE)
    table.put(key, me, TOKEN)
    assert table.claim(key, me, NOW, LEASE)
    assert table.get(key, NOW) == TOKEN
    table.give_up(key, me)
    assert table.get(key, NOW) == TOKEN
    later = Token(b"other", TOKEN.fresh_ns + SECOND, TOKEN.valid_ns + SECOND)
    assert table.claim(key, me, NOW, LEASE)
    assert table.put(key, me, later)
    assert table.get(key, NOW) == later


def test_a_lease_given_up_leaves_nothing(table: TokenTable, key: bytes, me: Identity) -> None:
    table.claim(key, me, NOW, LEASE)
    table.give_up(key, me)
    assert table.stats().used == 0
    table.give_up(key, me)


def test_the_longest_value(table: TokenTable, key: bytes, me: Identity) -> None:
    table.claim(key, me, NOW, LEASE)
    with pytest.raises(ValueTooLongError):
        table.put(key, me, TOKEN._replace(value=b"x" * (MAX_VALUE_BYTES + 1)))
    longest = TOKEN._replace(value=b"x" * MAX_VALUE_BYTES)
    assert table.put(key, me, longest)
    assert table.get(key, NOW) == longest


def test_a_full_table_takes_no_more_until_something_ends(table: TokenTable, me: Identity) -> None:
    made = 0
    while table.stats().refusals == 0:
        one = table.key(b"%d" % made)
        try:
            table.claim(one, me, NOW, LEASE)
        except TableFullError:
            break
        table.put(one, me, TOKEN)
        made += 1
    assert table.stats().refusals == 1
    assert made >= 16
    late = table.key(b"%d" % made)
    assert table.claim(late, me, TOKEN.valid_ns, TOKEN.valid_ns + SECOND)
    assert table.stats().evictions


def test_what_has_passed_is_freed(table: TokenTable, key: bytes, me: Identity) -> None:
    table.claim(key, me, NOW, LEASE)
    table.put(key, me, TOKEN)
    stripes = len(table.table.stripes)
    assert sum(table.tidy(NOW) for _ in range(stripes)) == 0
    assert sum(table.tidy(TOKEN.valid_ns) for _ in range(stripes)) == 1
    assert table.stats().used == 0
    assert not table.forget(key)


@pytest.mark.parametrize("stores", range(6))
def test_death_in_the_middle_of_a_change(
    table: TokenTable, key: bytes, me: Identity, stores: int
) -> None:
    """Before or after, nothing between."""
    table.claim(key, me, NOW, LEASE)
    table.put(key, me, TOKEN)
    table.claim(key, me, NOW, LEASE)
    later = TOKEN._replace(value=b"later")
    cut(table.table, stores, 100, lambda: table.put(key, me, later))
    assert table.get(key, NOW) in (TOKEN, later)


def test_a_holder_killed_over_its_lock(table: TokenTable, key: bytes, me: Identity) -> None:
    table.claim(key, me, NOW, LEASE)
    assert killed(table.table, 1, 100, lambda: table.put(key, me, TOKEN))
    assert table.get(key, NOW) is None
    assert table.put(key, me, TOKEN)


def test_another_process_sees_it(instance: str, table: TokenTable, key: bytes) -> None:
    me = Identity.of_self()
    table.claim(key, me, NOW, LEASE)
    table.put(key, me, TOKEN)
    assert TokenTable.attach(instance).get(key, NOW) == TOKEN
