"""The hash table: fill, eviction, refusal, damage, rollback, hints. Its slots hold one number."""

from __future__ import annotations

import itertools
import os
import random
import struct
from collections.abc import Iterator

import pytest

from shm.errors import SegmentInUseError, SegmentMissingError, SegmentRefusedError, ShmError
from shm.layout import HEADER_BYTES, Kind
from shm.segment import segment_name, unlink
from shm.stripe import GROUP_SLOTS, KEY_BYTES, Stripe
from shm.table import HashTable
from tests.shm.cuts import Cut, Fate, cut, exit_code, fall, fated, fork, killed

KIND = Kind("test", 1)
FIELDS = struct.Struct("=16sQ")
"""Key, and the time at which the slot expires; 0: never."""


def is_expired(raw: bytes, now_ns: int) -> bool:
    return bool(0 < FIELDS.unpack_from(raw)[1] <= now_ns)


@pytest.fixture
def name() -> Iterator[str]:
    name = segment_name(f"test-table-{os.getpid()}", "table")
    yield name
    unlink(name)


def make(name: str, keys: int) -> HashTable:
    return HashTable.create(name, KIND, FIELDS.size, keys, is_expired)


@pytest.fixture
def table(name: str) -> HashTable:
    return make(name, 100)


def put(table: HashTable, key: bytes, value: int = 0, now_ns: int = 0) -> bool:
    with table.stripe(key) as stripe:
        at = stripe.find(key)
        if at >= 0:
            stripe.write(at, stripe.read(at), FIELDS.pack(key, value))
            return True
        at = stripe.place(key, now_ns)
        if at >= 0:
            stripe.insert(at, FIELDS.pack(key, value))
        return at >= 0


def value_of(table: HashTable, key: bytes) -> int | None:
    with table.stripe(key) as stripe:
        at = stripe.find(key)
        raw = stripe.read(at) if at >= 0 else b""
    return FIELDS.unpack_from(raw)[1] if raw else None


def contents(table: HashTable) -> dict[bytes, int]:
    pairs = [FIELDS.unpack_from(raw) for raw in table.raws()]
    assert len(dict(pairs)) == len(pairs), "a key twice"
    return dict(pairs)


def keys_of(table: HashTable, stripe: Stripe) -> Iterator[bytes]:
    """Keys that belong to a stripe."""
    keys = (table.key(b"%d" % number) for number in itertools.count())
    return (key for key in keys if table.stripe(key) is stripe)


def full_stripe(table: HashTable, value: int) -> tuple[Stripe, list[bytes], bytes]:
    """A stripe in which one more key found no room, what it holds, and that key."""
    stripe = table.stripes[0]
    held: list[bytes] = []
    for key in keys_of(table, stripe):
        if not put(table, key, value):
            return stripe, held, key
        held.append(key)
    raise AssertionError


@pytest.mark.parametrize("keys", [1, 2, 7, 100, 1_000, 5_000, 33_000])
def test_it_holds_the_keys_it_was_made_for(name: str, keys: int) -> None:
    table = make(name, keys)
    assert all(put(table, table.key(b"%d" % number), number) for number in range(keys))
    stats = table.stats()
    assert (stats.used, stats.refusals, stats.evictions) == (keys, 0, 0)
    assert contents(table) == {table.key(b"%d" % number): number for number in range(keys)}


@pytest.mark.soak
@pytest.mark.parametrize("keys", [300_000, 1_000_000])
def test_it_holds_many_keys(name: str, keys: int) -> None:
    table, draw = make(name, keys), random.Random(keys)
    assert all(put(table, draw.randbytes(KEY_BYTES)) for _ in range(keys))
    assert (table.stats().used, table.stats().refusals) == (keys, 0)


def test_two_choices_fill_a_stripe_before_a_key_is_refused(name: str) -> None:
    table = make(name, 30_000)
    _, held, _ = full_stripe(table, 0)
    assert len(held) >= 0.9 * table.groups * GROUP_SLOTS


