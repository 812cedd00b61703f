"""The request log's SQLite file: a worker's writer, and what deletes rows that are old enough.

Source: spec/llm.md section 5.4; SQLite "Write-Ahead Logging". Tables as agentgateway has them, so
that either program, and whatever reads such files, goes on with the other's.

Who does what: each worker has one writer, with one thread and one connection of its own; control
reads, and deletes what is too old. A request puts its row into the worker's queue and is done: it
waits for no lock and no disk. The thread commits a batch each second, or as soon as one is full.

    queue has room    the row is written within about a second, and for certain by a clean end
    queue is full     the row is dropped and counted
    file is at fault  the batch is kept and tried again each second, so the queue fills, and so on
    process killed    what was committed is whole and stays; the batch under way is not there at all
    power failure     the last commits may be gone; the file is whole (WAL, synchronous=NORMAL)
"""

from __future__ import annotations

import logging
import os
import sqlite3
import threading
import time
from collections import deque
from collections.abc import Mapping, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any, Final, final
from urllib.parse import quote

from sidecar.config.model.static import sqlite_path
from sidecar.errors import SidecarError
from sidecar.telemetry.request_log import COLUMNS, Row

MAX_ROWS: Final = 10_000
MAX_BYTES: Final = 32 * 1024 * 1024
"""What may wait in one worker."""
BATCH_ROWS: Final = 500
BATCH_SECONDS: Final = 1.0
_RETRY_SECONDS: Final = 1.0
_BUSY_SECONDS: Final = 5.0
_CLOSE_SECONDS: Final = 2.0
_QUIET_SECONDS: Final = 60.0
"""Between two lines of the log about the same trouble."""
_PURGE_ROWS: Final = 500
_SCHEMA: Final = """
    CREATE TABLE IF NOT EXISTS request_logs (
        id TEXT PRIMARY KEY, started_at TEXT NOT NULL, completed_at TEXT NOT NULL,
        duration_ms INTEGER NOT NULL, trace_id TEXT, span_id TEXT, http_status INTEGER, error TEXT,
        gen_ai_operation_name TEXT, gen_ai_provider_name TEXT, gen_ai_request_model TEXT,
        gen_ai_response_model TEXT, input_tokens INTEGER, output_tokens INTEGER,
        total_tokens INTEGER, cost REAL, agentgateway_user TEXT, agentgateway_group TEXT,
        user_agent_name TEXT, has_payload INTEGER NOT NULL,
        attributes_json TEXT NOT NULL CHECK (json_valid(attributes_json)));
    CREATE TABLE IF NOT EXISTS request_log_payloads (
        log_id TEXT PRIMARY KEY REFERENCES request_logs (id) ON DELETE CASCADE,
        request_prompt_json TEXT
            CHECK (request_prompt_json IS NULL OR json_valid(request_prompt_json)),
        response_completion_json TEXT
            CHECK (response_completion_json IS NULL OR json_valid(response_completion_json)));
    CREATE INDEX IF NOT EXISTS idx_request_logs_completed_at
        ON request_logs (completed_at DESC, id DESC);
    CREATE INDEX IF NOT EXISTS idx_request_logs_gen_ai_completed_at
        ON request_logs (gen_ai_provider_name, gen_ai_request_model, completed_at DESC);
"""
_INSERT: Final = (
    f"INSERT OR IGNORE INTO request_logs ({', '.join(COLUMNS)})"  # noqa: S608 - our own names
    f" VALUES ({', '.join('?' * len(COLUMNS))})"
)
_INSERT_PAYLOAD: Final = "INSERT OR IGNORE INTO request_log_payloads VALUES (?, ?, ?)"
_PURGE: Final = """
    DELETE FROM request_logs WHERE id IN
        (SELECT id FROM request_logs WHERE completed_at < ? ORDER BY completed_at LIMIT ?)
"""

_log = logging.getLogger("sidecar.state.request_log")


class RequestLogError(SidecarError):
    """The file cannot be read or written; its name and the reason."""


def path_of(config: Mapping[str, Any]) -> Path | None:
    """Where `config` wants the request log: `logging.database`, else `database`; None: nowhere."""
    for section in (config.get("logging") or {}, config):
        path = sqlite_path((section.get("database") or {}).get("url"))
        if path is not None:
            return Path(path)
    return None


