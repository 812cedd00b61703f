"""Token buckets: arithmetic, several at once, changed limits, clocks; exact over processes."""

from __future__ import annotations

import itertools
import os
import struct
from collections.abc import Iterator

import pytest

from shm.bucket import FIELDS_BYTES, LABEL_BYTES, MAX_TOKENS
from shm.errors import SegmentMissingError, ShmError
from shm.rates import LATE_NS, Ask, Limit, RateTable, Verdict
from shm.segment import segment_name, unlink
from shm.stripe import stripe_bytes
from shm.table import _parameters
from tests.shm.cuts import cut, exit_code, fork, killed

SECOND = 1_000_000_000
START = 5_000 * SECOND
LIMIT = Limit(capacity=10, refill=4, interval_ns=SECOND)


@pytest.fixture
def instance() -> Iterator[str]:
    instance = f"test-rates-{os.getpid()}"
    yield instance
    for kept in (False, True):
        unlink(segment_name(instance, "rates", kept=kept))


@pytest.fixture
def table(instance: str) -> RateTable:
    return RateTable.create(instance, 100)


def ask(table: RateTable, cost: int = 1, name: bytes = b"one", limit: Limit = LIMIT) -> Ask:
    return Ask(table.key(name), name, limit, cost)


def level(table: RateTable, now_ns: int = START, name: bytes = b"one") -> int | None:
    row = table.peek(table.key(name), now_ns)
    return None if row is None else row.level