def churn(table: HashTable, operations: int) -> None:
    """Delete and insert at the table's full size; then all is found, and nothing has rotted."""
    chance = random.Random(3)
    held = [table.key(b"%d" % number) for number in range(100)]
    assert all(put(table, key) for key in held)
    for number in range(operations // 2):
        index = chance.randrange(len(held))
        assert table.remove(held[index])
        held[index] = chance.randbytes(KEY_BYTES)
        assert put(table, held[index], number)
    assert contents(table).keys() == set(held)
    assert table.stats().used == 100
    assert table.stats().refusals == 0


def test_deletion_does_not_rot(table: HashTable) -> None:
    churn(table, 20_000)


@pytest.mark.soak
@pytest.mark.timeout(600)
def test_deletion_does_not_rot_in_a_million_operations(table: HashTable) -> None:
    churn(table, 1_000_000)


def test_a_full_table_refuses_new_keys_and_keeps_the_old(table: HashTable) -> None:
    _, held, refused = full_stripe(table, 0)
    assert not put(table, refused)
    assert contents(table) == dict.fromkeys(held, 0)
    assert table.stats().refusals == 2
    assert all(put(table, key, 9) for key in held)  # what is there may still change


def test_room_is_made_by_what_has_expired_and_by_nothing_else(table: HashTable) -> None:
    _, held, key = full_stripe(table, 5)
    assert not put(table, key, now_ns=4)
    assert put(table, key, now_ns=5)
    assert table.stats().evictions == 1
    assert len(contents(table).keys() & set(held)) == len(held) - 1
    assert table.expire(5) == len(held) - 1
    assert contents(table) == {key: 0}
    assert (table.stats().used, table.stats().evictions) == (1, len(held))


def test_tidying_comes_round(table: HashTable) -> None:
    keys = [table.key(b"%d" % number) for number in range(100)]
    assert all(put(table, key, 5) for key in keys)
    gone = [table.expire_next(5) for _ in table.stripes]
    assert (sum(gone), table.stats().used) == (100, 0)
    assert max(gone) < 100


def test_removal(table: HashTable) -> None:
    key = table.key(b"one")
    assert not table.remove(key)
    put(table, key)
    assert table.remove(key)
    assert (value_of(table, key), table.stats().used) == (None, 0)


def test_hints_follow_what_other_processes_do(table: HashTable) -> None:
    one, two = table.key(b"one"), table.key(b"two")
    put(table, one, 1)
    assert table.hints[one] > 0

    def elsewhere() -> None:
        table.remove(one)
        put(table, two, 2)
        put(table, one, 3)

    assert exit_code(fork(elsewhere)) == 0
    assert (value_of(table, one), value_of(table, two)) == (3, 2)
    assert exit_code(fork(lambda: table.remove(one))) == 0
    assert value_of(table, one) is None


def test_hints_are_bounded(name: str) -> None:
    table = make(name, 10_000)
    for number in range(10_000):
        put(table, table.key(b"%d" % number))
    assert len(table.hints) <= 8192


def test_a_slot_damaged_in_any_byte_is_freed_counted_and_not_believed(table: HashTable) -> None:
    key = table.key(b"one")
    for byte in range(table.slot_bytes):
        for bit in (1, 0x80):
            before = table.stats()
            put(table, key, 7)
            with table.stripe(key) as stripe:
                at = stripe.find(key)
            table.segment.file[at + byte] ^= bit
            assert value_of(table, key) is None
            assert contents(table) == {}
            stats = table.stats()
            assert (stats.used, stats.damaged) == (0, before.damaged + 1)


def test_damage_makes_room(table: HashTable) -> None:
    _, held, key = full_stripe(table, 0)
    with table.stripe(held[0]) as stripe:
        for one in held:
            table.segment.file[stripe.find(one) + KEY_BYTES] ^= 1
    assert put(table, key)
    assert contents(table) == {key: 0}
    stats = table.stats()
    assert (stats.used, stats.damaged, stats.evictions) == (1, len(held), 0)


def test_a_damaged_tag_hides_no_slot_from_being_overwritten(table: HashTable) -> None:
    stripe = table.stripes[0]
    held = list(itertools.islice(keys_of(table, stripe), 20))
    assert all(put(table, key, 7) for key in held)
    for key in held:
        with stripe:
            table.segment.file[stripe._tag_offset(stripe.find(key))] = 0
    table.hints.clear()
    new = next(key for key in keys_of(table, stripe) if key not in held)
    assert put(table, new, 8)
    assert contents(table) == {**dict.fromkeys(held, 7), new: 8}
    assert table.stats().damaged == 1
    assert table.stats().used == 21


def test_tags_that_name_free_slots_are_cleared(table: HashTable) -> None:
    with table.stripes[0] as stripe:
        table.segment.file[stripe._tag_offset(stripe.offset(3))] = 9
    assert contents(table) == {}
    stats = table.stats()
    assert (stats.used, stats.damaged) == (0, 1)


def test_an_exception_in_a_transaction_undoes_it(table: HashTable) -> None:
    one, two = itertools.islice(keys_of(table, table.stripes[0]), 2)
    put(table, one, 1)

    class Bad(bytes):
        def __add__(self, other: object) -> bytes:
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError), table.stripes[0] as stripe:
        stripe.change([(stripe.find(one), b""), (stripe.place(two, 0), Bad(24))])
    assert contents(table) == {one: 1}
    assert table.stats().used == 1
    assert put(table, two, 2)  # the lock is free, the table works


