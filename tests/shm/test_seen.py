"""What a process remembers of slots is compared before it is used: others change them meanwhile."""

from __future__ import annotations

import os
import uuid
from collections.abc import Iterator

import pytest

from shm.budgets import Ask as BudgetAsk
from shm.budgets import BudgetLimit, BudgetTable, Refused
from shm.errors import ShmError
from shm.rates import Ask, Limit, RateTable
from shm.stripe import Stripe

SECOND = 1_000_000_000
START = 100 * SECOND
LIMIT = Limit(10, 5, SECOND)
DAY = 86_400 * SECOND


@pytest.fixture
def rates() -> Iterator[tuple[RateTable, RateTable]]:
    """A table twice, as two processes see it."""
    name = f"seen-{os.getpid()}-{uuid.uuid4().hex[:8]}"
    table = RateTable.create(name, 6_000)
    yield table, RateTable.attach(name)
    table.close()


@pytest.fixture
def budgets() -> Iterator[tuple[BudgetTable, BudgetTable]]:
    name = f"seen-{os.getpid()}-{uuid.uuid4().hex[:8]}"
    table = BudgetTable.create(name, 100)
    yield table, BudgetTable.attach(name)
    table.close()


def ask(table: RateTable, name: bytes = b"a", cost: int = 1, limit: Limit = LIMIT) -> Ask:
    return Ask(table.key(name), name, limit, cost)


def left(table: RateTable, one: Ask) -> int:
    row = table.peek(one.key, START)
    assert row is not None
    return row.level


def place(table: RateTable, one: Ask) -> tuple[Stripe, int]:
    stripe = table.table.stripe(one.key)
    with stripe:
        return stripe, stripe.find(one.key)


def test_takes_of_two_processes_add_up(rates: tuple[RateTable, RateTable]) -> None:
    here, there = rates
    one = ask(here)
    seen = [table.take(one, START).remaining for table in (here, there, there, here, there, here)]
    assert seen == [9, 8, 7, 6, 5, 4]


def test_what_another_process_settles_is_seen(rates: tuple[RateTable, RateTable]) -> None:
    here, there = rates
    one, two = ask(here), ask(here, b"b", 0)
    here.take_all((one, two), START)
    there.settle(two, START, 12)
    assert [verdict.allowed for verdict in here.take_all((one, two), START)] == [True, False]
    assert left(here, one) == 9
    here.settle(two, START, -4)
    assert there.take_all((one, two), START)[1].remaining == 2
    assert here.take_all((one, two), START)[0].remaining == 7


def test_nobody_waits_for_the_lock_of_what_gives_nothing(
    rates: tuple[RateTable, RateTable],
) -> None:
    here, _ = rates
    two = ask(here, b"tokens", 0)
    others = (ask(here, b"%d" % number) for number in range(100))
    one = next(other for other in others if place(here, other)[0] is not place(here, two)[0])
    here.take_all((one, two), START)
    here.take_all((two, one), START)
    with place(here, two)[0]:
        assert [verdict.remaining for verdict in here.take_all((one, two), START)] == [7, 10]
        assert [verdict.remaining for verdict in here.take_all((two, one), START)] == [10, 6]


def test_tokens_that_cannot_be_charged_are_not_given_any_more(
    rates: tuple[RateTable, RateTable],
) -> None:
    here, _ = rates
    two = ask(here, b"tokens", 0)
    others = (ask(here, b"%d" % number) for number in range(100))
    one = next(other for other in others if place(here, other)[0] is not place(here, two)[0])
    for _ in range(2):
        here.take_all((one, two), START)
    with place(here, two)[0]:  # which nobody gives back
        here.take_all((one, two), START)
        with pytest.raises(ShmError):
            here.settle(two, START, 5)
        with pytest.raises(ShmError):
            here.take_all((one, two), START)
    here.settle(two, START, 5)
    assert [verdict.remaining for verdict in here.take_all((one, two), START)] == [6, 5]


def test_what_gives_nothing_refuses_when_it_is_empty(rates: tuple[RateTable, RateTable]) -> None:
    here, there = rates
    one, two = ask(here), ask(here, b"tokens", 0)
    for pair in ((one, two), (two, one)):
        here.take_all(pair, START)
        here.take_all(pair, START)
        there.settle(two, START, 10)
        before = left(here, one)
        assert {verdict.allowed for verdict in here.take_all(pair, START)} == {True, False}
        assert left(there, one) == before
        # What fills again is not judged by what it was.
        later = START + 2 * SECOND
        assert all(verdict.allowed for verdict in here.take_all(pair, later))
        there.settle(two, later, -10)
        here.reset(one.key)
        here.reset(two.key)


def test_a_bucket_that_is_gone_is_full(rates: tuple[RateTable, RateTable]) -> None:
    here, there = rates
    one, two = ask(here), ask(here, b"b")
    here.take_all((one, two), START)
    assert there.reset(one.key)
    assert there.reset(two.key)
    assert here.take(one, START).remaining == 9
    assert [verdict.remaining for verdict in here.take_all((one, two), START)] == [8, 9]
    assert there.reset(one.key)
    here.settle(one, START, 3)
    assert left(there, one) == 7


