"""Tables that outlive their instance; and a /dev/shm that is too small for one."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from shm.budgets import BudgetLimit, BudgetTable
from shm.errors import SegmentInUseError, SegmentMissingError
from shm.layout import GENERATION_OFFSET
from shm.leases import LeaseTable
from shm.rates import Ask, Limit, RateTable
from shm.segment import segment_name, sweep, unlink
from shm.sessions import NOBODY, SessionTable
from tests.shm.cuts import exit_code, fork

NOW = 10**15
LIMIT = Limit(100, 1, 2**61)
DAY_NS = 24 * 3600 * 10**9
ROOT = Path(__file__).parents[2]


@pytest.fixture
def instance() -> Iterator[str]:
    instance = f"test-kept-{os.getpid()}"
    yield instance
    for table in ("rates", "sessions", "budgets", "leases"):
        unlink(segment_name(instance, table, kept=True))


def take(table: RateTable, cost: int = 1) -> int:
    return table.take(Ask(table.key(b"one"), b"one", LIMIT, cost), NOW).remaining


def killed_instance(instance: str, act: Callable[[RateTable], object]) -> None:
    """A supervisor with a worker; both are killed, the worker in its act, if that waits."""
    ready, end = os.pipe()

    def supervise() -> None:
        table = RateTable.open(instance, 100)
        take(table, 40)

        def work() -> None:
            act(table)
            os.write(end, b"%d" % os.getpid())
            signal.pause()

        fork(work)
        signal.pause()

    supervisor = fork(supervise)
    worker = int(os.read(ready, 16))
    for pid in (worker, supervisor):
        os.kill(pid, signal.SIGKILL)
    assert exit_code(supervisor) == -signal.SIGKILL
    os.close(ready)
    os.close(end)


def test_an_instance_that_was_killed_leaves_its_levels(instance: str) -> None:
    killed_instance(instance, take)
    table = RateTable.open(instance, 100)
    assert table.table.refusal == ""
    assert take(table) == 58
    table.close()
    with pytest.raises(SegmentMissingError):
        RateTable.attach(instance, kept=True)


def test_a_lock_that_its_holder_died_with_is_repaired_by_the_heir(instance: str) -> None:
    killed_instance(instance, lambda table: table.table.stripe(table.key(b"one")).__enter__())
    table = RateTable.open(instance, 100)
    assert take(table) == 59
    assert table.stats().repairs == 1
    table.close()


def test_what_lives_is_not_taken_over_unless_told_to(instance: str) -> None:
    old = RateTable.open(instance, 100)
    take(old, 40)

    def succeed() -> None:
        with pytest.raises(SegmentInUseError, match="does this instance run already"):
            RateTable.open(instance, 100)
        new = RateTable.open(instance, 100, from_living=True)
        assert take(new) == 59
        new.leave()

    assert exit_code(fork(succeed)) == 0
    assert take(old) == 58  # both worked on one table
    old.close()  # no longer its own to remove
    assert RateTable.open(instance, 100).peek(old.key(b"one"), NOW)


def test_what_is_left_is_for_whoever_comes_after_the_end(instance: str) -> None:
    def supervise() -> None:
        table = RateTable.open(instance, 100)
        take(table, 40)
        table.leave()
        with pytest.raises(SegmentInUseError):
            RateTable.open(instance, 100)
        table.close()  # has nothing left to remove

    assert exit_code(fork(supervise)) == 0
    table = RateTable.open(instance, 100)
    assert take(table) == 59
    table.close()


def test_sessions_are_kept_too(instance: str) -> None:
    def supervise() -> None:
        table = SessionTable.open(instance, 100)
        table.begin(table.key(b"session"), NOBODY, b"value", 10**9, NOW)
        table.leave()

    assert exit_code(fork(supervise)) == 0
    table = SessionTable.open(instance, 100)
    session = table.get(table.key(b"session"), NOW)
    assert session is not None
    assert session.value == b"value"
    table.close()


def test_a_table_for_other_numbers_takes_over_and_says_so(instance: str) -> None:
    killed_instance(instance, take)
    table = RateTable.open(instance, 10_000)
    assert "slots of 96 bytes, wanted" in table.table.refusal
    assert table.table.refusal.endswith("; 1 entries were moved, 0 had no room")
    assert take(table) == 58
    table.close()


def test_what_has_no_room_in_a_smaller_table_is_told(instance: str) -> None:
    def supervise() -> None:
        table = RateTable.open(instance, 5000)
        for number in range(5000):
            table.take(Ask(table.key(b"%d" % number), b"", LIMIT, 40), NOW)
        table.leave()

    assert exit_code(fork(supervise)) == 0
    table = RateTable.open(instance, 100)
    used = table.stats().used
    assert 100 <= used < 5000
    assert f"; {used} entries were moved, {5000 - used} had no room" in table.table.refusal
    table.close()


def test_sessions_and_leases_move_too(instance: str) -> None:
    def supervise() -> None:
        sessions = SessionTable.open(instance, 100)
        sessions.begin(sessions.key(b"session"), NOBODY, b"value", 10**9, NOW)
        leases = LeaseTable.open(instance, 100, bytes(32))
        leases.take_all([Ask(b"k" * 16, b"one", LIMIT, 1, b"n" * 16)], NOW, NOW, alone=True)
        sessions.leave()
        leases.leave()

    assert exit_code(fork(supervise)) == 0
    sessions = SessionTable.open(instance, 10_000)
    session = sessions.get(sessions.key(b"session"), NOW)
    assert session is not None
    assert session.value == b"value"
    leases = LeaseTable.open(instance, 10_000, bytes(32))
    (slot,) = leases.rows()
    assert (slot.used, slot.label.rstrip(b"\0")) == (1, b"one")
    sessions.close()
    leases.close()


def test_budgets_move_with_their_keys_and_without_the_holds_of_the_dead(instance: str) -> None:
    limit = BudgetLimit(100, 0, blocks=True)

    def supervise() -> None:
        table = BudgetTable.open(instance, 100)
        for amount in (7, 50):
            made = table.reserve(table.key(b"k"), b"team", limit, amount, NOW, NOW)
            assert made is not None
            if amount == 7:
                table.commit(made, 7, NOW)
        table.leave()

    assert exit_code(fork(supervise)) == 0
    table = BudgetTable.open(instance, 20_000)
    (row,) = table.rows()
    assert (row.key, row.label, row.spent, row.reserved) == (table.key(b"k"), b"team", 7, 0)
    assert "1 entries were moved" in table.table.refusal
    table.close()


def test_a_damaged_table_is_replaced_and_that_is_said(instance: str) -> None:
    killed_instance(instance, take)
    path = Path("/dev/shm") / segment_name(instance, "rates", kept=True)[1:]
    os.truncate(path, path.stat().st_size - 4096)
    table = RateTable.open(instance, 100)
    assert "truncated" in table.table.refusal
    assert take(table) == 99
    table.close()


def beat_at(instance: str, time_ns: int) -> None:
    path = Path("/dev/shm") / segment_name(instance, "rates", kept=True)[1:]
    with path.open("r+b") as file:
        file.seek(GENERATION_OFFSET)
        file.write(time_ns.to_bytes(8, sys.byteorder))


def test_a_kept_table_is_swept_a_day_after_its_last_beat(instance: str) -> None:
    name = segment_name(instance, "rates", kept=True)
    killed_instance(instance, take)
    assert name not in sweep()
    beat_at(instance, time.time_ns() - DAY_NS + 3600 * 10**9)
    assert name not in sweep()
    beat_at(instance, time.time_ns() - DAY_NS - 1)
    assert name in sweep()


def test_a_living_one_is_never_swept_and_beats(instance: str) -> None:
    table = RateTable.open(instance, 100)
    beat_at(instance, 1)
    assert segment_name(instance, "rates", kept=True) not in sweep()
    before_ns = time.time_ns()
    table.beat()
    assert table.table.segment.generation_word[0] >= before_ns
    table.close()


SCRIPT = """
import os, sys
from shm import RateTable, ShmError
try:
    RateTable.create("small", 100_000)