def transaction(table: HashTable, one: bytes, two: bytes, three: bytes) -> None:
    """One slot changes, one goes, one comes; all in one stripe."""
    with table.stripe(one) as stripe:
        changes = [
            (stripe.find(one), FIELDS.pack(one, 11)),
            (stripe.find(two), b""),
            (stripe.place(three, 0), FIELDS.pack(three, 33)),
        ]
        stripe.change(changes)


@pytest.mark.parametrize("torn", [0, 1, 8, 20, 24, 10**6])
def test_who_dies_at_any_store_has_changed_all_or_nothing(table: HashTable, torn: int) -> None:
    one, two, three = itertools.islice(keys_of(table, table.stripes[0]), 3)
    for stores in itertools.count():
        put(table, one, 1)
        put(table, two, 2)
        table.remove(three)
        died = cut(table, stores, torn, lambda: transaction(table, one, two, three))
        if not died:
            break
        assert contents(table) == {one: 1, two: 2}
        assert table.stats().used == 2
    assert stores == 8
    assert contents(table) == {one: 11, three: 33}
    assert table.stats().damaged == 0


def test_who_dies_in_the_repair_leaves_it_to_the_next(table: HashTable) -> None:
    one, two, three = itertools.islice(keys_of(table, table.stripes[0]), 3)
    put(table, one, 1)
    put(table, two, 2)
    for stores in itertools.count():
        with pytest.raises(Cut), fated(table, Fate(6, 10, fall)):
            transaction(table, one, two, three)
        is_cut = cut(table, stores, 5, table.stripes[0]._repair)
        assert contents(table) == {one: 1, two: 2}
        if not is_cut:
            break
    assert stores > 5


@pytest.mark.parametrize("torn", [0, 13])
def test_53_the_kernel_passes_the_lock_of_who_was_killed_at_any_store(
    table: HashTable, torn: int
) -> None:
    one, two, three = itertools.islice(keys_of(table, table.stripes[0]), 3)
    kills = 0
    for stores in itertools.count():
        put(table, one, 1)
        put(table, two, 2)
        table.remove(three)
        if not killed(table, stores, torn, lambda: transaction(table, one, two, three)):
            break
        kills += 1
        assert contents(table) == {one: 1, two: 2}
        assert table.stats().repairs == kills
    assert kills == 8
    assert contents(table) == {one: 11, three: 33}


