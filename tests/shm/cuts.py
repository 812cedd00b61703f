"""A process that dies at any of its stores: memory that takes the first n and, torn, the next.

Dying is either an exception that leaves the stripe as a dead holder would, for thousands of cases a
second, or SIGKILL in a forked child, for the kernel's part of it.
"""

from __future__ import annotations

import os
import signal
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from shm.stripe import Stripe
from shm.table import HashTable


class Cut(BaseException):
    """The process is dead: nothing in it may catch this."""


def die() -> None:
    """Be killed, without a chance to clean up."""
    os.kill(os.getpid(), signal.SIGKILL)


def fall() -> None:
    """Stand for `die` in a process that goes on to look at what was left."""
    raise Cut


class Fate:
    """Counts stores. The one after `stores` of them keeps `torn` bytes, and ends the process."""

    def __init__(self, stores: int, torn: int, end: Callable[[], None]) -> None:
        self.left = stores
        self.torn = torn
        self.end = end
        self.is_over = False

    def store(self, target: Any, where: int | slice, data: Any) -> None:
        if self.is_over:
            return  # the dead store nothing, whatever the language does on the way out
        if self.left:
            self.left -= 1
            target[where] = data
            return
        self.is_over = True
        if isinstance(where, slice):
            size = min(self.torn, len(data))
            target[where.start : where.start + size] = data[:size]
        self.end()


class Memory:
    """Stands for a stripe's mapping or words; reads pass, stores are up to fate."""

    def __init__(self, memory: Any, fate: Fate) -> None:
        self._memory = memory
        self._fate = fate

    def __getitem__(self, where: Any) -> Any:
        return self._memory[where]

    def __setitem__(self, where: Any, data: Any) -> None:
        self._fate.store(self._memory, where, data)

    def __iter__(self) -> Iterator[int]:
        return iter(self._memory)

    def find(self, *arguments: Any) -> int:
        """As mmap's."""
        found: int = self._memory.find(*arguments)
        return found


@contextmanager
def fated(table: HashTable, fate: Fate) -> Iterator[None]:
    """All stripes of the table under this fate; afterwards they are whole memory again."""
    stripes: list[Any] = list(table.stripes)
    kept = [(stripe.file, stripe._words) for stripe in stripes]
    for stripe in stripes:
        stripe.file, stripe._words = Memory(stripe.file, fate), Memory(stripe._words, fate)
    try:
        yield
    finally:
        for stripe, (file, words) in zip(stripes, kept, strict=True):
            stripe.file, stripe._words = file, words


def cut(table: HashTable, stores: int, torn: int, action: Callable[[], object]) -> bool:
    """Do the action, dying at a store; then what the next locker of each stripe does.

    False: the action had no more stores than that, and is done.
    """
    try:
        with fated(table, Fate(stores, torn, fall)):
            action()
    except Cut:
        for stripe in table.stripes:
            repair(stripe)
        return True
    return False


def repair(stripe: Stripe) -> None:
    """What the lock does when its holder has died."""
    with stripe:
        stripe._repair()


def killed(table: HashTable, stores: int, torn: int, action: Callable[[], object]) -> bool:
    """The same in a child that is killed at that store, holding its locks."""
    pid = os.fork()
    if pid == 0:
        try:
            with fated(table, Fate(stores, torn, die)):
                action()
        finally:
            os._exit(0)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == -signal.SIGKILL


def fork(action: Callable[[], object]) -> int:
    """Run it in a child that ends without clean-up: 0 when it returned, else 1; its pid."""
    pid = os.fork()
    if pid == 0:
        try:
            action()
            os._exit(0)
        except BaseException:
            # By the descriptor, which a captured test shows.
            os.write(2, traceback.format_exc().encode())
            os._exit(1)
    return pid


def exit_code(pid: int) -> int:
    """How a child ended: its code, or the number of the signal below 0."""
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
