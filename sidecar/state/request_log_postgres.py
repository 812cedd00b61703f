"""The request log in a PostgreSQL database.

Source: spec/llm.md section 5.4; PostgreSQL documentation, "Explicit Locking", "Runtime Config".

The tables are those of the SQLite file, with a number (`seq`) that says in which order rows were
committed: writers take a lock of the database, so that a reader that follows the numbers misses
none. Tables that lack a column are refused with its name and left as they are.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Final, final
from urllib.parse import urlsplit

import psycopg
from psycopg import errors

from sidecar.state.request_log import Reader, RequestLogError, SlowQueryError
from sidecar.telemetry.request_log import COLUMNS, Row

_CONNECT_SECONDS: Final = 5
_STATEMENT_SECONDS: Final = 10
_PURGE_ROWS: Final = 500
_LOCK: Final = 0x61677773_6C6F67
"""Of PostgreSQL's advisory locks, one for the writers of a request log."""
_SCHEMA: Final = """
    CREATE TABLE IF NOT EXISTS request_logs (
        id TEXT PRIMARY KEY, started_at TEXT NOT NULL, completed_at TEXT NOT NULL,
        duration_ms BIGINT NOT NULL, trace_id TEXT, span_id TEXT, http_status BIGINT, error TEXT,
        gen_ai_operation_name TEXT, gen_ai_provider_name TEXT, gen_ai_request_model TEXT,
        gen_ai_response_model TEXT, input_tokens BIGINT, output_tokens BIGINT, total_tokens BIGINT,
        cost DOUBLE PRECISION, agentgateway_user TEXT, agentgateway_group TEXT,
        user_agent_name TEXT, has_payload BIGINT NOT NULL, attributes_json TEXT NOT NULL,
        seq BIGINT GENERATED ALWAYS AS IDENTITY);
    CREATE TABLE IF NOT EXISTS request_log_payloads (
        log_id TEXT PRIMARY KEY REFERENCES request_logs (id) ON DELETE CASCADE,
        request_prompt_json TEXT, response_completion_json TEXT);
    CREATE INDEX IF NOT EXISTS idx_request_logs_completed_at
        ON request_logs (completed_at DESC, id DESC);
    CREATE INDEX IF NOT EXISTS idx_request_logs_gen_ai_completed_at
        ON request_logs (gen_ai_provider_name, gen_ai_request_model, completed_at DESC);
    CREATE INDEX IF NOT EXISTS idx_request_logs_seq ON request_logs (seq);
"""
_INSERT: Final = (
    f"INSERT INTO request_logs ({', '.join(COLUMNS)})"  # noqa: S608 - our own names
    f" VALUES ({', '.join(['%s'] * len(COLUMNS))}) ON CONFLICT DO NOTHING"
)
_INSERT_PAYLOAD: Final = (
    "INSERT INTO request_log_payloads VALUES (%s, %s, %s) ON CONFLICT DO NOTHING"
)
_PURGE: Final = """
    DELETE FROM request_logs WHERE id IN
        (SELECT id FROM request_logs WHERE completed_at < %s ORDER BY completed_at LIMIT %s)
"""
_FOUND: Final = """
    SELECT column_name FROM information_schema.columns
    WHERE table_schema = ANY (current_schemas(false)) AND table_name = 'request_logs'
"""

Connection = psycopg.Connection[tuple[Any, ...]]