def test_a_slot_that_a_dead_holder_named_wrongly_breaks_the_lock(table: HashTable) -> None:
    key = table.key(b"one")
    put(table, key)
    stripe = table.stripe(key)
    assert killed(table, 2, 0, lambda: put(table, key, 5))
    table.segment.file[stripe._undo : stripe._undo + 8] = struct.pack("=Q", 3)
    with pytest.raises(ShmError, match="undo image 0 is of no slot"):
        value_of(table, key)
    with pytest.raises(ShmError, match="could not be repaired"):
        value_of(table, key)


def test_repaired_is_told_of_damage_and_of_dead_holders(name: str) -> None:
    told: list[int] = []
    table = HashTable.create(
        name, KIND, FIELDS.size, 100, is_expired, lambda stripe: told.append(stripe.index)
    )
    key = table.key(b"one")
    put(table, key)
    index = table.stripe(key).index
    assert killed(table, 2, 0, lambda: put(table, key, 5))
    assert (value_of(table, key), told) == (0, [index])
    with table.stripe(key) as stripe:
        table.segment.file[stripe.find(key) + KEY_BYTES] ^= 1
    assert (value_of(table, key), told) == (None, [index, index])


def test_slots_have_numbers(table: HashTable) -> None:
    stripe = table.stripes[-1]
    count = table.groups * GROUP_SLOTS
    offsets = [stripe.offset(number) for number in range(count)]
    assert [stripe.ordinal(at) for at in offsets] == list(range(count))
    assert all(stripe._is_slot(at) for at in offsets)
    assert not stripe._is_slot(offsets[0] - 1)
    assert not stripe._is_slot(offsets[-1] + table.slot_bytes)


def test_keys_are_of_their_parts_and_of_the_table(table: HashTable) -> None:
    assert table.key(b"a", b"bc") != table.key(b"ab", b"c")
    assert table.key(b"a") != table.key(b"a", b"")
    other = segment_name(f"test-table-{os.getpid()}", "other")
    try:
        stranger = make(other, 100)
        assert stranger.key(b"a") != table.key(b"a")
    finally:
        unlink(other)
    kin = HashTable.create(other, KIND, FIELDS.size, 100, secret=table.secret)
    assert kin.key(b"a") == table.key(b"a")
    kin.segment.close()


def test_attached_it_is_the_same_table(name: str, table: HashTable) -> None:
    other = HashTable.attach(name, KIND, is_expired)
    key = table.key(b"one")
    put(table, key, 1)
    assert (other.key(b"one"), value_of(other, key)) == (key, 1)


def test_refusals(name: str) -> None:
    with pytest.raises(SegmentMissingError):
        HashTable.attach(name, KIND)
    with pytest.raises(ShmError, match="at least 1"):
        make(name, 0)
    make(name, 100)
    with pytest.raises(SegmentRefusedError, match="layout version 1, this program has 2"):
        HashTable.attach(name, Kind("test", 2))
    with pytest.raises(SegmentRefusedError, match="holds a 'test' table"):
        HashTable.attach(name, Kind("rates", 1))
    with pytest.raises(SegmentInUseError):
        make(name, 100)


def test_a_size_that_does_not_fit_its_parameters_is_refused(name: str) -> None:
    from shm.segment import Segment

    segment = Segment.create(name, KIND, 4096, (8, 3, 28, 0))
    segment.seal()
    with pytest.raises(SegmentRefusedError, match="size does not fit"):
        HashTable.attach(name, KIND)
    segment.close()
    for parameters in ((0, 1, 28, 0), (3, 1, 28, 0), (8, 0, 28, 0)):
        segment = Segment.create(name, KIND, 64, parameters)
        segment.seal()
        with pytest.raises(SegmentRefusedError, match="size does not fit"):
            HashTable.attach(name, KIND)
        segment.close()


def test_memory_a_key(name: str) -> None:
    table = make(name, 100_000)
    body = table.stats().size_bytes - HEADER_BYTES
    assert body / 100_000 < 1.21 * (table.slot_bytes + 1)