def test_another_key_in_its_place_is_left_alone(rates: tuple[RateTable, RateTable]) -> None:
    here, there = rates
    one = ask(here)
    here.take(one, START)
    stripe, at = place(there, one)
    other = one.key[:2] + bytes(14)
    with stripe:
        raw = stripe.read(at)
        stripe.change([(at, other + raw[16:-4])])
    assert here.take(one, START).remaining == 9
    assert place(here, one)[1] != at
    with stripe:
        assert stripe.read(at)[:16] == other


def test_damage_is_found(rates: tuple[RateTable, RateTable]) -> None:
    here, _ = rates
    one = ask(here)
    here.take(one, START)
    _, at = place(here, one)
    here.table.segment.file[at + 16] ^= 1
    assert here.take(one, START).remaining == 9
    assert here.stats().damaged == 1


def test_a_limit_that_another_process_changed(rates: tuple[RateTable, RateTable]) -> None:
    here, there = rates
    new = Limit(4, 2, SECOND)
    here.take(ask(here), START)
    assert there.take(ask(here, limit=new), START).remaining == 3
    here.settle(ask(here), START, -9)  # by the slot's limit
    assert left(here, ask(here)) == 4


def test_what_is_remembered_is_bounded(rates: tuple[RateTable, RateTable]) -> None:
    here, there = rates
    asks = [ask(here, b"%d" % number) for number in range(5_000)]
    for one in asks:
        here.take(one, START)
    assert len(here._buckets) <= 4_096
    assert all(there.take(one, START).remaining == 8 for one in asks[::100])
    assert all(here.take(one, START).remaining == 7 for one in asks[::100])


def test_spending_of_two_processes_adds_up(budgets: tuple[BudgetTable, BudgetTable]) -> None:
    here, there = budgets
    limit = BudgetLimit(100, DAY, blocks=True)
    one = BudgetAsk(here.key(b"a"), b"a", limit, 0)
    for spent, table in ((30, here), (60, there), (90, here), (120, there)):
        made = table.reserve_all((one,), START, SECOND)
        assert not isinstance(made, Refused)
        assert table.commit(made[0], 30, START).spent == spent
    assert isinstance(here.reserve_all((one,), START, SECOND), Refused)
    assert there.reset(one.key, START)
    made = here.reserve_all((one,), START, SECOND)
    assert not isinstance(made, Refused)
    assert here.commit(made[0], 5, START).spent == 5


def test_nobody_waits_for_the_lock_of_a_budget_to_see_that_there_is_some(
    budgets: tuple[BudgetTable, BudgetTable],
) -> None:
    here, there = budgets
    one = BudgetAsk(here.key(b"a"), b"a", BudgetLimit(10, DAY, blocks=True), 0)
    for _ in range(3):
        made = here.reserve_all((one,), START, DAY)
        assert not isinstance(made, Refused)
        here.commit(made[0], 2, START)
    with here.table.stripe(one.key):
        assert not isinstance(here.reserve_all((one,), START, DAY), Refused)
    spent = there.reserve_all((one,), START, DAY)
    assert not isinstance(spent, Refused)
    there.commit(spent[0], 4, START)
    assert isinstance(here.reserve_all((one,), START, DAY), Refused)


def test_a_budget_that_cannot_be_charged_is_not_spent_any_more(
    budgets: tuple[BudgetTable, BudgetTable],
) -> None:
    here, _ = budgets
    one = BudgetAsk(here.key(b"a"), b"a", BudgetLimit(10, DAY, blocks=True), 0)
    for _ in range(2):
        made = here.reserve_all((one,), START, DAY)
        assert not isinstance(made, Refused)
        here.commit(made[0], 2, START)
    with here.table.stripe(one.key):  # which nobody gives back
        made = here.reserve_all((one,), START, DAY)
        assert not isinstance(made, Refused)
        with pytest.raises(ShmError):
            here.commit(made[0], 2, START)
        with pytest.raises(ShmError):
            here.reserve_all((one,), START, DAY)
    assert here.commit(made[0], 2, START).spent == 6


def test_what_another_process_holds_counts(budgets: tuple[BudgetTable, BudgetTable]) -> None:
    here, there = budgets
    limit = BudgetLimit(100, DAY, blocks=True)
    one = BudgetAsk(here.key(b"a"), b"a", limit, 0)
    made = here.reserve_all((one,), START, SECOND)
    assert not isinstance(made, Refused)
    assert here.commit(made[0], 40, START).spent == 40
    assert not isinstance(there.reserve_all((one._replace(amount=60),), START, SECOND), Refused)
    refused = here.reserve_all((one,), START, SECOND)
    assert isinstance(refused, Refused)
    assert (refused.standing.spent, refused.standing.reserved) == (40, 60)


def test_a_window_that_ends_between_two_charges(budgets: tuple[BudgetTable, BudgetTable]) -> None:
    here, there = budgets
    one = BudgetAsk(here.key(b"a"), b"a", BudgetLimit(100, DAY, blocks=True), 0)
    made = here.reserve_all((one,), START, SECOND)
    assert not isinstance(made, Refused)
    assert here.commit(made[0], 100, START).exceeded
    assert isinstance(here.reserve_all((one,), START, SECOND), Refused)
    later = here.reserve_all((one,), START + DAY, SECOND)
    assert not isinstance(later, Refused)
    standing = here.commit(later[0], 7, START + DAY)
    assert (standing.spent, standing.window_start_ns) == (7, DAY)
    assert there.standing(one.key, START + DAY) == standing