@final
class PostgresDatabase:
    """See RequestLogDatabase. `url`: `postgres://…` or `postgresql://…`."""

    __slots__ = ("_url",)

    dialect: Final = "postgres"
    transient: Final = (psycopg.OperationalError, psycopg.InterfaceError, RequestLogError)

    def __init__(self, url: str) -> None:
        self._url = url

    def __repr__(self) -> str:
        return f"PostgresDatabase({self.name})"

    @property
    def name(self) -> str:
        """See RequestLogDatabase: without user and password."""
        parts = urlsplit(self._url)
        port = f":{parts.port}" if parts.port else ""
        return f"postgres://{parts.hostname or 'localhost'}{port}{parts.path}"

    def store(self) -> PostgresStore:
        """See RequestLogDatabase."""
        return PostgresStore(self._url)

    def purge(self, before: str) -> int:
        """See RequestLogDatabase."""
        count = 0
        try:
            with _connected(self._url, _STATEMENT_SECONDS) as connection:
                if not _columns(connection):
                    return 0
                while True:
                    deleted = connection.execute(_PURGE, (before, _PURGE_ROWS)).rowcount
                    count += deleted
                    if deleted < _PURGE_ROWS:
                        return count
        except psycopg.Error as error:
            raise RequestLogError(f"{self.name}: {_reason(error)}") from error

    @contextmanager
    def reader(self, seconds: float) -> Iterator[Reader | None]:
        """See RequestLogDatabase."""
        try:
            with _connected(self._url, seconds, is_reader=True) as connection:
                yield _Reader(connection) if _columns(connection) else None
        except errors.QueryCanceled as error:
            raise SlowQueryError from error
        except psycopg.Error as error:
            raise RequestLogError(_reason(error)) from error


@final
class _Reader:
    """Queries in SQLite's spelling of parameters."""

    __slots__ = ("_connection",)

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    def execute(self, sql: str, parameters: Sequence[Any] = (), /) -> Any:
        """See Reader. Our own SQL holds neither `?` nor `%` for anything else."""
        return self._connection.execute(sql.replace("?", "%s").encode(), parameters)


@final
class PostgresStore:
    """See Store."""

    def __init__(self, url: str) -> None:
        self._url = url
        self._connection: Connection | None = None

    def commit(self, batch: Sequence[Row]) -> None:
        """See Store."""
        connection = self._open()
        if not batch:
            return
        with connection.transaction(), connection.cursor() as cursor:
            cursor.execute("SELECT pg_advisory_xact_lock(%s)", (_LOCK,))
            cursor.executemany(_INSERT.encode(), [_clean(row.columns) for row in batch])
            payloads = [_clean((row.id, *row.payload)) for row in batch if row.payload is not None]
            cursor.executemany(_INSERT_PAYLOAD, payloads)

    def close(self) -> None:
        """See Store."""
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.close()

    def _open(self) -> Connection:
        if self._connection is not None and not self._connection.closed:
            return self._connection
        connection = _connected(self._url, _STATEMENT_SECONDS)
        try:
            _prepare(connection)
        except BaseException:
            connection.close()
            raise
        self._connection = connection
        return connection


def _connected(url: str, seconds: float, *, is_reader: bool = False) -> Connection:
    """In autocommit. Raises: psycopg.Error."""
    options = f"-c statement_timeout={int(seconds * 1000)}"
    if is_reader:
        options += " -c default_transaction_read_only=on"
    return psycopg.connect(
        url,
        autocommit=True,
        connect_timeout=_CONNECT_SECONDS,
        options=options,
        application_name="agentgateway-sidecar",
        # Poolers between us and the database do not know prepared statements.
        prepare_threshold=None,
    )


def _columns(connection: Connection) -> set[str]:
    return {row[0] for row in connection.execute(_FOUND)}


def _prepare(connection: Connection) -> None:
    """Raises: RequestLogError, psycopg.Error."""
    if not _columns(connection):
        with connection.transaction():
            # IF NOT EXISTS alone does not help two that start at once.
            connection.execute("SELECT pg_advisory_xact_lock(%s)", (_LOCK,))
            connection.execute(_SCHEMA)
    found = _columns(connection)
    lacking = [name for name in (*COLUMNS, "seq") if name not in found]
    if lacking:
        raise RequestLogError(f"its request_logs has no {', '.join(lacking)}")


def _clean(values: Sequence[Any]) -> list[Any]:
    """PostgreSQL's text cannot hold NUL."""
    return [value.replace("\0", "\ufffd") if isinstance(value, str) else value for value in values]


def _reason(error: psycopg.Error) -> str:
    """The first line: the others may show the query."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
