"""The robust lock among real processes, some of which are killed while they hold it."""

from __future__ import annotations

import mmap
import os
import random
import signal
from collections.abc import Callable
from threading import Thread

import pytest

from shm.errors import LockBrokenError, SegmentRefusedError, ShmError
from shm.lock import LOCK_BYTES, RobustLock


class Shared:
    """An anonymous page: a lock, and words behind it that must always be equal."""

    def __init__(self, repair: Callable[[], None] | None = None) -> None:
        self.page = memoryview(mmap.mmap(-1, 4096))
        self.words = self.page[LOCK_BYTES:].cast("Q")
        self.lock = RobustLock.create(self.page[:LOCK_BYTES], repair or self.level)

    def level(self) -> None:
        self.words[1] = self.words[0]


def fork(action: Callable[[], object]) -> int:
    pid = os.fork()
    if pid == 0:
        try:
            action()
            os._exit(0)
        except BaseException:
            os._exit(1)
    return pid


def exit_code(pid: int) -> int:
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def die_holding(shared: Shared) -> None:
    with shared.lock:
        shared.words[0] += 1
        os.kill(os.getpid(), signal.SIGKILL)


def test_exclusion_between_processes() -> None:
    shared = Shared()

    def add() -> None:
        for _ in range(20_000):
            with shared.lock:
                shared.words[0] += 1

    assert [exit_code(pid) for pid in [fork(add) for _ in range(3)]] == [0, 0, 0]
    assert (shared.words[0], shared.lock.recoveries) == (60_000, 0)


def test_53_a_dead_holder_is_cleaned_up_after() -> None:
    shared = Shared()
    assert exit_code(fork(lambda: die_holding(shared))) == -signal.SIGKILL
    assert shared.words[0] != shared.words[1]
    with shared.lock:
        assert shared.words[0] == shared.words[1]  # L1: repaired before anyone sees it
    with shared.lock:
        assert shared.lock.recoveries == 1


def test_53_death_during_the_repair_leaves_it_to_the_next() -> None:
    shared = Shared()
    owner = os.getpid()

    def repair() -> None:
        if os.getpid() != owner:
            os.kill(os.getpid(), signal.SIGKILL)
        shared.level()

    shared.lock = RobustLock(shared.page[:LOCK_BYTES], repair)
    exit_code(fork(lambda: die_holding(shared)))
    assert exit_code(fork(shared.lock.__enter__)) == -signal.SIGKILL
    with shared.lock:
        assert shared.words[0] == shared.words[1]
    assert shared.lock.recoveries == 1


def test_a_failed_repair_breaks_the_lock_for_all() -> None:
    def refuse() -> None:
        raise ValueError("beyond repair")

    shared = Shared(refuse)
    exit_code(fork(lambda: die_holding(shared)))
    with pytest.raises(LockBrokenError, match="beyond repair"):
        shared.lock.__enter__()
    other = RobustLock(shared.page[:LOCK_BYTES], shared.level)
    with pytest.raises(LockBrokenError, match="could not be repaired"):
        other.__enter__()


def test_taking_it_twice_is_an_error_not_a_hang() -> None:
    shared = Shared()
    with shared.lock, pytest.raises(ShmError, match="deadlock"):
        shared.lock.__enter__()


def test_waiting_leaves_other_threads_running() -> None:
    shared = Shared()
    ready, go = os.pipe(), os.pipe()

    def hold() -> None:
        with shared.lock:
            os.write(ready[1], b"x")
            os.read(go[0], 1)

    pid = fork(hold)
    os.read(ready[0], 1)

    def take() -> None:
        with shared.lock:
            shared.words[0] += 1

    thread = Thread(target=take)
    thread.start()
    os.write(go[1], b"x")  # runs only because the waiting thread gave the GIL up
    thread.join(10)
    assert not thread.is_alive()
    assert shared.words[0] == 1
    assert exit_code(pid) == 0


def test_a_block_that_was_never_set_up_is_refused() -> None:
    with pytest.raises(SegmentRefusedError, match="never set up"):
        RobustLock(memoryview(bytearray(LOCK_BYTES)), lambda: None)


def test_52_killed_at_random_no_one_waits_for_ever() -> None:
    shared = Shared()
    chance = random.Random(52)

    def work() -> None:
        while True:
            with shared.lock:
                assert shared.words[0] == shared.words[1]
                shared.words[0] += 1
                shared.words[1] += 1

    pids = [fork(work) for _ in range(3)]
    kills = 0
    while kills < 60:
        before = shared.words[0]
        while shared.words[0] < before + chance.randrange(1, 400):
            os.sched_yield()
        victim = chance.randrange(3)
        os.kill(pids[victim], signal.SIGKILL)
        assert exit_code(pids[victim]) == -signal.SIGKILL
        pids[victim] = fork(work)
        kills += 1
    for pid in pids:
        os.kill(pid, signal.SIGKILL)
        assert exit_code(pid) == -signal.SIGKILL
    with shared.lock:
        assert shared.words[0] == shared.words[1]