def connect(path: Path, mode: str) -> sqlite3.Connection:
    """A connection of this thread's, in autocommit. Raises: sqlite3.Error."""
    name = f"file:{quote(str(path))}?mode={mode}"
    connection = sqlite3.connect(name, uri=True, timeout=_BUSY_SECONDS, isolation_level=None)
    connection.execute("PRAGMA foreign_keys = ON")
    return connection


def opened(path: Path) -> sqlite3.Connection:
    """The file with its tables, made when they are not there.

    Raises: RequestLogError, OSError, sqlite3.Error.
    """
    # What people ask models is nobody else's business.
    os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600))
    connection = connect(path, "rw")
    try:
        connection.execute("PRAGMA auto_vacuum = INCREMENTAL")  # of a new file; else no effect
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("PRAGMA synchronous = NORMAL")
        connection.executescript(f"BEGIN IMMEDIATE; {_SCHEMA} COMMIT;")
        found = {row[1] for row in connection.execute("PRAGMA table_info(request_logs)")}
        lacking = [name for name in COLUMNS if name not in found]
        if lacking:
            raise RequestLogError(f"{path}: its request_logs has no {', '.join(lacking)}")
    except BaseException:
        connection.close()
        raise
    return connection


@final
class RequestLogWriter:
    """One in a worker. `put` is the event loop's; all else of it the thread's."""

    def __init__(self, path: Path, *, max_rows: int = MAX_ROWS, max_bytes: int = MAX_BYTES) -> None:
        """Begins at once, so that a file at fault is known before the first request."""
        self._path = path
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
        self._connection: sqlite3.Connection | None = None
        self._file: int | None = None
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
            _log.error("request log: %s: %d requests are lost", self._path, lost)

    def _tell_full(self) -> None:
        now = time.monotonic()
        if now - self._full_told >= _QUIET_SECONDS:
            self._full_told = now
            _log.error("request log: %s does not keep up; requests are left out", self._path)

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
        """Commit a batch. What SQLite calls a fault of the rows themselves is dropped."""
        try:
            connection = self._open()
            if batch:
                _commit(connection, batch)
        except (OSError, sqlite3.OperationalError, RequestLogError) as error:
            self._fail(error)
            self._let_go()
            return False
        except Exception as error:
            # Not the disk: the file is none of SQLite's, or some row is at fault, and would be
            # each time.
            self._fail(error)
            self._let_go()
            self._refused += len(batch)
            self._settle(batch)
            return True
        if self._is_failing:
            self._is_failing = False
            _log.warning("request log: %s is written again", self._path)
        return True

    def _open(self) -> sqlite3.Connection:
        """The file; anew when somebody has moved it away from under us."""
        if self._connection is not None and _inode(self._path) == self._file:
            return self._connection
        self._let_go()
        connection = self._connection = opened(self._path)
        self._file = _inode(self._path)
        return connection

    def _fail(self, error: Exception) -> None:
        self._failures += 1
        self._is_failing = True
        now = time.monotonic()
        if now - self._told >= _QUIET_SECONDS:
            self._told = now
            text = f"{type(error).__name__}: {error}"
            _log.error("request log: %s cannot be written: %s", self._path, text)

    def _let_go(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            try:
                connection.close()
            except sqlite3.Error as error:
                self._fail(error)


def _inode(path: Path) -> int | None:
    try:
        return path.stat().st_ino
    except OSError:
        return None


def _commit(connection: sqlite3.Connection, batch: Sequence[Row]) -> None:
    connection.execute("BEGIN IMMEDIATE")
    try:
        connection.executemany(_INSERT, [row.columns for row in batch])
        payloads = [(row.id, *row.payload) for row in batch if row.payload is not None]
        connection.executemany(_INSERT_PAYLOAD, payloads)
        connection.execute("COMMIT")
    except BaseException:
        if connection.in_transaction:
            connection.execute("ROLLBACK")
        raise


def purge(path: Path, before: str) -> int:
    """Delete rows that were completed before then, in small transactions; how many. Blocks.

    `before`: a time as the rows have it. Raises: RequestLogError.
    """
    if not path.exists():
        return 0
    count = 0
    try:
        with closing(connect(path, "rw")) as connection:
            while True:
                deleted = connection.execute(_PURGE, (before, _PURGE_ROWS)).rowcount
                count += deleted
                if deleted < _PURGE_ROWS:
                    break
            if count:
                connection.execute("PRAGMA incremental_vacuum(4096)").fetchall()
    except sqlite3.Error as error:
        raise RequestLogError(f"{path}: {error}") from error
    return count
