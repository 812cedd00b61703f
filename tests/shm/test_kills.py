"""53 and 54: processes killed at random while they work on one table; counts stay exact.

What each process has begun and what it has been given stands in shared words beside the table, one
pair a process: a word is stored before the take and one after, so they differ by at most the one
take that a killed process had in flight.
"""

from __future__ import annotations

import mmap
import os
import random
import signal
from collections.abc import Callable, Iterator
from functools import partial

import pytest

from shm import lock
from shm.errors import LockTimeoutError
from shm.rates import Ask, Limit, RateTable
from shm.segment import segment_name, unlink
from shm.sessions import Owner, SessionTable
from shm.table import HashTable
from tests.shm.cuts import exit_code, fork

FOREVER = 2**61
NOW = 10**15
WORKERS = 3
CAPACITY = 10**12
LIMIT = Limit(CAPACITY, 1, FOREVER)


@pytest.fixture
def instance() -> Iterator[str]:
    instance = f"test-kills-{os.getpid()}"
    yield instance
    for table in ("rates", "sessions"):
        unlink(segment_name(instance, table))


class Tally:
    """Begun and done of each worker, over its lives; and how often they were killed."""

    def __init__(self) -> None:
        self._words = memoryview(mmap.mmap(-1, 4096)).cast("Q")

    def begin(self, worker: int) -> None:
        self._words[2 * worker] += 1

    def done(self, worker: int) -> None:
        self._words[2 * worker + 1] += 1

    @property
    def begun_total(self) -> int:
        return sum(self._words[i] for i in EVEN)

    @property
    def done_total(self) -> int:
        return sum(self._words[i + 1] for i in EVEN)


EVEN = range(0, 2 * WORKERS, 2)


def kill_at_random(tally: Tally, kills: int, work: Callable[[int], None], seed: int) -> None:
    """Three processes work for ever; some are killed, and replaced, again and again."""
    chance = random.Random(seed)
    pids = [fork(partial(work, worker)) for worker in range(WORKERS)]
    try:
        while kills > 0:
            progress = tally.begun_total + chance.randrange(1, 30)
            while tally.begun_total < progress:
                os.sched_yield()
            for _ in range(chance.randrange(200)):  # anywhere within a take
                pass
            victims = chance.sample(range(WORKERS), min(chance.randint(1, WORKERS), kills))
            for victim in victims:
                os.kill(pids[victim], signal.SIGKILL)
            for victim in victims:
                assert exit_code(pids[victim]) == -signal.SIGKILL
                pids[victim] = fork(partial(work, victim))
            kills -= len(victims)
    finally:
        # Also when one ended by itself: the others would work for ever.
        codes = [_ended(pid) for pid in pids]
    assert codes == [-signal.SIGKILL] * WORKERS


def _ended(pid: int) -> int | None:
    """Kill it: how it ended, None when that was seen before."""
    try:
        os.kill(pid, signal.SIGKILL)
        return exit_code(pid)
    except (ProcessLookupError, ChildProcessError):
        return None


def spent(table: RateTable, name: bytes) -> int:
    row = table.peek(table.key(name), NOW)
    return 0 if row is None else CAPACITY - row.level


def take_for_ever(table: RateTable, tally: Tally, worker: int) -> None:
    one = Ask(table.key(b"one"), b"one", LIMIT, 1)
    while True:
        tally.begin(worker)
        assert table.take(one, NOW).allowed
        tally.done(worker)


def exact_after_kills(instance: str, kills: int) -> None:
    table, tally = RateTable.create(instance, 100), Tally()
    kill_at_random(tally, kills, lambda worker: take_for_ever(table, tally, worker), kills)
    taken = spent(table, b"one")
    assert tally.done_total <= taken <= tally.begun_total
    assert tally.begun_total - tally.done_total <= kills + WORKERS
    stats = table.stats()
    assert 0 < stats.repairs <= kills + WORKERS
    assert (stats.damaged, stats.refusals, stats.timeouts, stats.used) == (0, 0, 0, 1)


def test_53_killed_700_times_no_token_is_lost_or_invented(instance: str) -> None:
    exact_after_kills(instance, 700)


@pytest.mark.soak
@pytest.mark.timeout(1800)
def test_53_killed_20_000_times_no_token_is_lost_or_invented(instance: str) -> None:
    exact_after_kills(instance, 20_000)


