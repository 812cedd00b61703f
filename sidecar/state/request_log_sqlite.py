"""The request log in a SQLite file.

Source: spec/llm.md section 5.4; SQLite "Write-Ahead Logging". Tables as agentgateway has them, so
that either program, and whatever reads such files, goes on with the other's.
"""

from __future__ import annotations

import os
import sqlite3
import time
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Final, final
from urllib.parse import quote

from sidecar.state.request_log import Reader, RequestLogError, SlowQueryError
from sidecar.telemetry.request_log import COLUMNS, Row

_BUSY_SECONDS: Final = 5.0
_PURGE_ROWS: Final = 500
_OPCODES: Final = 10_000
"""Steps of SQLite between two looks at the clock."""
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


@final
class SqliteDatabase:
    """See RequestLogDatabase."""

    __slots__ = ("_path",)

    dialect: Final = "sqlite"
    transient: Final = (OSError, sqlite3.OperationalError, RequestLogError)

    def __init__(self, path: Path) -> None:
        self._path = path

    @property
    def name(self) -> str:
        """See RequestLogDatabase."""
        return str(self._path)

    def store(self) -> SqliteStore:
        """See RequestLogDatabase."""
        return SqliteStore(self._path)

    def purge(self, before: str) -> int:
        """See RequestLogDatabase."""
        return purge(self._path, before)

    @contextmanager
    def reader(self, seconds: float) -> Iterator[Reader | None]:
        """See RequestLogDatabase."""
        if not self._path.exists():
            yield None
            return
        until = time.monotonic() + seconds
        try:
            with closing(connect(self._path, "ro")) as connection:
                connection.text_factory = _text
                connection.set_progress_handler(lambda: time.monotonic() > until, _OPCODES)
                yield connection
        except sqlite3.Error as error:
            if time.monotonic() > until:
                raise SlowQueryError from error
            raise RequestLogError(str(error)) from error


def _text(data: bytes) -> str:
    return data.decode("utf-8", "backslashreplace")


@final
class SqliteStore:
    """See Store."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._connection: sqlite3.Connection | None = None
        self._file: int | None = None

    def commit(self, batch: Sequence[Row]) -> None:
        """See Store."""
        connection = self._open()
        if batch:
            _commit(connection, batch)

    def close(self) -> None:
        """See Store."""
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.close()

    def _open(self) -> sqlite3.Connection:
        """The file; anew when somebody has moved it away from under us."""
        if self._connection is not None and _inode(self._path) == self._file:
            return self._connection
        self.close()
        connection = self._connection = opened(self._path)
        self._file = _inode(self._path)
        return connection


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
