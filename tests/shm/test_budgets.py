"""Budgets against a model of plain dicts, against dying processes, and against damage."""

from __future__ import annotations

import itertools
import mmap
import os
import random
import signal
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from shm.budget_slots import LABEL_BYTES, MAX_AMOUNT, MAX_SPENT, SLOT, window_now
from shm.budgets import Ask, BudgetLimit, BudgetRow, BudgetTable, Refused, Reservation
from shm.errors import ShmError, TableFullError
from shm.stripe import Stripe
from tests.shm.cuts import cut

HOUR = 3600 * 10**9
NOW = 1_000_000 * HOUR
TTL = HOUR
BLOCK = BudgetLimit(100, HOUR, blocks=True)
AUDIT = BudgetLimit(100, HOUR, blocks=False)
FOREVER = BudgetLimit(100, 0, blocks=True)


@pytest.fixture
def table() -> Iterator[BudgetTable]:
    made = BudgetTable.create(f"test-budgets-{os.getpid()}", 1000)
    yield made
    made.close()


def reserve(
    table: BudgetTable,
    amount: int = 0,
    limit: BudgetLimit = BLOCK,
    now: int = NOW,
    name: bytes = b"k",
) -> Reservation | None:
    return table.reserve(table.key(name), name, limit, amount, now, TTL)


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


def test_the_crossing_request_passes_and_the_next_is_refused(table: BudgetTable) -> None:
    spend(table, 99)
    spend(table, 50)
    assert spent(table) == 149
    assert reserve(table) is None


def test_exactly_spent_is_exceeded(table: BudgetTable) -> None:
    spend(table, 100)
    assert reserve(table) is None


def test_an_estimate_is_held_and_replaced_by_the_cost(table: BudgetTable) -> None:
    first = reserve(table, 60)
    assert first is not None
    assert reserve(table, 41) is None
    second = reserve(table, 40)
    assert second is not None
    assert reserve(table) is None  # nothing is left, though nothing is spent
    table.refund(second)
    standing = table.commit(first, 70, NOW)
    assert (standing.spent, standing.reserved, standing.exceeded) == (70, 0, False)
    assert reserve(table, 30) is not None


def test_an_audited_budget_never_refuses(table: BudgetTable) -> None:
    for _ in range(3):
        made = reserve(table, 80, AUDIT)
        assert made is not None
        table.commit(made, 80, NOW)
    standing = table.standing(table.key(b"k"), NOW)
    assert standing is not None
    assert (standing.spent, standing.exceeded) == (240, True)


def test_a_handle_is_settled_once(table: BudgetTable) -> None:
    made, other = reserve(table, 10), reserve(table, 10)
    assert made is not None
    assert other is not None
    first = table.commit(made, 5, NOW)
    assert table.commit(made, 5, NOW) == first
    table.refund(made)
    table.refund(other)
    table.refund(other)
    table.commit(other, 5, NOW)
    assert (spent(table), reserved(table)) == (5, 0)


@pytest.mark.parametrize("how", ["deadline", "dead"])
def test_what_was_returned_is_charged_all_the_same_and_once(table: BudgetTable, how: str) -> None:
    made = reserve(table, 10)
    assert made is not None
    if how == "dead":
        in_child(lambda: reserve(table, 20))
        assert reserved(table) == 30
        assert table.release_dead(NOW) == 1
        assert reserved(table) == 10
    assert table.release_dead(NOW + TTL) == 1
    assert table.release_dead(NOW + TTL) == 0
    assert reserved(table) == 0
    table.commit(made, 7, NOW)
    table.commit(made, 7, NOW)
    assert (spent(table), reserved(table)) == (7, 0)


def test_one_slot_holds_all_that_a_process_reserves_of_a_budget(table: BudgetTable) -> None:
    made = [reserve(table, 5) for _ in range(10)]
    assert table.stats().used == 2
    in_child(lambda: reserve(table, 5))
    assert (table.stats().used, reserved(table)) == (3, 55)
    for one in made:
        assert one is not None
        table.refund(one)
    assert (table.stats().used, reserved(table)) == (3, 5)
    assert table.release_dead(NOW + TTL) == 1
    assert (table.stats().used, reserved(table)) == (1, 0)