def churn_for_ever(table: RateTable, tally: Tally, worker: int) -> None:
    """Several buckets at once in any order, and others that come and go."""
    chance = random.Random(os.getpid())
    asks = [Ask(table.key(name), name, LIMIT, 1) for name in (b"a", b"b", b"c")]
    others = [Ask(table.key(b"%d" % n), b"", Limit(5, 1, FOREVER), 1) for n in range(40)]
    while True:
        chance.shuffle(asks)
        tally.begin(worker)
        assert all(verdict.allowed for verdict in table.take_all(asks, NOW))
        tally.done(worker)
        other = chance.choice(others)
        assert table.take(other, NOW).known
        if chance.random() < 0.3:
            table.reset(other.key)


def test_53_killed_300_times_among_many_keys(instance: str) -> None:
    table, tally, kills = RateTable.create(instance, 100), Tally(), 300
    kill_at_random(tally, kills, lambda worker: churn_for_ever(table, tally, worker), 7)
    for name in (b"a", b"b", b"c"):
        assert tally.done_total <= spent(table, name) <= tally.begun_total
    rows = list(table.rows(NOW))
    assert len({row.key for row in rows}) == len(rows) == table.stats().used
    assert all(0 <= row.level <= row.limit.capacity for row in rows)
    stats = table.stats()
    assert stats.repairs > 0
    assert (stats.damaged, stats.timeouts) == (0, 0)


def count_for_ever(table: SessionTable, tally: Tally, worker: int) -> None:
    """Adds one to the number that the session's value is."""
    key = table.key(b"session")
    while True:
        session = table.get(key, NOW)
        assert session is not None
        assert session.value == b"%d" % (session.generation - 1)
        tally.begin(worker)
        if table.update(session, b"%d" % session.generation, NOW) is not None:
            tally.done(worker)


def test_53_killed_100_times_a_session_counts_on(instance: str) -> None:
    table, tally = SessionTable.create(instance, 100), Tally()
    key = table.key(b"session")
    assert table.begin(key, Owner(1, 1, 1), b"0", FOREVER, NOW)
    kill_at_random(tally, 100, lambda worker: count_for_ever(table, tally, worker), 11)
    session = table.get(key, NOW)
    assert session is not None
    assert session.value == b"%d" % (session.generation - 1)
    assert 0 <= int(session.value) - tally.done_total <= 100 + WORKERS
    assert (table.stats().damaged, table.stats().used) == (0, 1)


def stop_inside(table: HashTable, key: bytes) -> None:
    with table.stripe(key):
        os.kill(os.getpid(), signal.SIGSTOP)


def test_a_stopped_holder_delays_nobody_for_long(
    instance: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lock, "WAIT_SECONDS", 0.05)
    table = RateTable.create(instance, 100)
    one = Ask(table.key(b"one"), b"one", LIMIT, 1)
    table.take(one, NOW)
    pid = fork(lambda: stop_inside(table.table, one.key))
    os.waitpid(pid, os.WUNTRACED)
    for _ in range(2):
        with pytest.raises(LockTimeoutError, match="was its holder stopped"):
            table.take(one, NOW)
    assert table.stats().timeouts == 2
    other = next(
        key
        for key in (table.key(b"%d" % number) for number in range(100))
        if table.table.stripe(key) is not table.table.stripe(one.key)
    )
    assert table.take(one._replace(key=other), NOW).allowed  # only one stripe is stuck
    os.kill(pid, signal.SIGCONT)
    assert exit_code(pid) == 0
    assert table.take(one, NOW).remaining == CAPACITY - 2
    assert table.stats().repairs == 0


def test_a_stopped_holder_that_is_killed_is_cleaned_up_after(instance: str) -> None:
    table = RateTable.create(instance, 100)
    one = Ask(table.key(b"one"), b"one", LIMIT, 1)
    pid = fork(lambda: stop_inside(table.table, one.key))
    os.waitpid(pid, os.WUNTRACED)
    os.kill(pid, signal.SIGKILL)
    assert exit_code(pid) == -signal.SIGKILL
    assert table.take(one, NOW).allowed
    assert (table.stats().repairs, table.stats().timeouts) == (1, 0)
