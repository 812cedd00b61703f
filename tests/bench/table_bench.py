"""Rates, sessions and budgets under 1, 2 and 4 processes, and what a key costs in memory."""

from __future__ import annotations

import itertools
import os
import struct
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Final, Protocol

from shm.budget_slots import BudgetLimit
from shm.budgets import Ask as BudgetAsk
from shm.budgets import BudgetTable, Refused
from shm.errors import ShmError
from shm.rates import Ask, Limit, RateTable
from shm.sessions import NOBODY, SessionTable
from shm.table import TableStats

PROCESSES: Final = (1, 2, 4)
BATCH: Final = 200
KEYS: Final = 100_000
FOREVER_NS: Final = 2**60
LIMIT: Final = Limit(2**60, 1, FOREVER_NS)
BUDGET: Final = BudgetLimit(amount=2**60, window_ns=0, blocks=True)
_RESULT: Final = struct.Struct("=Qdd")

Operation = Callable[[], object]


class Table(Protocol):
    """What all tables have in common."""

    def stats(self) -> TableStats:
        """As of now."""

    def close(self) -> None:
        """Remove it."""


@dataclass(frozen=True, slots=True)
class Case:
    """An operation. `prepare(worker)` makes it, in the process that will call it."""

    name: str
    table: Table
    prepare: Callable[[int], Operation]
    most: dict[int, float]
    """The most CPU it may cost, µs a call, by the number of processes."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """Sums over all processes."""

    calls: int
    cpu_seconds: float
    call_seconds: float
    calls_a_second: float
    waits: int


def bench(seconds: float = 1.0) -> None:
    """Print both tables."""
    print(
        f"\n{'operation':<38}{'processes':>9}{'CPU µs':>9}{'time µs':>9}{'calls/s':>12}"
        f"{'waited':>8}  target"
    )
    with tables() as (rates, sessions, budgets):
        for case in cases(rates, sessions, budgets):
            for count in PROCESSES:
                print(line(case, count, measured(case, count, seconds)))
    print(f"\n{'table':<10}{'keys':>10}{'MB':>9}{'bytes a key':>13}")
    for name, create, keys in (
        ("rates", RateTable.create, 1_000_000),
        ("rates", RateTable.create, 100_000),
        ("rates", RateTable.create, 1_000),
        ("budgets", BudgetTable.create, 10_000),
        ("sessions", SessionTable.create, 10_000),
    ):
        print(f"{name:<10}{keys:>10,}{size_of(create, keys)}")


@contextmanager
def tables() -> Iterator[tuple[RateTable, SessionTable, BudgetTable]]:
    """One of each, removed at the end."""
    instance = f"bench-tables-{os.getpid()}"
    made = (
        RateTable.create(instance, KEYS),
        SessionTable.create(instance, 10_000),
        BudgetTable.create(instance, 10_000),
    )
    try:
        yield made
    finally:
        for table in made:
            table.close()


def cases(rates: RateTable, sessions: SessionTable, budgets: BudgetTable) -> list[Case]:
    """What is measured, with the bounds of docs/shared-memory.md."""
    now_ns = time.monotonic_ns()
    session = sessions.key(b"session")
    sessions.begin(session, NOBODY, b"x" * 200, FOREVER_NS, now_ns)

    def take(name: bytes, limit: Limit = LIMIT) -> Operation:
        ask = Ask(rates.key(name), name, limit, 1)
        return lambda: rates.take(ask, time.monotonic_ns())

    def take_new(worker: int) -> Operation:
        # Full buckets that expire at once, so that the table never fills.
        quick, numbers = Limit(2, 2, 1_000), itertools.count(worker << 40)
        return lambda: rates.take(
            Ask(next(numbers).to_bytes(8, "little") * 2, b"", quick, 1), time.monotonic_ns()
        )

    def take_three(worker: int) -> Operation:
        asks = [Ask(rates.key(b"all %d" % n), b"", LIMIT, 1) for n in range(3)]
        return lambda: rates.take_all(asks, time.monotonic_ns())

    def take_two(worker: int) -> Operation:
        asks = [Ask(rates.key(b"all %d" % n), b"", LIMIT, 1) for n in range(2)]
        return lambda: rates.take_all(asks, time.monotonic_ns())

    def spend(*names: bytes, estimate: int = 5) -> Operation:
        asks = [BudgetAsk(budgets.key(name), name, BUDGET, estimate) for name in names]

        def reserve_and_commit() -> None:
            wall_ns = time.time_ns()
            made = budgets.reserve_all(asks, wall_ns, FOREVER_NS)
            assert not isinstance(made, Refused)
            for held in made:
                budgets.commit(held, 3, wall_ns)

        return reserve_and_commit

    used_up = Limit(1, 1, FOREVER_NS)
    return [
        Case("rates: take, one key", rates, lambda _: take(b"one"), {1: 4.0, 4: 15.0}),
        Case("rates: take, a key each", rates, lambda n: take(b"key %d" % n), {1: 4.0}),
        Case("rates: refused, one key", rates, lambda _: take(b"no", used_up), {1: 4.0}),
        Case("rates: take, new keys", rates, take_new, {}),
        Case("rates: take of 2 buckets", rates, take_two, {1: 15.0}),
        Case("rates: take of 3 buckets", rates, take_three, {}),
        Case(
            "sessions: get, one key",
            sessions,
            lambda _: lambda: sessions.get(session, now_ns),
            {1: 3.0},
        ),
        Case("budgets: no estimate, one key", budgets, lambda _: spend(b"0", estimate=0), {1: 8.0}),
        Case("budgets: an estimate, one key", budgets, lambda _: spend(b"one"), {1: 8.0}),
        Case("budgets: an estimate, a key each", budgets, lambda n: spend(b"%d" % n), {1: 8.0}),
        Case("budgets: no estimate, 2 keys", budgets, lambda _: spend(b"a", b"b", estimate=0), {}),
        Case("budgets: an estimate, 2 keys", budgets, lambda _: spend(b"a", b"b"), {}),
    ]


def measured(case: Case, count: int, seconds: float) -> Outcome:
    """The operation in `count` processes at once."""
    waits = case.table.stats().waits
    results, start = os.pipe(), os.pipe()
    pids = [_worker(case, worker, seconds, start, results[1]) for worker in range(count)]
    os.close(start[0])
    os.close(start[1])  # end of file: all go on at once
    for pid in pids:
        os.waitpid(pid, 0)
    found = [_RESULT.unpack(os.read(results[0], _RESULT.size)) for _ in pids]
    os.close(results[0])
    os.close(results[1])
    return Outcome(
        calls=sum(calls for calls, _, _ in found),
        cpu_seconds=sum(cpu for _, cpu, _ in found),
        call_seconds=sum(elapsed for _, _, elapsed in found),
        calls_a_second=sum(calls / elapsed for calls, _, elapsed in found),
        waits=case.table.stats().waits - waits,
    )


def _worker(case: Case, worker: int, seconds: float, start: tuple[int, int], result: int) -> int:
    pid = os.fork()
    if pid:
        return pid
    os.close(start[1])
    operation = case.prepare(worker)
    operation()
    os.read(start[0], 1)
    os.write(result, _RESULT.pack(*_repeat(operation, seconds)))
    os._exit(0)


def _repeat(operation: Operation, seconds: float) -> tuple[int, float, float]:
    """Calls made, CPU seconds and seconds that they took."""
    calls, began, cpu = 0, time.perf_counter(), time.process_time()
    while time.perf_counter() - began < seconds:
        for _ in range(BATCH):
            operation()
        calls += BATCH
    return calls, time.process_time() - cpu, time.perf_counter() - began


def line(case: Case, count: int, outcome: Outcome) -> str:
    """One row of the printed table."""
    cpu = outcome.cpu_seconds / outcome.calls * 1e6
    took = outcome.call_seconds / outcome.calls * 1e6
    most = case.most.get(count)
    target = "" if most is None else f"{'met' if cpu <= most else 'MISSED'}: ≤ {most:g}"
    return (
        f"{case.name:<38}{count:>9}{cpu:>9.2f}{took:>9.2f}{outcome.calls_a_second:>12,.0f}"
        f"{outcome.waits / outcome.calls:>8.1%}  {target}"
    )


def size_of(create: Callable[[str, int], Table], keys: int) -> str:
    """Megabytes in all, and bytes a key; or why there is no such table here."""
    try:
        table = create(f"bench-size-{os.getpid()}", keys)
    except ShmError as problem:
        return f"  {problem}"
    size_bytes = table.stats().size_bytes
    table.close()
    return f"{size_bytes / 1e6:>9.1f}{size_bytes / keys:>13.0f}"
