"""What processes hold of budgets: in the budget's slot, in annexes, past deadlines and deaths."""

from __future__ import annotations

import itertools
import os
from collections.abc import Iterator
from functools import partial

import pytest

from shm.budget_slots import HOLDS, Hold, holds_in
from shm.budgets import Ask, BudgetTable, Refused
from shm.stripe import Stripe
from tests.shm.cuts import cut
from tests.shm.spending import (
    BLOCK,
    NOW,
    TTL,
    Peer,
    held,
    in_child,
    reserve,
    reserved,
    spend,
    spent,
)


@pytest.fixture
def table() -> Iterator[BudgetTable]:
    made = BudgetTable.create(f"test-holds-{os.getpid()}", 1000)
    yield made
    made.close()


@pytest.fixture
def peers(table: BudgetTable) -> Iterator[list[Peer]]:
    """More of them than a slot has room for."""
    made = [Peer(table) for _ in range(HOLDS + 2)]
    yield made
    for peer in made:
        peer.kill()


def holds(table: BudgetTable) -> list[Hold]:
    return [hold for raw in table.table.raws() for hold in holds_in(raw)]


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


def test_one_hold_is_all_that_a_process_reserves_of_a_budget(table: BudgetTable) -> None:
    made = [reserve(table, 5) for _ in range(10)]
    in_child(lambda: reserve(table, 5))
    assert [hold.amount for hold in holds(table)] == [50, 5]
    for one in made:
        assert one is not None
        table.refund(one)
    assert [hold.amount for hold in holds(table)] == [5]
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


def test_more_processes_than_a_slot_has_room_for_each_have_an_annex(
    table: BudgetTable, peers: list[Peer]
) -> None:
    made = [held(peer.table, 10 + number) for number, peer in enumerate(peers)]
    assert reserved(table) == sum(range(10, 10 + len(peers)))
    assert table.stats().used == 1 + len(peers) - HOLDS
    more = [held(peer.table, 1) for peer in peers]
    assert table.stats().used == 1 + len(peers) - HOLDS
    for peer, one, two in zip(peers, made, more, strict=True):
        assert one.part is not None
        assert two.part is not None
        assert one.part[:3] == two.part[:3]
        peer.table.commit(one, 2, NOW)
        peer.table.refund(two)
    assert (spent(table), reserved(table)) == (2 * len(peers), 0)


def test_a_place_that_is_empty_is_anybodys_and_one_in_use_is_not(
    table: BudgetTable, peers: list[Peer]
) -> None:
    first, second = peers[0].table, peers[1].table
    for _ in range(3):
        first.refund(held(first, 10))
        second.refund(held(second, 20))
    assert table.stats().used == 1
    mine, theirs = held(first, 10), held(second, 20)
    assert [hold.pid for hold in holds(table)] in (
        [peers[0].pid, peers[1].pid],
        [peers[1].pid, peers[0].pid],
    )
    first.commit(mine, 1, NOW)
    assert reserved(table) == 20
    second.commit(theirs, 1, NOW)
    assert reserved(table) == 0


def test_what_the_dead_held_is_returned_wherever_it_lay(
    table: BudgetTable, peers: list[Peer]
) -> None:
    for peer in peers:
        held(peer.table, 10)
    for number, peer in enumerate(reversed(peers), 1):
        peer.kill()
        assert table.release_dead(NOW) == 1
        assert table.release_dead(NOW) == 0
        assert reserved(table) == 10 * (len(peers) - number)
    assert table.stats().used == 1
    peers.clear()


def test_what_was_freed_in_an_annex_is_not_given_back_again(
    table: BudgetTable, peers: list[Peer]
) -> None:
    made = [held(peer.table, 10) for peer in peers]
    assert table.release_dead(NOW + TTL) == len(peers)
    again = [held(peer.table, 3) for peer in peers]
    for peer, one in zip(peers, made, strict=True):
        peer.table.commit(one, 1, NOW)
    assert (spent(table), reserved(table)) == (len(peers), 3 * len(peers))
    for peer, one in zip(peers, again, strict=True):
        peer.table.refund(one)
    assert reserved(table) == 0