except ShmError as problem:
    print(problem)
print([name for name in os.listdir("/dev/shm") if name.startswith("agw-")])
"""


def test_58_a_small_dev_shm_is_refused_with_the_way_out() -> None:
    unshare = ["unshare", "--mount", *(() if os.geteuid() == 0 else ("--map-root-user",))]
    mount = "mount -t tmpfs -o size=1m tmpfs /dev/shm"
    try:
        probe = subprocess.run([*unshare, "sh", "-c", mount], check=False, capture_output=True)
    except FileNotFoundError:
        pytest.skip("needs unshare(1)")
    if probe.returncode:
        pytest.skip("may not mount in a namespace of its own")

    def run(*steps: str) -> str:
        steps = (mount, *steps, 'exec "$0" -c "$1"')
        command = [*unshare, "sh", "-ec", "; ".join(steps), sys.executable, SCRIPT]
        return subprocess.run(
            command, check=True, capture_output=True, text=True, cwd=ROOT, timeout=60
        ).stdout

    said = run()
    found = re.search(r"Enlarge it to (\d+)m or more: mount -o remount,size=\1m /dev/shm;", said)
    assert found, said
    assert "no room for" in said
    assert f"docker run --shm-size={found[1]}m" in said
    assert "emptyDir with medium: Memory" in said
    assert said.endswith("[]\n")  # nothing is left of the attempt
    assert "no room" not in run(f"mount -o remount,size={found[1]}m /dev/shm")
