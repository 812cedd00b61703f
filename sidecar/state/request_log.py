"""The request log's database: a worker's writer, and what any database of it can do.

Source: spec/llm.md section 5.4. `request_log_sqlite` and `request_log_postgres` are the databases.

Who does what: each worker has one writer, with one thread and one connection of its own; control
reads, and deletes what is too old. A request puts its row into the worker's queue and is done: it
waits for no lock and no disk. The thread commits a batch each second, or as soon as one is full.

    queue has room    the row is written within about a second, and for certain by a clean end
    queue is full     the row is dropped and counted
    store at fault    the batch is kept and tried again each second, so the queue fills, and so on
    process killed    what was committed is whole and stays; the batch under way is not there at all
    power failure     the last commits may be gone; a SQLite file is whole (synchronous=NORMAL)
"""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Sequence
from contextlib import AbstractContextManager
from typing import Any, Final, Literal, Protocol, final

from sidecar.errors import SidecarError
from sidecar.telemetry.request_log import Row

MAX_ROWS: Final = 10_000
MAX_BYTES: Final = 32 * 1024 * 1024
"""What may wait in one worker."""
BATCH_ROWS: Final = 500
BATCH_SECONDS: Final = 1.0
_RETRY_SECONDS: Final = 1.0
_CLOSE_SECONDS: Final = 2.0
_QUIET_SECONDS: Final = 60.0
"""Between two lines of the log about the same trouble."""
Dialect = Literal["sqlite", "postgres"]

_log = logging.getLogger("sidecar.state.request_log")


class RequestLogError(SidecarError):
    """The file cannot be read or written; its name and the reason."""


class SlowQueryError(SidecarError):
    """A query was given up."""


class Reader(Protocol):
    """A connection that cannot write. `?` stands for a parameter, whatever the database."""

    def execute(self, sql: str, parameters: Sequence[Any] = (), /) -> Any:
        """A cursor: iterable, with `fetchone` and `fetchall`."""


class Store(Protocol):
    """A connection that writes, of one thread. It connects when it has to."""

    def commit(self, batch: Sequence[Row]) -> None:
        """All of the batch or nothing; of none, only connect. Raises."""

    def close(self) -> None:
        """Raises."""


class RequestLogDatabase(Protocol):
    """Where the request log is."""

    @property
    def name(self) -> str:
        """As logs may show it."""

    @property
    def dialect(self) -> Dialect:
        """How queries are written."""

    @property
    def transient(self) -> tuple[type[Exception], ...]:
        """Errors of a store after which the same rows are tried again."""

    def store(self) -> Store:
        """A new one."""

    def reader(self, seconds: float) -> AbstractContextManager[Reader | None]:
        """A connection for one query of so many seconds at most; None while there is nothing.

        Leaving it raises: RequestLogError, SlowQueryError.
        """

    def purge(self, before: str) -> int:
        """Delete rows that were completed before then, in small transactions; how many. Blocks.

        `before`: a time as the rows have it. Raises: RequestLogError.
        """


