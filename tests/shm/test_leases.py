"""The leases' table alone: what may be taken, and what messages say. The store is a few numbers."""

from __future__ import annotations

import os
import uuid
from collections.abc import Iterator

import pytest

from shm.bucket import Ask, Limit
from shm.budget_slots import Ask as BudgetAsk
from shm.budget_slots import BudgetLimit
from shm.errors import TableFullError
from shm.leases import ENOUGH, LOW, SHORT, Answer, LeaseTable, Message, Spending

SECOND = 1_000_000_000
NOW = 1_000 * SECOND
WALL = 1_700_000_000 * SECOND
TIMES = (NOW, WALL)
KEY = bytes(range(16))
LIMIT = Limit(100, 10, SECOND)
ASK = Ask(KEY, b"label", LIMIT, 1, b"n" * 16)
DAY = 86_400 * SECOND
START = WALL - WALL % DAY
BUDGET = BudgetAsk(KEY, b"label", BudgetLimit(1000, DAY, blocks=True), 0, b"n" * 16)


@pytest.fixture
def table() -> Iterator[LeaseTable]:
    made = LeaseTable.create(f"test-{os.getpid()}-{uuid.uuid4().hex[:8]}", 100)
    yield made
    made.close()


def granted(message: Message, more: int, left: int = 50, **changes: int) -> Answer:
    answer = Answer(message.slot.allowance + more, left, SECOND, 0, 5 * SECOND, 0)
    return answer._replace(**changes)


def lease(table: LeaseTable, more: int, now_ns: int = NOW, left: int = 50) -> Message:
    message = table.begin(KEY, (now_ns, WALL), SECOND)
    assert message is not None
    table.finish(message, granted(message, more, left), now_ns)
    return message


def take(
    table: LeaseTable, cost: int = 1, now_ns: int = NOW, *, alone: bool = False
) -> tuple[bool, int]:
    (one,) = table.take_all([ASK._replace(cost=cost)], now_ns, WALL, alone=alone)
    return one.verdict.allowed, one.state


def test_nothing_is_taken_before_there_is_a_grant(table: LeaseTable) -> None:
    assert take(table) == (False, SHORT)
    lease(table, 10)
    assert take(table, 8) == (True, LOW)
    assert take(table, 3) == (False, SHORT)
    assert take(table, 2) == (True, LOW)
    assert take(table, 0) == (False, SHORT)


def test_much_is_left_then_little(table: LeaseTable) -> None:
    take(table)
    lease(table, 40)
    assert take(table, 30) == (True, ENOUGH)
    assert take(table) == (True, LOW)


