"""What budgets admit and charge, their windows and limits, and how a journal restores them."""

from __future__ import annotations

import os
import random
from collections.abc import Iterator

import pytest

from shm.budget_slots import LABEL_BYTES, MAX_AMOUNT, MAX_SPENT
from shm.budget_sums import window_now
from shm.budgets import BudgetLimit, BudgetRow, BudgetTable
from shm.errors import ShmError, TableFullError
from tests.shm.spending import (
    AUDIT,
    BLOCK,
    HOUR,
    NOW,
    TTL,
    in_child,
    reserve,
    reserved,
    spend,
    spent,
)

FOREVER = BudgetLimit(100, 0, blocks=True)


@pytest.fixture
def table() -> Iterator[BudgetTable]:
    made = BudgetTable.create(f"test-budgets-{os.getpid()}", 1000)
    yield made
    made.close()


def test_the_crossing_request_passes_and_the_next_is_refused(table: BudgetTable) -> None:
    spend(table, 99)
    spend(table, 50)
    assert spent(table) == 149
    assert reserve(table) is None


def test_exactly_spent_is_exceeded(table: BudgetTable) -> None:
    spend(table, 100)
    assert reserve(table) is None


def test_an_audited_budget_never_refuses(table: BudgetTable) -> None:
    for _ in range(3):
        made = reserve(table, 80, AUDIT)
        assert made is not None
        table.commit(made, 80, NOW)
    standing = table.standing(table.key(b"k"), NOW)
    assert standing is not None
    assert (standing.spent, standing.exceeded) == (240, True)


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


def test_a_row_knows_when_its_window_is_over() -> None:
    row = BudgetRow(b"k" * 16, b"l", BLOCK, 1, 0, NOW, 1, NOW, 0)
    assert row.window_end_ns == NOW + HOUR
    assert not row.is_over(NOW + HOUR - 1)
    assert row.is_over(NOW + HOUR)