@final
class RequestLogWriter:
    """One in a worker. `put` is the event loop's; all else of it the thread's."""

    def __init__(
        self,
        database: RequestLogDatabase,
        *,
        max_rows: int = MAX_ROWS,
        max_bytes: int = MAX_BYTES,
    ) -> None:
        """Begins at once, so that a database at fault is known before the first request."""
        self._name = database.name
        self._store = database.store()
        self._transient = database.transient
        self._max_rows = max_rows
        self._max_bytes = max_bytes
        self._rows: deque[Row] = deque()
        # Each number has one writer, so that none needs a lock: bytes that wait are the difference.
        self._put_bytes = self._taken_bytes = 0
        self._overflowed = self._written = self._refused = self._failures = 0
        self._under_way = 0
        """Rows that the thread has taken and not yet written."""
        self._has_some = threading.Event()
        self._has_enough = threading.Event()
        self._is_ending = threading.Event()
        self._is_failing = False
        self._told = -_QUIET_SECONDS
        self._full_told = -_QUIET_SECONDS
        self._thread = threading.Thread(target=self._run, name="request-log", daemon=True)
        self._thread.start()

    def put(self, row: Row) -> None:
        """Take a row to be written, or drop it. Never waits."""
        size = row.size_bytes
        waiting = len(self._rows)
        if (
            waiting + self._under_way >= self._max_rows
            or self._put_bytes - self._taken_bytes + size > self._max_bytes
            or self._is_ending.is_set()
        ):
            self._overflowed += 1
            self._tell_full()
            return
        self._put_bytes += size
        self._rows.append(row)
        # After the row is there, as the thread looks for rows after it has cleared them.
        if not self._has_some.is_set():
            self._has_some.set()
        if waiting + 1 >= BATCH_ROWS and not self._has_enough.is_set():
            self._has_enough.set()

    def lose(self) -> None:
        """Count a row that nobody could make."""
        self._overflowed += 1

    def counts(self) -> tuple[int, int, int]:
        """Rows written, rows lost, and times that nothing could be written: since it began."""
        return self._written, self._overflowed + self._refused, self._failures

    def close(self, timeout_seconds: float = _CLOSE_SECONDS) -> None:
        """Write what waits, and end. What the disk does not take in this time is lost, counted."""
        self._is_ending.set()
        self._has_some.set()
        self._has_enough.set()
        self._thread.join(timeout_seconds)
        lost = len(self._rows) + self._under_way
        if lost:
            self._overflowed += lost
            self._rows.clear()
            _log.error("request log: %s: %d requests are lost", self._name, lost)

    def _tell_full(self) -> None:
        now = time.monotonic()
        if now - self._full_told >= _QUIET_SECONDS:
            self._full_told = now
            _log.error("request log: %s does not keep up; requests are left out", self._name)

    # --- the thread's -----------------------------------------------------------------------

    def _run(self) -> None:
        self._try([])
        batch: list[Row] = []
        while True:
            if not batch:
                self._has_some.wait()
                self._has_enough.wait(BATCH_SECONDS)
                batch = self._taken()
            is_last = self._is_ending.is_set()
            if self._try(batch):
                self._written += len(batch)
                self._settle(batch)
            elif not is_last:
                self._is_ending.wait(_RETRY_SECONDS)
            if is_last and (batch or not self._rows):
                break
        self._let_go()

    def _taken(self) -> list[Row]:
        rows = self._rows
        self._has_some.clear()
        self._has_enough.clear()
        batch: list[Row] = []
        while rows and len(batch) < BATCH_ROWS:
            self._under_way += 1
            batch.append(rows.popleft())
        if rows or self._is_ending.is_set():
            self._has_some.set()
        if len(rows) >= BATCH_ROWS or self._is_ending.is_set():
            self._has_enough.set()
        return batch

    def _settle(self, batch: list[Row]) -> None:
        """Written, or refused for good."""
        self._taken_bytes += sum(row.size_bytes for row in batch)
        self._under_way = 0
        batch.clear()

    def _try(self, batch: list[Row]) -> bool:
        """Commit a batch. What the database calls a fault of the rows themselves is dropped."""
        try:
            self._store.commit(batch)
        except self._transient as error:
            self._fail(error)
            self._let_go()
            return False
        except Exception as error:
            # Not the disk, nor the network: the file is none of SQLite's, or some row is at fault,
            # and would be each time.
            self._fail(error)
            self._let_go()
            self._refused += len(batch)
            self._settle(batch)
            return True
        if self._is_failing:
            self._is_failing = False
            _log.warning("request log: %s is written again", self._name)
        return True

    def _fail(self, error: Exception) -> None:
        self._failures += 1
        self._is_failing = True
        now = time.monotonic()
        if now - self._told >= _QUIET_SECONDS:
            self._told = now
            text = f"{type(error).__name__}: {error}"
            _log.error("request log: %s cannot be written: %s", self._name, text)

    def _let_go(self) -> None:
        try:
            self._store.close()
        except Exception as error:
            self._fail(error)
