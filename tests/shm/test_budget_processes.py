"""Budgets spent by several processes at once, some of which are killed."""

from __future__ import annotations

import mmap
import os
import random
import signal
import time
from collections.abc import Iterator

import pytest

from shm.budget_slots import MAX_AMOUNT
from shm.budgets import BudgetLimit, BudgetTable
from tests.shm.cuts import exit_code, fork
from tests.shm.spending import HOUR, NOW, reserve, reserved, spent


@pytest.fixture
def table() -> Iterator[BudgetTable]:
    made = BudgetTable.create(f"test-processes-{os.getpid()}", 1000)
    yield made
    made.close()


def test_four_processes_spend_exactly(table: BudgetTable) -> None:
    limit = BudgetLimit(MAX_AMOUNT, HOUR, blocks=True)
    rounds = 20_000

    def work() -> None:
        for number in range(rounds):
            made = reserve(table, 3 * (number % 2), limit)
            assert made is not None
            table.commit(made, 5, NOW)

    pids = [fork(work) for _ in range(4)]
    assert [exit_code(pid) for pid in pids] == [0, 0, 0, 0]
    assert (spent(table), reserved(table)) == (4 * rounds * 5, 0)


def test_a_limit_is_never_passed_by_estimates_that_are_right(table: BudgetTable) -> None:
    limit = BudgetLimit(10_000, HOUR, blocks=True)

    def work() -> None:
        for _ in range(4000):
            made = reserve(table, 1, limit)
            if made is not None:
                table.commit(made, 1, NOW)

    pids = [fork(work) for _ in range(4)]
    assert [exit_code(pid) for pid in pids] == [0, 0, 0, 0]
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
        exit_code(pid)
        begun, done = counts[0], counts[1]
        found = spent(table) - total
        assert done <= found <= begun, (done, found, begun)
        total += found
        table.release_dead(NOW)
        assert reserved(table) == 0
        assert table.stats().used == 1
    assert spent(table) == total