def test_a_refusal_is_believed_until_something_may_have_changed(table: LeaseTable) -> None:
    take(table)
    message = table.begin(KEY, TIMES, SECOND)
    assert message is not None
    table.finish(message, granted(message, 0, 0, retry_ns=SECOND // 2), NOW)
    assert take(table) == (False, ENOUGH)
    assert take(table, now_ns=NOW + SECOND // 2) == (False, SHORT)
    # The refill of Redis is known here.
    table.finish(message, granted(message, 0, 0), NOW)
    assert take(table, now_ns=NOW + SECOND) == (False, SHORT)


def test_what_can_never_pass_needs_no_question(table: LeaseTable) -> None:
    assert take(table, 101) == (False, ENOUGH)


def test_one_process_asks_at_a_time(table: LeaseTable) -> None:
    take(table)
    first = table.begin(KEY, TIMES, SECOND)
    assert first is not None
    assert table.begin(KEY, TIMES, SECOND) is None
    second = table.begin(KEY, (NOW + SECOND, WALL), SECOND)
    assert second is not None
    assert second.slot.sequence > first.slot.sequence
    # The first answer comes too late: what it grants is not taken, and the second says so.
    table.finish(first, granted(first, 10), NOW + SECOND)
    assert take(table, now_ns=NOW + SECOND) == (False, SHORT)
    table.finish(second, granted(second, 10), NOW + SECOND)
    assert take(table, now_ns=NOW + SECOND)[0]


def test_a_lost_answer_grants_nothing(table: LeaseTable) -> None:
    take(table)
    message = table.begin(KEY, TIMES, SECOND)
    assert message is not None
    table.finish(message, None, NOW)
    assert take(table) == (False, SHORT)
    again = table.begin(KEY, TIMES, SECOND)
    assert again is not None
    assert again.slot.allowance == message.slot.allowance


def test_numbers_rise_over_a_restart(table: LeaseTable) -> None:
    take(table)
    message = table.begin(KEY, TIMES, SECOND)
    assert message is not None
    assert message.slot.sequence == WALL // 1000


def test_a_lease_ends(table: LeaseTable) -> None:
    take(table)
    lease(table, 20)
    assert take(table, 5)[0]
    end = NOW + 5 * SECOND
    assert take(table, now_ns=end - 1)[0]
    assert take(table, now_ns=end) == (False, SHORT)
    message = table.begin(KEY, (end, WALL), SECOND)
    assert message is not None
    assert (message.slot.allowance, message.spent) == (6, 6)


def test_what_is_given_back_cannot_be_taken(table: LeaseTable) -> None:
    take(table)
    lease(table, 20)
    take(table, 5)
    message = table.begin(KEY, TIMES, SECOND, returns=True)
    assert message is not None
    assert (message.slot.allowance, message.spent) == (5, 5)
    assert take(table) == (False, SHORT)


def test_alone_it_goes_on_with_what_the_store_had_left(table: LeaseTable) -> None:
    take(table)
    lease(table, 5, left=7)
    assert take(table, 12, alone=True)[0]
    assert not take(table, 1, alone=True)[0]
    assert take(table, 10, NOW + SECOND, alone=True)[0]
    message = table.begin(KEY, (NOW + SECOND, WALL), SECOND)
    assert message is not None
    assert (message.slot.allowance, message.spent) == (22, 22)


@pytest.mark.parametrize(
    ("alone", "more", "left_here", "left_there"),
    [(6, 10, 4, 40), (10, 10, 0, 40), (25, 10, 0, 25), (60, 10, 0, 0), (7, 0, 0, -3)],
    ids=["less", "all that is granted", "more", "more than there is", "nothing is granted"],
)
def test_what_was_taken_alone_meanwhile_is_paid_of_what_is_granted(
    table: LeaseTable, alone: int, more: int, left_here: int, left_there: int
) -> None:
    take(table)
    message = table.begin(KEY, TIMES, SECOND)
    assert message is not None
    assert take(table, alone, alone=True)[0]
    left = 40 if more else -3
    table.finish(message, granted(message, more, left), NOW)
    slot = table.peek(KEY)
    assert slot is not None
    assert (slot.left, slot.pool) == (left_here, left_there)
    # What the store does not know is said as soon as it answers again.
    assert slot.told < slot.touched
    message = table.begin(KEY, (NOW + 1, WALL), SECOND)
    assert message is not None
    assert (message.slot.allowance, message.spent) == (max(alone, more), alone)
    table.finish(message, granted(message, 0), NOW + 2)
    slot = table.peek(KEY)
    assert slot is not None
    assert slot.told >= slot.touched


def test_what_is_taken_while_a_message_is_under_way_is_said_later(table: LeaseTable) -> None:
    take(table)
    lease(table, 20)
    message = table.begin(KEY, (NOW + 5, WALL), SECOND)
    assert message is not None
    # By a clock that was read before the lock was had.
    assert take(table, 20, NOW + 3)[0]
    table.finish(message, granted(message, 0), NOW + 9)
    slot = table.peek(KEY)
    assert slot is not None
    assert slot.told < slot.touched


def test_debt_is_carried_or_forgiven(table: LeaseTable) -> None:
    take(table)
    lease(table, 5)
    table.settle(ASK, NOW, WALL, 30)
    assert take(table) == (False, SHORT)
    message = table.begin(KEY, TIMES, SECOND)
    assert message is not None
    assert message.spent - message.slot.allowance == 25
    other = ASK._replace(key=bytes(16)[:-1] + b"x", limit=Limit(100, 10, SECOND, carry_debt=False))
    table.settle(other, NOW, WALL, 30)
    slot = table.peek(other.key)
    assert slot is not None
    assert slot.left == 0


def test_all_or_none_and_one_key_twice(table: LeaseTable) -> None:
    take(table)
    lease(table, 3)
    two = ASK._replace(cost=2)
    assert not all(one.verdict.allowed for one in table.take_all([two, two], NOW, WALL))
    assert all(one.verdict.allowed for one in table.take_all([two, ASK], NOW, WALL))
    assert not take(table)[0]


def test_a_budget_may_spend_its_allowance_in_its_window(table: LeaseTable) -> None:
    assert table.allowance(BUDGET, 0, START, TIMES) == (0, SHORT)
    spending = Spending(0, 0, 0, START)
    message = table.begin(KEY, TIMES, SECOND, spending)
    assert message is not None
    table.finish(message, granted(message, 100, 900, others=7), NOW)
    assert table.allowance(BUDGET, 0, START, TIMES) == (100, ENOUGH)
    assert table.allowance(BUDGET, 90, START, TIMES) == (100, LOW)
    assert table.allowance(BUDGET, 100, START, TIMES) == (100, SHORT)
    assert table.others(KEY, START) == 7
    # Redis is away: what it had left as well.
    assert table.allowance(BUDGET, 100, START, TIMES, alone=True) == (1000, ENOUGH)
    # The next window begins with nothing, and the last one's message is not sent any more.
    later = (NOW + DAY, WALL + DAY)
    assert table.allowance(BUDGET, 0, START + DAY, later) == (0, SHORT)
    assert table.begin(KEY, later, SECOND, spending) is None
    assert table.others(KEY, START + DAY) == 0


def test_a_budget_keeps_what_is_reserved_when_it_gives_back(table: LeaseTable) -> None:
    table.allowance(BUDGET, 0, START, TIMES)
    message = table.begin(KEY, TIMES, SECOND, Spending(0, 0, 0, START))
    assert message is not None
    table.finish(message, granted(message, 100), NOW)
    message = table.begin(KEY, TIMES, SECOND, Spending(30, 20, 0, START), returns=True)
    assert message is not None
    assert (message.slot.allowance, message.spent, message.committed) == (30, 20, 30)


def test_a_full_table_says_so() -> None:
    table = LeaseTable.create(f"test-{os.getpid()}-{uuid.uuid4().hex[:8]}", 1)
    try:
        room = table.stats().slots
        asks = [ASK._replace(key=os.urandom(16)) for _ in range(room * 4)]
        taken = [table.take_all([ask], NOW, WALL)[0].verdict.known for ask in asks]
        assert not all(taken)
        full = next(ask for ask, known in zip(asks, taken, strict=True) if not known)
        with pytest.raises(TableFullError):
            table.allowance(BUDGET._replace(key=full.key), 0, START, TIMES)
    finally:
        table.close()


def test_news_are_told_once(table: LeaseTable) -> None:
    assert table.mark(1)
    assert not table.mark(1)
    assert table.marked == 1


def test_only_what_is_over_is_forgotten(table: LeaseTable) -> None:
    take(table)
    lease(table, 5)
    slot = table.peek(KEY)
    assert slot is not None
    assert not table.forget(slot, NOW)
    take(table)
    assert not table.forget(slot, NOW + DAY)
    slot = table.peek(KEY)
    assert slot is not None
    assert table.forget(slot, NOW + DAY)
    assert table.peek(KEY) is None


def test_kept_with_its_secret_only() -> None:
    name, secret = f"test-{uuid.uuid4().hex[:8]}", os.urandom(32)
    first = LeaseTable.open(name, 10, secret)
    take(first)
    first.leave()
    second = LeaseTable.open(name, 10, secret, from_living=True)
    assert second.peek(KEY) is not None
    assert not second.table.refusal
    second.leave()
    third = LeaseTable.open(name, 10, os.urandom(32), from_living=True)
    assert third.peek(KEY) is None
    assert "budgets" in third.table.refusal
    third.close()
