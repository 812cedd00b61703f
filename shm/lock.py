"""A mutex in shared memory that survives the death of its holder.

Source: POSIX.1-2017 pthread_mutexattr_setrobust, pthread_mutex_consistent; design section 4.

Block, 64 bytes, aligned to a cache line:

    offset size type field                     written by         a reader may see torn
    0      48   -    pthread_mutex_t (40 on x86-64, 48 on arm64)  libc alone
    48     8    u64  recoveries since creation the lock's holder  no: one aligned word
    56     8    u64  set-up mark               the creator, last  no: one aligned word

States: free → held (lock) → free (unlock). held → orphaned (the holder's thread or process ends;
the kernel walks its robust list). orphaned → repairing (the next locker gets EOWNERDEAD) → held
(repair done, marked consistent) or broken (repair failed; every locker gets ENOTRECOVERABLE for
good). A repairer that dies leaves the lock orphaned again.

Invariants:
    L1  The table behind the lock is handed out only after `repair` has returned.
    L2  `repair` may run any number of times, also over a half-done repair.
    L3  No thread takes the lock twice (error-checking mutex), and no `await` happens under it.
    L4  A signal handler that raises must not be installed in a process that takes locks: asyncio's
        handlers, and the supervisor's, only write a byte.
"""

from __future__ import annotations

import ctypes
import errno
import os
import sys
from collections.abc import Callable
from types import TracebackType
from typing import Self, final

from shm.errors import LockBrokenError, SegmentRefusedError, ShmError

LOCK_BYTES = 64
_COUNT = 48 // 8
_MARK = 56 // 8
_MARK_VALUE = 0x6B636F4C74737552
_PROCESS_SHARED = 1
_ERROR_CHECKING = 2
_ROBUST = 1

if sys.platform != "linux":
    raise ShmError("robust process-shared mutexes need Linux")

# PyDLL keeps the GIL: right for calls that never wait, and cheaper. Waiting gives it up.
_QUICK = ctypes.PyDLL(None)
_WAITING = ctypes.CDLL(None)
_trylock = _QUICK.pthread_mutex_trylock
_unlock = _QUICK.pthread_mutex_unlock
_consistent = _QUICK.pthread_mutex_consistent
_lock = _WAITING.pthread_mutex_lock
for _function in (_trylock, _unlock, _consistent, _lock):
    _function.argtypes = (ctypes.c_void_p,)
    _function.restype = ctypes.c_int


def _check(code: int, call: str) -> None:
    if code:
        raise ShmError(f"{call}: {os.strerror(code)}")


def _set_up(address: int) -> None:
    attributes = ctypes.create_string_buffer(64)
    _check(_QUICK.pthread_mutexattr_init(attributes), "pthread_mutexattr_init")
    for call, value in (
        ("pthread_mutexattr_setpshared", _PROCESS_SHARED),
        ("pthread_mutexattr_setrobust", _ROBUST),
        ("pthread_mutexattr_settype", _ERROR_CHECKING),
    ):
        _check(getattr(_QUICK, call)(attributes, value), call)
    init = _QUICK.pthread_mutex_init
    _check(init(ctypes.c_void_p(address), attributes), "pthread_mutex_init")
    _check(_QUICK.pthread_mutexattr_destroy(attributes), "pthread_mutexattr_destroy")


@final
class RobustLock:
    """A context manager over a block of 64 shared, writable bytes; each process makes its own.

    `repair` puts the table right after a holder died (L1, L2). It runs under the lock; what it
    raises breaks the lock for everyone.
    """

    __slots__ = ("_address", "_keep", "_repair", "_words")

    def __init__(self, block: memoryview, repair: Callable[[], None]) -> None:
        assert len(block) == LOCK_BYTES
        self._words = block.cast("Q")
        if self._words[_MARK] != _MARK_VALUE:
            raise SegmentRefusedError("lock block was never set up")
        self._bind(block, repair)

    def _bind(self, block: memoryview, repair: Callable[[], None]) -> None:
        self._keep = (ctypes.c_char * LOCK_BYTES).from_buffer(block)
        self._address = ctypes.addressof(self._keep)
        self._repair = repair

    @classmethod
    def create(cls, block: memoryview, repair: Callable[[], None]) -> Self:
        """Set the block up, before anyone else can see it."""
        keep = (ctypes.c_char * LOCK_BYTES).from_buffer(block)
        _set_up(ctypes.addressof(keep))
        words = block.cast("Q")
        words[_COUNT] = 0
        words[_MARK] = _MARK_VALUE
        return cls(block, repair)

    @property
    def recoveries(self) -> int:
        """How many dead holders have been cleaned up after."""
        return self._words[_COUNT]

    def __enter__(self) -> None:
        """Raises: LockBrokenError."""
        # Fast path: free. Entering and leaving cost 0.4 µs together.
        code = _trylock(self._address)
        if code:
            self._settle(code)

    def __exit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        _unlock(self._address)

    def _settle(self, code: int) -> None:
        """What remains to do when the mutex was not simply free."""
        if code == errno.EBUSY:
            code = _lock(self._address)
        if code == errno.EOWNERDEAD:
            self._recover()
        elif code == errno.ENOTRECOVERABLE:
            raise LockBrokenError("a shared table could not be repaired after its writer died")
        else:
            _check(code, "pthread_mutex_lock")

    def _recover(self) -> None:
        try:
            self._repair()
        except BaseException as exc:
            _unlock(self._address)  # unlocked while inconsistent: broken, as POSIX has it
            raise LockBrokenError(f"repair of a shared table failed: {exc}") from exc
        _check(_consistent(self._address), "pthread_mutex_consistent")
        self._words[_COUNT] += 1