def test_empty_annexes_make_room() -> None:
    table = BudgetTable.create(f"test-empty-{os.getpid()}", 1)
    peers = [Peer(table) for _ in range(HOLDS + 1)]
    try:
        number = 0
        while not table.stats().evictions:
            name = b"%d" % number
            made = [held(peer.table, 1, name) for peer in peers]
            for peer, one in zip(peers, made, strict=True):
                peer.table.commit(one, 1, NOW)
            number += 1
        assert len(list(table.rows())) == number
        assert {row.spent for row in table.rows()} == {len(peers)}
    finally:
        for peer in peers:
            peer.kill()
        table.close()


@pytest.mark.parametrize("torn", [0, 3, 150, 340])
@pytest.mark.parametrize("others", [0, 1, HOLDS], ids=["first", "second", "annex"])
def test_cut_at_any_store_an_operation_is_whole_or_nothing(
    table: BudgetTable, peers: list[Peer], torn: int, others: int
) -> None:
    cost = 3
    for peer in peers[:others]:
        held(peer.table, 10)
    for stores in itertools.count():
        before, was = reserved(table), spent(table) if stores else 0
        is_cut = cut(table.table, stores, torn, lambda: held(table, 2))
        assert reserved(table) - before in ({0, 2} if is_cut else {2})
        made = held(table, 5)
        before = reserved(table)
        is_cut |= cut(table.table, stores, torn, partial(table.commit, made, cost, NOW))
        assert (spent(table) - was, reserved(table) - before) in {(0, 0), (cost, -5)}
        before = reserved(table)
        is_cut |= cut(table.table, stores, torn, partial(table.refund, held(table, 7)))
        assert reserved(table) - before in ({0, 7} if is_cut else {0})
        if not is_cut:
            break
    assert stores >= 5
    for stores in itertools.count():
        before = reserved(table)
        if not cut(table.table, stores, torn, lambda: table.release_dead(NOW + TTL)):
            break
        assert sum(hold.amount for hold in holds(table)) == reserved(table) <= before
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


def slot_of(table: BudgetTable, key: bytes) -> tuple[Stripe, int]:
    stripe = table.table.stripe(key)
    with stripe:
        return stripe, stripe.find(key)


def test_sums_are_made_anew_when_an_annex_was_damaged(
    table: BudgetTable, peers: list[Peer]
) -> None:
    for peer in peers[:HOLDS]:
        held(peer.table, 5)
    first, second = held(table, 10), held(table, 30)
    assert first.part is not None
    stripe, at = slot_of(table, first.part[0])
    assert table.stats().used == 2
    table.table.segment.file[at + 20 : at + 22] = b"\xff\xff"
    with stripe:
        assert stripe.read(at) == b""
    assert reserved(table) == 5 * HOLDS
    third = held(table, 7)  # in a slot that is none of the first two's
    table.commit(first, 5, NOW)
    table.refund(second)
    assert (spent(table), reserved(table)) == (5, 5 * HOLDS + 7)
    table.refund(third)
    assert reserved(table) == 5 * HOLDS


def test_an_annex_goes_with_its_damaged_budget(table: BudgetTable, peers: list[Peer]) -> None:
    made = [held(peer.table, 10) for peer in peers]
    _, at = slot_of(table, table.key(b"k"))
    table.table.segment.file[at + 20 : at + 22] = b"\xff\xff"
    for peer, one in zip(peers, made, strict=True):
        peer.table.commit(one, 5, NOW)
    assert (spent(table), reserved(table)) == (5 * len(peers), 0)
    assert (table.stats().damaged, table.stats().used) == (1, 1)


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