def test_a_new_bucket_is_full_and_says_when_it_fills(table: RateTable) -> None:
    assert table.take(ask(table, 3), START) == Verdict(True, 7, 0, SECOND, True)
    later = START + SECOND // 4
    assert table.take(ask(table, 7), later) == (True, 0, 0, SECOND * 3 // 4, True)


def test_a_refusal_takes_nothing_and_says_when_to_come_back(table: RateTable) -> None:
    table.take(ask(table, 9), START)
    assert table.take(ask(table, 2), START) == (False, 1, SECOND, SECOND, True)
    assert table.take(ask(table, 6), START) == (False, 1, 2 * SECOND, SECOND, True)
    assert table.take(ask(table, 6), START + 2 * SECOND - 1).allowed is False
    assert table.take(ask(table, 6), START + 2 * SECOND).remaining == 3


def test_a_cost_above_the_capacity_never_fits(table: RateTable) -> None:
    assert table.take(ask(table, 11), START) == (False, 10, 0, 0, True)
    assert level(table) is None
    table.take(ask(table, 10), START)
    assert table.take(ask(table, 11), START) == (False, 0, 3 * SECOND, SECOND, True)


@pytest.mark.parametrize("cost", [-1, -10])
def test_a_negative_cost_gives_no_tokens(table: RateTable, cost: int) -> None:
    assert not table.take(ask(table, cost), START).allowed
    table.take(ask(table, 5), START)
    assert not table.take(ask(table, cost), START).allowed
    assert level(table) == 5


def test_cost_0_asks_for_one_token_and_takes_none(table: RateTable) -> None:
    assert table.take(ask(table, 0), START) == (True, 10, 0, 0, True)
    table.take(ask(table, 10), START)
    assert table.take(ask(table, 0), START) == (False, 0, SECOND, SECOND, True)


def test_refills_are_whole_and_at_the_anchor(table: RateTable) -> None:
    table.take(ask(table, 10), START)
    levels = [level(table, START + int(at * SECOND)) for at in (0.99, 1, 1.99, 2, 2.99, 3, 99)]
    assert levels == [0, 4, 4, 8, 8, 10, 10]
    # Full for long, yet its refills stay at whole seconds after the first use.
    assert table.take(ask(table, 8), START + 99 * SECOND + 1).next_ns == SECOND - 1


def test_settling_charges_and_gives_back(table: RateTable) -> None:
    one = ask(table, 0)
    table.take(one, START)
    table.settle(one, START, 25)
    assert level(table) == -15
    assert table.take(one, START) == (False, 0, 4 * SECOND, SECOND, True)
    assert [level(table, START + at * SECOND) for at in (3, 4, 7)] == [-3, 1, 10]
    table.settle(one, START, -3)
    assert level(table) == -12
    table.settle(one, START, -1_000)
    assert level(table) == 10


def test_debt_that_is_not_carried_stops_at_0(table: RateTable) -> None:
    one = ask(table, 0, limit=Limit(10, 4, SECOND, carry_debt=False))
    table.take(one, START)
    table.settle(one, START, 25)
    assert level(table) == 0


def test_settling_a_bucket_that_is_gone(table: RateTable) -> None:
    table.settle(ask(table), START, -5)
    table.settle(ask(table), START, 0)
    assert level(table) is None
    table.settle(ask(table), START, 12)
    assert level(table) == -2


def test_numbers_saturate(table: RateTable) -> None:
    one = ask(table, 0, limit=Limit(MAX_TOKENS, MAX_TOKENS, 1))
    table.take(one, START)
    table.settle(one, START, 2**80)
    table.settle(one, START, 2**80)
    assert level(table) == -MAX_TOKENS
    assert table.take(one, START + 2**61).remaining == MAX_TOKENS
    assert table.take(one._replace(cost=2**70), START + 2**61).allowed is False


@pytest.mark.parametrize(
    "numbers",
    [(0, 1, 1), (1, 0, 1), (1, 2, 1), (1, 1, 0), (2**63, 1, 1), (1, 1, 2**63), (-1, -1, -1)],
)
def test_limits_out_of_range_are_refused(numbers: tuple[int, int, int]) -> None:
    with pytest.raises(ShmError, match="limit"):
        Limit(*numbers)


def test_take_all_takes_all_or_nothing(table: RateTable) -> None:
    names = [b"%d" % number for number in range(20)]
    asks = [ask(table, 6, name) for name in names]
    assert all(verdict.allowed for verdict in table.take_all(asks, START))
    assert {level(table, name=name) for name in names} == {4}
    mixed = [ask(table, 4, names[0]), ask(table, 5, names[1]), ask(table, 0, names[2])]
    verdicts = table.take_all(mixed, START)
    assert [verdict.allowed for verdict in verdicts] == [True, False, True]
    assert [verdict.remaining for verdict in verdicts] == [4, 4, 4]
    assert {level(table, name=name) for name in names} == {4}
    assert table.take_all([], START) == []


def test_asks_of_one_key_add_up(table: RateTable) -> None:
    verdicts = table.take_all([ask(table, 6), ask(table, 6)], START)
    assert [verdict.allowed for verdict in verdicts] == [True, False]
    assert level(table) == 10
    verdicts = table.take_all([ask(table, 6), ask(table, 3), ask(table, 0)], START)
    assert [verdict.remaining for verdict in verdicts] == [4, 1, 1]
    assert level(table) == 1


def full(table: RateTable) -> tuple[list[bytes], bytes]:
    """Names in a stripe without room, and one that found none; all buckets are used up."""
    stripe = table.table.stripes[0]
    held: list[bytes] = []
    for number in itertools.count():
        name = b"%d" % number
        if table.table.stripe(table.key(name)) is stripe:
            if not table.take(ask(table, 10, name), START).known:
                return held, name
            held.append(name)
    raise AssertionError


def test_a_full_table_knows_no_new_key(table: RateTable) -> None:
    held, new = full(table)
    refusals = table.stats().refusals
    assert table.take(ask(table, 1, new), START) == (False, 0, 0, 0, False)
    stripe = table.table.stripe(table.key(new))
    names = (b"other %d" % number for number in itertools.count())
    other = next(name for name in names if table.table.stripe(table.key(name)) is not stripe)
    verdicts = table.take_all([ask(table, 0, other), ask(table, 1, new)], START)
    assert [(verdict.allowed, verdict.known) for verdict in verdicts] == [
        (True, True),
        (False, False),
    ]
    table.settle(ask(table, 1, new), START, 5)
    assert level(table, name=new) is None
    assert table.stats().refusals == refusals + 3
    assert {level(table, name=name) for name in held} == {0}


def test_a_full_bucket_makes_room(table: RateTable) -> None:
    held, new = full(table)
    now_ns = START + 3 * SECOND
    assert table.take(ask(table, 1, new), now_ns).remaining == 9
    assert table.stats().evictions == 1
    # Two new keys at once: making room for the second frees neither the first nor one of the asks.
    names = [held[0], b"n1", b"n2"]
    verdicts = table.take_all([ask(table, 1, name) for name in names], now_ns)
    if all(verdict.known for verdict in verdicts):
        assert [level(table, now_ns, name) for name in names] == [9, 9, 9]


def test_an_ask_whose_bucket_makes_room_for_another_is_not_lost(table: RateTable) -> None:
    held, new = full(table)
    for name in held[1:]:
        table.settle(ask(table, 0, name), START, 1_000)
    now_ns = START + 3 * SECOND  # only the first is full: it has to go for the new one
    for names in ([held[0], new], [new, held[0]]):
        verdicts = table.take_all([ask(table, 1, name) for name in names], now_ns)
        known = [verdict.known for verdict in verdicts]
        assert known.count(True) >= 1
        if not all(known):
            assert {level(table, now_ns, name) for name in names} <= {None, 10}


def test_a_changed_limit_keeps_the_level(table: RateTable) -> None:
    table.take(ask(table, 4), START)
    wide, narrow = Limit(100, 4, SECOND), Limit(5, 5, SECOND)
    assert table.take(ask(table, 1, limit=wide), START).remaining == 5
    assert table.take(ask(table, 1, limit=narrow), START).remaining == 4
    row = table.peek(table.key(b"one"), START)
    assert row is not None
    assert row.limit == narrow
    table.settle(ask(table, 1, limit=wide), START, -90)  # an answer to before the change
    assert table.peek(table.key(b"one"), START).limit == narrow  # type: ignore[union-attr]
    assert level(table) == 5


def test_a_full_bucket_stays_full_under_another_limit(table: RateTable) -> None:
    table.take(ask(table, 1), START)
    later = START + SECOND
    assert table.take(ask(table, 0, limit=Limit(100, 4, SECOND)), later).remaining == 100


def test_another_interval_anchors_anew(table: RateTable) -> None:
    table.take(ask(table, 10), START)
    later = START + SECOND - 1  # nothing came by the old limit; nor does it all at once by the new
    assert table.take(ask(table, 1, limit=Limit(10, 1, 1000)), later).retry_ns == 1000


def test_another_refill_keeps_the_anchor(table: RateTable) -> None:
    table.take(ask(table, 10), START)
    later = START + SECOND - 1
    assert table.take(ask(table, 1, limit=Limit(10, 1, SECOND)), later).retry_ns == 1


def test_debt_policy_may_change(table: RateTable) -> None:
    forgiving = Limit(10, 4, SECOND, carry_debt=False)
    table.take(ask(table, 1), START)
    assert table.take(ask(table, 1, limit=forgiving), START).remaining == 8
    assert table.peek(table.key(b"one"), START).limit == forgiving  # type: ignore[union-attr]


def test_a_call_that_comes_late_is_not_a_clock_set_back(table: RateTable) -> None:
    limit = Limit(10, 1, 1_000)
    table.take(ask(table, 10, limit=limit), START)
    table.take(ask(table, 1, limit=limit), START + 5_000)
    # Another process, whose time was read before: no refill is counted twice.
    assert table.take(ask(table, 4, limit=limit), START + 1).remaining == 0
    assert table.take(ask(table, 1, limit=limit), START + 5_999).allowed is False
    assert table.take(ask(table, 1, limit=limit), START + 6_000).remaining == 0


def test_a_clock_set_back_gives_nothing_and_stalls_for_one_interval(table: RateTable) -> None:
    table.take(ask(table, 10), START)
    back = START - LATE_NS - 1
    for _ in range(5):
        assert table.take(ask(table, 1), back).allowed is False
    assert level(table, back) == 0
    table.settle(ask(table), back, 0)  # whoever changes the bucket counts by the new clock
    assert [level(table, back + at) for at in (SECOND - 1, SECOND)] == [0, 4]


def test_a_clock_set_back_a_little_stalls_that_much_longer(table: RateTable) -> None:
    table.take(ask(table, 10), START)
    back = START - LATE_NS
    assert table.take(ask(table, 1), back).retry_ns == LATE_NS + SECOND
    assert table.take(ask(table, 1), START + SECOND).allowed is True


def test_rows_and_labels(table: RateTable) -> None:
    long = b"route:a-rather-long-name/" + b"x" * 50 + b"/alice@example.com"
    table.take(ask(table, 1), START)
    table.take(Ask(table.key(long), long, LIMIT, 2), START)
    rows = {row.level: row for row in table.rows(START)}
    assert rows[9].label == b"one"
    assert rows[9].used_seconds == START // SECOND
    assert rows[9].limit == LIMIT
    label = rows[8].label
    assert len(label) == LABEL_BYTES
    assert label.startswith(long[:15])
    assert label.endswith(b"~" + long[-15:])


def test_reset(table: RateTable) -> None:
    assert table.reset(table.key(b"one")) is False
    table.take(ask(table, 10), START)
    assert table.reset(table.key(b"one")) is True
    assert table.take(ask(table, 1), START).remaining == 9


def test_a_damaged_bucket_is_full_again_and_counted(table: RateTable) -> None:
    for byte in range(96):
        table.take(ask(table, 4), START)
        stripe = table.table.stripe(table.key(b"one"))
        with stripe:
            table.table.segment.file[stripe.find(table.key(b"one")) + byte] ^= 0xFF
        assert table.take(ask(table, 1), START).remaining == 9
        assert len(list(table.rows(START))) == 1
        assert table.stats().damaged == byte + 1
        table.reset(table.key(b"one"))


def test_segments(instance: str) -> None:
    with pytest.raises(SegmentMissingError):
        RateTable.attach(instance)
    table = RateTable.create(instance, 100)
    table.take(ask(table, 4), START)
    assert level(RateTable.attach(instance)) == 6
    table.close()
    with pytest.raises(SegmentMissingError):
        RateTable.attach(instance)


def test_a_million_keys_fit_in_128_megabytes(instance: str) -> None:
    stripes, groups, slot_bytes, _ = _parameters(FIELDS_BYTES, 1_000_000)
    assert stripes * stripe_bytes(groups, slot_bytes) <= 112_000_000
    table = RateTable.create(instance, 100_000)
    assert table.stats().size_bytes <= 11_300_000
    table.close()


def test_who_dies_in_a_take_has_taken_or_not(table: RateTable) -> None:
    kinds = [
        lambda: table.take(ask(table, 1, b"new"), START),
        lambda: table.take(ask(table, 1, b"old"), START),
        lambda: table.settle(ask(table, 1, b"old"), START, 1),
        lambda: table.take(ask(table, 1, b"old", Limit(10, 2, SECOND)), START),
    ]
    for torn, action in itertools.product((0, 9, 96), kinds):
        for stores in itertools.count():
            table.reset(table.key(b"new"))
            table.reset(table.key(b"old"))
            table.take(ask(table, 4, b"old"), START)
            if not cut(table.table, stores, torn, action):
                break
            assert (level(table, name=b"new"), level(table, name=b"old")) == (None, 6)
        assert stores >= 4
    assert table.stats().damaged == 0


def test_who_dies_in_take_all_has_taken_at_most_his_own(table: RateTable) -> None:
    names = [b"%d" % number for number in range(6)]
    states = set()
    for stores in itertools.count():
        for name in names:
            table.reset(table.key(name))
        died = cut(
            table.table, stores, 5, lambda: table.take_all([ask(table, 3, n) for n in names], START)
        )
        levels = [level(table, name=name) for name in names]
        assert set(levels) <= {None, 10, 7}
        states.add(levels.count(7))
        if not died:
            break
    assert states == set(range(7))


@pytest.mark.parametrize("torn", [0, 50])
def test_53_who_is_killed_at_any_store_of_a_take(table: RateTable, torn: int) -> None:
    table.take(ask(table, 1), START)
    for stores in itertools.count():
        before = level(table)
        if not killed(table.table, stores, torn, lambda: table.take(ask(table, 1), START)):
            break
        assert level(table) == before == 9
    assert stores == table.stats().repairs == 4
    assert level(table) == 8


def admitted(instance: str, processes: int, checks: int, capacity: int) -> int:
    """How many of all checks of one bucket were admitted, summed over the processes."""
    table = RateTable.create(instance, 100)
    one = ask(table, 1, limit=Limit(capacity, 1, 10**6 * SECOND))
    ends = [os.pipe() for _ in range(processes)]

    def check(end: int) -> None:
        count = sum(table.take(one, START).allowed for _ in range(checks))
        os.write(end, struct.pack("=Q", count))

    pids = [fork(lambda end=end: check(end)) for _, end in ends]  # type: ignore[misc]
    counts = [struct.unpack("=Q", os.read(end, 8))[0] for end, _ in ends]
    assert [exit_code(pid) for pid in pids] == [0] * processes
    for pair in ends:
        os.close(pair[0])
        os.close(pair[1])
    assert table.stats().timeouts == 0
    assert level(table) == capacity - sum(counts)
    table.close()
    return sum(counts)


@pytest.mark.parametrize("capacity", [1_000, 30_000, 10**9])
def test_4_processes_admit_exactly_the_limit(instance: str, capacity: int) -> None:
    assert admitted(instance, 4, 10_000, capacity) == min(capacity, 40_000)


def test_4_processes_admit_exactly_the_limit_of_400_000_checks(instance: str) -> None:
    assert admitted(instance, 4, 100_000, 123_457) == 123_457


def test_4_processes_refill_exactly(instance: str) -> None:
    """Each interval gives its tokens once, whoever comes first and however far others lag."""
    table = RateTable.create(instance, 100)
    one = ask(table, 1, limit=Limit(50, 50, SECOND // 20))
    ends = os.pipe()

    def check() -> None:
        count = 0
        for step in range(2_000):
            count += table.take(one, START + step * SECOND // 400).allowed
        os.write(ends[1], struct.pack("=Q", count))

    pids = [fork(check) for _ in range(4)]
    assert [exit_code(pid) for pid in pids] == [0] * 4
    counts = struct.unpack("=4Q", os.read(ends[0], 32))
    row = table.peek(one.key, START + 1_999 * SECOND // 400)
    assert row is not None
    # 100 intervals: 50 at first, and 50 at most with each of the 99 refills.
    assert sum(counts) + row.level <= 50 * 100
    os.close(ends[0])
    os.close(ends[1])


def test_two_of_which_one_only_asks(table: RateTable) -> None:
    both = ask(table, 1, b"one"), ask(table, 0, b"two")
    assert [one.remaining for one in table.take_all(both, START)] == [9, 10]
    assert [one.remaining for one in table.take_all(both, START)] == [8, 10]
    table.settle(both[1], START, 13)
    assert [one.allowed for one in table.take_all(both, START)] == [True, False]
    assert (level(table, name=b"one"), level(table, name=b"two")) == (8, -3)
    # A refill, and another limit, are written although nothing is taken.
    later = START + SECOND
    assert [one.remaining for one in table.take_all(both, later)] == [9, 1]
    wider = both[0], ask(table, 0, b"two", Limit(20, 4, SECOND))
    assert [one.remaining for one in table.take_all(wider, later)] == [8, 1]
    row = table.peek(table.key(b"two"), later)
    assert row is not None
    assert (row.level, row.limit.capacity) == (1, 20)
