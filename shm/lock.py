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
    L5  Nobody waits longer than `WAIT_SECONDS`: a holder that was stopped (SIGSTOP, a debugger, a
        frozen cgroup) is not dead, so the kernel does not give its lock away, and a request must
        not hang on it.
"""

from __future__ import annotations

import ctypes
import errno
import os
import sys
import time
from collections.abc import Callable
from types import TracebackType
from typing import Self, final

from shm.errors import LockBrokenError, LockTimeoutError, SegmentRefusedError, ShmError

LOCK_BYTES = 64
_COUNT = 48 // 8
_MARK = 56 // 8
_MARK_VALUE = 0x6B636F4C74737552
_PROCESS_SHARED = 1
_ERROR_CHECKING = 2
_ROBUST = 1
WAIT_SECONDS = 1.0
_SPINS = 20
"""Tries before sleeping. A critical section takes about 3 µs, a sleep and its wake-up 20."""

if sys.platform != "linux":
    raise ShmError("robust process-shared mutexes need Linux")

# PyDLL keeps the GIL: right for calls that never wait, and cheaper. Waiting gives it up.
_QUICK = ctypes.PyDLL(None)
_WAITING = ctypes.CDLL(None)
trylock = _QUICK.pthread_mutex_trylock
unlock = _QUICK.pthread_mutex_unlock
_consistent = _QUICK.pthread_mutex_consistent
# Since glibc 2.30; musl has none.
_clocklock = getattr(_WAITING, "pthread_mutex_clocklock", None)
_timedlock = _WAITING.pthread_mutex_timedlock
# Without `argtypes`, which take a third of the time. A mutex goes to them as what `byref` gives,
# never as a number, which would be passed as a C int.
for _function in (trylock, unlock, _consistent):
    _function.restype = ctypes.c_int
# It cannot fail of a lock that is held, and a result that is not made saves a tenth of the pair.
unlock.restype = None
_timedlock.argtypes = (ctypes.c_void_p, ctypes.c_void_p)
_timedlock.restype = ctypes.c_int
if _clocklock is not None:
    _clocklock.argtypes = (ctypes.c_void_p, ctypes.c_int, ctypes.c_void_p)
    _clocklock.restype = ctypes.c_int


class _Timespec(ctypes.Structure):
    _fields_ = (("seconds", ctypes.c_long), ("nanoseconds", ctypes.c_long))


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


def _wait(mutex: object) -> int:
    """Spin, then sleep, for a bounded time (L5); the code of the call that ended it."""
    for _ in range(_SPINS):
        code: int = trylock(mutex)
        if code != errno.EBUSY:
            return code
    if _clocklock is not None:
        until = ctypes.byref(_timespec(time.monotonic_ns()))
        return int(_clocklock(mutex, time.CLOCK_MONOTONIC, until))
    return _wait_by_wall_clock(mutex)


def _wait_by_wall_clock(mutex: object) -> int:
    # Where libc has no other call. A step of the clock lengthens or shortens one wait, and the lock
    # is free long before in any case but L5's.
    return int(_timedlock(mutex, ctypes.byref(_timespec(time.time_ns()))))


def _timespec(now_ns: int) -> _Timespec:
    """When to give up."""
    return _Timespec(*divmod(now_ns + int(WAIT_SECONDS * 1e9), 1_000_000_000))


@final
class RobustLock:
    """A context manager over a block of 64 shared, writable bytes; each process makes its own.

    `repair` puts the table right after a holder died (L1, L2). It runs under the lock; what it
    raises breaks the lock for everyone. `waited` is called, under the lock, when it was not free at
    once.
    """

    __slots__ = ("_keep", "_mutex", "_repair", "_waited", "_words")

    def __init__(
        self,
        block: memoryview,
        repair: Callable[[], None],
        waited: Callable[[], None] | None = None,
    ) -> None:
        assert len(block) == LOCK_BYTES
        self._waited = waited
        self._words = block.cast("Q")
        if self._words[_MARK] != _MARK_VALUE:
            raise SegmentRefusedError("lock block was never set up")
        self._bind(block, repair)

    def _bind(self, block: memoryview, repair: Callable[[], None]) -> None:
        self._keep = (ctypes.c_char * LOCK_BYTES).from_buffer(block)
        self._mutex = ctypes.byref(self._keep)
        self._repair = repair

    @classmethod
    def create(
        cls,
        block: memoryview,
        repair: Callable[[], None],
        waited: Callable[[], None] | None = None,
    ) -> Self:
        """Set the block up, before anyone else can see it."""
        keep = (ctypes.c_char * LOCK_BYTES).from_buffer(block)
        _set_up(ctypes.addressof(keep))
        words = block.cast("Q")
        words[_COUNT] = 0
        words[_MARK] = _MARK_VALUE
        return cls(block, repair, waited)

    @property
    def mutex(self) -> object:
        """The mutex, for a caller that inlines `with`: `trylock`, then `settle`."""
        return self._mutex

    @property
    def recoveries(self) -> int:
        """How many dead holders have been cleaned up after."""
        return self._words[_COUNT]

    def __enter__(self) -> None:
        """Raises: LockBrokenError, LockTimeoutError (L5)."""
        # Fast path: free. Entering and leaving cost 0.3 µs together.
        code = trylock(self._mutex)
        if code:
            self.settle(code)

    def __exit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        unlock(self._mutex)

    def settle(self, code: int) -> None:
        """What remains to do after `trylock` gave something other than 0.

        Raises: LockBrokenError, LockTimeoutError (L5).
        """
        if code == errno.EBUSY:
            code = _wait(self._mutex)
            if code in (0, errno.EOWNERDEAD) and self._waited is not None:
                self._waited()
        if code == errno.EOWNERDEAD:
            self._recover()
        elif code == errno.ENOTRECOVERABLE:
            raise LockBrokenError("a shared table could not be repaired after its writer died")
        elif code == errno.ETIMEDOUT:
            raise LockTimeoutError(
                f"a shared table stayed locked for {WAIT_SECONDS} s; was its holder stopped?"
            )
        else:
            _check(code, "pthread_mutex_lock")

    def _recover(self) -> None:
        try:
            self._repair()
        except BaseException as exc:
            unlock(self._mutex)  # unlocked while inconsistent: broken, as POSIX has it
            raise LockBrokenError(f"repair of a shared table failed: {exc}") from exc
        _check(_consistent(self._mutex), "pthread_mutex_consistent")
        self._words[_COUNT] += 1