def test_each_reservation_ends_at_its_own_deadline(table: BudgetTable) -> None:
    first, second = reserve(table, 10), reserve(table, 20, now=NOW + TTL // 2)
    assert first is not None
    assert second is not None
    assert reserve(table, 71, now=NOW + TTL - 1) is None
    third = reserve(table, 80, now=NOW + TTL)  # the first's is past, and its window
    assert third is not None
    assert reserved(table) == 100
    table.refund(first)
    assert reserved(table) == 100
    table.refund(second)
    assert reserved(table) == 80


def test_another_process_frees_a_hold_only_when_all_of_it_is_overdue(table: BudgetTable) -> None:
    first, second = reserve(table, 10), reserve(table, 20, now=NOW + TTL // 2)
    in_child(lambda: table.release_dead(NOW + TTL))
    assert reserved(table) == 30
    in_child(lambda: table.release_dead(NOW + TTL * 3 // 2))
    assert reserved(table) == 0
    # Its owner learns of it when it settles: nothing of the next hold is given back.
    third = reserve(table, 40)
    assert third is not None
    for one in (first, second):
        assert one is not None
        table.commit(one, 1, NOW)
    assert (spent(table), reserved(table)) == (2, 40)


def test_a_child_answers_for_none_of_its_parents_reservations(table: BudgetTable) -> None:
    made = reserve(table, 10)
    in_child(lambda: reserve(table, 20, now=NOW + 2 * TTL))
    assert made is not None
    assert reserved(table) == 30
    table.refund(made)
    assert reserved(table) == 20


def test_empty_holds_make_room() -> None:
    table = BudgetTable.create(f"test-empty-{os.getpid()}", 1)
    try:
        number = 0
        while not table.stats().evictions:
            made = reserve(table, 1, name=b"%d" % number)
            assert made is not None
            table.commit(made, 1, NOW)
            number += 1
        assert len(list(table.rows())) == number
    finally:
        table.close()


@pytest.mark.parametrize("torn", [0, 3])
def test_cut_at_any_store_an_operation_is_whole_or_nothing(table: BudgetTable, torn: int) -> None:
    cost = 3
    first = reserve(table, 10)
    assert first is not None
    for stores in itertools.count():
        held, before = reserved(table), spent(table)
        is_cut = cut(table.table, stores, torn, lambda: reserve(table, 2, AUDIT))
        assert reserved(table) - held in ({0, 2} if is_cut else {2})
        made = reserve(table, 5, AUDIT)
        assert made is not None
        held = reserved(table)
        is_cut |= cut(table.table, stores, torn, partial(table.commit, made, cost, NOW))
        change = spent(table) - before, reserved(table) - held
        assert change in {(0, 0), (cost, -5)}
        if not is_cut:
            break
    assert stores > 5
    assert table.release_dead(NOW + TTL) > 0
    assert reserved(table) == 0


def test_all_or_none(table: BudgetTable) -> None:
    spend(table, 95, name=b"full")
    names = [b"a", b"b", b"full", b"c"]
    asks = [Ask(table.key(name), name, BLOCK, 10) for name in names]
    refused = table.reserve_all(asks, NOW, TTL)
    assert isinstance(refused, Refused)
    assert refused.number == 2
    assert refused.standing.spent == 95
    assert [reserved(table, name) for name in names] == [0, 0, 0, 0]
    made = table.reserve_all([ask for ask in asks if ask.label != b"full"], NOW, TTL)
    assert isinstance(made, list)
    assert [reserved(table, name) for name in names] == [10, 10, 0, 10]


def test_windows_are_aligned_to_the_epoch(table: BudgetTable) -> None:
    inside = NOW + HOUR // 2
    spend(table, 100, now=inside)
    standing = table.standing(table.key(b"k"), inside)
    assert standing is not None
    assert (standing.window_start_ns, standing.window_end_ns) == (NOW, NOW + HOUR)
    assert reserve(table, now=NOW + HOUR - 1) is None
    assert reserve(table, now=NOW + HOUR) is not None
    assert spent(table, NOW + HOUR) == 0


def test_a_clock_that_is_set_back_resets_nothing(table: BudgetTable) -> None:
    spend(table, 100)
    for step in (1, HOUR, 1000 * HOUR):
        assert reserve(table, now=NOW - step) is None
        assert spent(table, NOW - step) == 100
    spend(table, 3, AUDIT, now=NOW - 5 * HOUR)
    assert spent(table, NOW) == 103


def test_a_window_without_end(table: BudgetTable) -> None:
    spend(table, 100, FOREVER)
    assert reserve(table, 0, FOREVER, NOW + 10**6 * HOUR) is None
    standing = table.standing(table.key(b"k"), NOW)
    assert standing is not None
    assert standing.window_end_ns == 0


@pytest.mark.parametrize(
    ("before", "after", "at", "left"),
    [
        ((50, 0, HOUR), 24 * HOUR, NOW % HOUR, 50),
        ((50, NOW, 24 * HOUR), HOUR, NOW + 3 * HOUR, 50),
        ((50, NOW, HOUR), 24 * HOUR, NOW + 2 * HOUR, 0),
        ((50, 0, 0), HOUR, NOW, 50),
        ((50, NOW, HOUR), 0, NOW, 50),
        ((50, NOW, HOUR), 0, NOW + HOUR, 0),
    ],
)
def test_a_window_of_another_length_forgets_nothing_that_runs(
    before: tuple[int, int, int], after: int, at: int, left: int
) -> None:
    assert window_now(*before, after, at)[0] == left


def test_the_end_of_an_old_request_does_not_bring_its_limit_back(table: BudgetTable) -> None:
    old = reserve(table, 10)
    assert old is not None
    larger = BudgetLimit(1000, HOUR, blocks=True)
    assert reserve(table, 0, larger) is not None
    assert table.commit(old, 500, NOW).limit == 1000


def test_amounts_stop_at_the_end_of_the_range(table: BudgetTable) -> None:
    huge = BudgetLimit(MAX_AMOUNT, HOUR, blocks=False)
    made = [reserve(table, 2**70, huge) for _ in range(4)]
    assert reserved(table) == MAX_SPENT
    for one in made:
        assert one is not None
        table.commit(one, 2**62, NOW)
    assert (spent(table), reserved(table)) == (MAX_SPENT, 0)


@pytest.mark.parametrize("amount", [0, -1, MAX_AMOUNT + 1])
def test_limits_out_of_range_are_refused(amount: int) -> None:
    with pytest.raises(ShmError):
        BudgetLimit(amount, HOUR, blocks=True)


def test_a_full_table_refuses_and_keeps_what_it_has() -> None:
    table = BudgetTable.create(f"test-full-{os.getpid()}", 1)
    try:
        made = fill(table, NOW)
        assert table.stats().refusals == 1
        assert {row.spent for row in table.rows()} == {1}
        assert len(list(table.rows())) == made
        # Of a window that is over nothing is worth keeping.
        for number in range(made // 2):
            spend(table, 2, now=NOW + HOUR, name=b"later %d" % number)
        assert table.stats().evictions > 0
        assert sum(row.spent == 2 for row in table.rows()) == made // 2
    finally:
        table.close()


def fill(table: BudgetTable, now: int) -> int:
    """How many budgets there is room for."""
    number = 0
    while True:
        try:
            spend(table, 1, now=now, name=b"%d" % number)
        except TableFullError:
            return number
        number += 1


def test_labels_are_cut(table: BudgetTable) -> None:
    made = table.reserve(table.key(b"k"), b"x" * 300, BLOCK, 0, NOW, TTL)
    assert made is not None
    assert [row.label for row in table.rows()] == [b"x" * LABEL_BYTES]


def test_reset(table: BudgetTable) -> None:
    held = reserve(table, 10)
    spend(table, 100, AUDIT)
    assert held is not None
    assert table.reset(table.key(b"k"), NOW)
    assert not table.reset(table.key(b"unknown"), NOW)
    assert (spent(table), reserved(table)) == (0, 10)
    assert reserve(table) is not None


# --- journal -------------------------------------------------------------------------------


def test_what_changed_since(table: BudgetTable) -> None:
    rows, marks = table.changed()
    assert rows == []
    spend(table, 1, name=b"a")
    reserve(table, 5, name=b"b")  # nothing is spent: nothing to write
    rows, marks = table.changed(marks)
    assert [(row.label, row.spent) for row in rows] == [(b"a", 1)]
    spend(table, 1, name=b"b")
    rows, marks = table.changed(marks)
    assert [row.label for row in rows] == [b"b"]
    table.reset(table.key(b"a"), NOW)
    rows, marks = table.changed(marks)
    assert [(row.label, row.spent, row.resets) for row in rows] == [(b"a", 0, 1)]
    assert table.changed(marks)[0] == []


def test_restore_takes_the_later_state_in_any_order(table: BudgetTable) -> None:
    spend(table, 10)
    (early,) = table.rows()
    spend(table, 10)
    (late,) = table.rows()
    table.reset(table.key(b"k"), NOW)
    (reset,) = table.rows()
    spend(table, 4, now=NOW + HOUR)
    (next_window,) = table.rows()
    in_order = [early, late, reset, next_window]
    for seed in range(20):
        other = BudgetTable.create(f"test-restore-{os.getpid()}", 1000, table.secret)
        try:
            rows = random.Random(seed).sample(in_order, 4)
            other.restore([*rows, *rows], NOW)
            assert [row.spent for row in other.rows()] == [4]
            other.restore([early], NOW)
            assert [row.spent for row in other.rows()] == [4]
        finally:
            other.close()


def test_restored_budgets_count_on(table: BudgetTable) -> None:
    spend(table, 60)
    rows = list(table.rows())
    other = BudgetTable.create(f"test-restored-{os.getpid()}", 1000, table.secret)
    try:
        assert other.restore(rows, NOW) == 1
        assert other.restore(rows, NOW + HOUR) == 0  # over: it says nothing any more
        _, marks = other.changed()
        spend(other, 40)
        assert [row.spent for row in other.changed(marks)[0]] == [100]
        assert reserve(other) is None
    finally:
        other.close()


def test_a_kept_table_is_found_again_unless_the_journal_is_of_another() -> None:
    name = f"test-kept-{os.getpid()}"

    def begin() -> None:
        first = BudgetTable.open(name, 10)
        spend(first, 5)
        first.leave()

    in_child(begin)
    second = BudgetTable.open(name, 10)
    assert spent(second) == 5
    # As the same owner, which a later start never is.
    again = BudgetTable.open(name, 10, second.secret, from_living=True)
    assert spent(again) == 5
    third = BudgetTable.open(name, 10, b"\1" * 32, from_living=True)
    assert list(third.rows()) == []
    assert "journal" in third.table.refusal
    third.close()


# --- damage --------------------------------------------------------------------------------


def slot_of(table: BudgetTable, key: bytes) -> tuple[Stripe, int]:
    stripe = table.table.stripe(key)
    with stripe:
        return stripe, stripe.find(key)


def test_sums_are_made_anew_when_a_hold_was_damaged(table: BudgetTable) -> None:
    first, second = reserve(table, 10), reserve(table, 30)
    in_child(lambda: reserve(table, 20))
    assert first is not None
    assert first.part is not None
    assert second is not None
    stripe, at = slot_of(table, first.part[0])
    table.table.segment.file[at + 20 : at + 22] = b"\xff\xff"
    with stripe:
        assert stripe.read(at) == b""
    assert reserved(table) == 20
    third = reserve(table, 7)  # in a slot that is none of the first two's
    assert third is not None
    table.commit(first, 5, NOW)
    table.refund(second)
    assert (spent(table), reserved(table)) == (5, 27)
    table.refund(third)
    assert reserved(table) == 20


def test_a_damaged_budget_is_freed_with_its_reservations(table: BudgetTable) -> None:
    made = reserve(table, 10)
    other = reserve(table, 10)
    assert made is not None
    assert other is not None
    _, at = slot_of(table, table.key(b"k"))
    table.table.segment.file[at + 20 : at + 22] = b"\xff\xff"
    table.commit(made, 5, NOW)
    assert (spent(table), reserved(table)) == (5, 0)
    table.commit(other, 5, NOW)
    assert (spent(table), reserved(table)) == (10, 0)
    assert table.stats().damaged == 1
    assert table.stats().used == 1


# --- the model -----------------------------------------------------------------------------


@dataclass
class Modelled:
    """A budget as plain numbers."""

    start: int
    spent: int = 0
    holds: dict[int, int] = field(default_factory=dict)
    """By handle."""


class Crash(Exception):
    """Stands for the death of the holder of a lock."""


class Machine(RuleBasedStateMachine):
    """Every operation, with crashes in the middle of them, against plain dicts."""

    names = st.sampled_from([b"a", b"b", b"c", b"d"])
    amounts = st.integers(0, 40)

    def __init__(self) -> None:
        super().__init__()
        self.table = BudgetTable.create(f"test-machine-{os.getpid()}", 100)
        self.model: dict[bytes, Modelled] = {}
        self.open: list[tuple[bytes, Reservation]] = []
        self.now = NOW

    def teardown(self) -> None:
        self.table.close()

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

    @rule(name=names, amount=amounts)
    def reserve(self, name: bytes, amount: int) -> None:
        expected = self.view(name)[1] + self.holds(name) + max(amount, 1) <= 100
        made = self.table.reserve(self.table.key(name), name, BLOCK, amount, self.now, TTL * 10**6)
        assert (made is not None) == expected
        if made is not None:
            self.open.append((name, made))
            one = self.budget(name)
            if amount:
                one.holds[id(made)] = amount

    @precondition(lambda self: self.open)
    @rule(data=st.data(), actual=amounts)
    def commit(self, data: st.DataObject, actual: int) -> None:
        name, made = self.open.pop(data.draw(st.integers(0, len(self.open) - 1)))
        one = self.budget(name)
        one.holds.pop(id(made), None)
        one.spent += actual
        standing = self.table.commit(made, actual, self.now)
        assert standing.spent == one.spent

    @precondition(lambda self: self.open)
    @rule(data=st.data())
    def refund(self, data: st.DataObject) -> None:
        name, made = self.open.pop(data.draw(st.integers(0, len(self.open) - 1)))
        self.model[name].holds.pop(id(made), None)
        self.table.refund(made)

    @precondition(lambda self: self.open)
    @rule(data=st.data(), actual=amounts, stores=st.integers(0, 12))
    def crash_in_commit(self, data: st.DataObject, actual: int, stores: int) -> None:
        """Die after so many stores; what is repaired is all of it or nothing."""
        index = data.draw(st.integers(0, len(self.open) - 1))
        name, made = self.open[index]
        before = self.view(name)[1]
        with dying(self.table, made.ask.key, stores) as outcome:
            self.table.commit(made, actual, self.now)
        if outcome.is_done or self.table_spent(name) != before:
            self.open.pop(index)
            one = self.budget(name)
            one.holds.pop(id(made), None)
            one.spent += actual

    @rule(name=names)
    def reset(self, name: bytes) -> None:
        known = self.table.reset(self.table.key(name), self.now)
        if known:
            one = self.budget(name)
            one.start, one.spent = self.now - self.now % HOUR, 0

    @rule(step=st.integers(-3 * HOUR, 3 * HOUR))
    def clock(self, step: int) -> None:
        self.now = max(NOW - 100 * HOUR, self.now + step)

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


@dataclass
class Outcome:
    is_done: bool = False


class dying:  # noqa: N801 - reads as a statement
    """Lets the holder of a stripe's lock stop after so many stores to the mapping."""

    def __init__(self, table: BudgetTable, key: bytes, stores: int) -> None:
        self.stripe = table.table.stripe(key)
        self.left = stores
        self.outcome = Outcome()

    def __enter__(self) -> Outcome:
        self.words = self.stripe._words
        self.stripe._words = Counted(self.words, self)  # type: ignore[assignment]
        return self.outcome

    def __exit__(self, kind: type | None, error: object, trace: object) -> bool:
        self.stripe._words = self.words
        self.outcome.is_done = kind is None
        return kind is Crash


class Counted:
    """The words of a stripe, one of whose stores is the last."""

    def __init__(self, words: memoryview, owner: dying) -> None:
        self.words = words
        self.owner = owner

    def __getitem__(self, index: int) -> int:
        return self.words[index]

    def __setitem__(self, index: int, value: int) -> None:
        if not self.owner.left:
            self.owner.left = -1
            raise Crash
        self.owner.left -= 1
        self.words[index] = value


Machine.TestCase.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)
TestMachine = Machine.TestCase


# --- processes -----------------------------------------------------------------------------


def in_child(work: Callable[[], object]) -> None:
    wait(fork(work))


def fork(work: Callable[[], object]) -> int:
    pid = os.fork()
    if pid:
        return pid
    code = 1
    try:
        work()
        code = 0
    finally:
        os._exit(code)


def wait(pid: int) -> int:
    return os.waitpid(pid, 0)[1]


def test_four_processes_spend_exactly(table: BudgetTable) -> None:
    limit = BudgetLimit(MAX_AMOUNT, HOUR, blocks=True)
    rounds = 20_000

    def work() -> None:
        for number in range(rounds):
            made = reserve(table, 3 * (number % 2), limit)
            assert made is not None
            table.commit(made, 5, NOW)

    pids = [fork(work) for _ in range(4)]
    assert [wait(pid) for pid in pids] == [0, 0, 0, 0]
    assert (spent(table), reserved(table)) == (4 * rounds * 5, 0)


def test_a_limit_is_never_passed_by_estimates_that_are_right(table: BudgetTable) -> None:
    limit = BudgetLimit(10_000, HOUR, blocks=True)

    def work() -> None:
        for _ in range(4000):
            made = reserve(table, 1, limit)
            if made is not None:
                table.commit(made, 1, NOW)

    pids = [fork(work) for _ in range(4)]
    assert [wait(pid) for pid in pids] == [0, 0, 0, 0]
    assert (spent(table), reserved(table)) == (10_000, 0)


@pytest.mark.parametrize("kills", [300, pytest.param(5000, marks=pytest.mark.soak)])
def test_killed_anywhere_no_unit_is_lost_or_invented(table: BudgetTable, kills: int) -> None:
    """Each child counts what it is about to spend and what it has spent, in memory of its own."""
    limit = BudgetLimit(MAX_AMOUNT, HOUR, blocks=True)
    # Words, each one store: `pack_into` writes zeros first, and who dies in between leaves them.
    counts = memoryview(mmap.mmap(-1, 4096)).cast("q")
    draw = random.Random(7)

    def work() -> None:
        begun = done = 0
        while True:
            made = reserve(table, 11, limit)
            assert made is not None
            begun += 7
            counts[0] = begun
            table.commit(made, 7, NOW)
            done += 7
            counts[1] = done

    total = 0
    for _ in range(kills):
        counts[0] = counts[1] = 0
        pid = fork(work)
        while not counts[1]:
            assert os.waitpid(pid, os.WNOHANG) == (0, 0)
        time.sleep(draw.uniform(0, 0.002))  # when it dies means nothing: that is the point
        os.kill(pid, signal.SIGKILL)
        wait(pid)
        begun, done = counts[0], counts[1]
        found = spent(table) - total
        assert done <= found <= begun, (done, found, begun)
        total += found
        table.release_dead(NOW)
        assert reserved(table) == 0
        assert table.stats().used == 1
    assert spent(table) == total


def test_what_a_row_holds_is_what_a_slot_holds() -> None:
    assert SLOT.size == 188
    row = BudgetRow(b"k" * 16, b"l", BLOCK, 1, 0, NOW, 1, NOW, 0)
    assert row.window_end_ns == NOW + HOUR
    assert not row.is_over(NOW + HOUR - 1)
    assert row.is_over(NOW + HOUR)
    assert sys.byteorder in ("little", "big")
