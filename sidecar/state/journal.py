"""The journal of budgets: a SQLite file that holds what was spent, for the next start.

Source: SQLite "Write-Ahead Logging" and "PRAGMA synchronous"; spec llm section 4.5.

One table, one row a budget, and the secret that makes its keys. What is committed is on the disk:
WAL with synchronous=FULL, and a commit is whole or not there. The supervisor reads it before it
forks; then control alone writes, in a thread of its own, so that no request ever waits for a disk.

    missing     made anew; nothing was spent
    readable    its rows are the state of the last commit
    otherwise   refused, with its path: a journal is never taken for an empty one. That is a file
                that is empty, truncated, foreign, or damaged (each row has a CRC-32), and a WAL
                whose database is gone.

While the gateway runs nothing of that ends it: what cannot be written is written later.
"""

from __future__ import annotations

import os
import sqlite3
import struct
import zlib
from collections.abc import Iterable, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Self, final
from urllib.parse import quote

from shm.budgets import BudgetLimit, BudgetRow
from shm.errors import ShmError
from sidecar.errors import ConfigError, SidecarError

PLACE: Final = "config.state.journal"
_APPLICATION: Final = 0x41475742
"""`AGWB`, in the header of the file: tells it from other programs' databases."""
_VERSION: Final = 1
_OVER_NS: Final = 24 * 3600 * 1_000_000_000
"""How long a window's row stays when it is over: for a clock that is set back."""
_BUSY_SECONDS: Final = 2.0
_NUMBERS: Final = struct.Struct("<9q")
_COLUMNS: Final = (
    "key, label, spent, amount, window_ns, blocks, unit, window_start_ns, sequence, changed_ns,"
    " resets, crc"
)
_SCHEMA: Final = f"""
    CREATE TABLE about (secret BLOB NOT NULL);
    CREATE TABLE budgets (
        key BLOB PRIMARY KEY, label BLOB NOT NULL, spent INTEGER NOT NULL, amount INTEGER NOT NULL,
        window_ns INTEGER NOT NULL, blocks INTEGER NOT NULL, unit INTEGER NOT NULL,
        window_start_ns INTEGER NOT NULL, sequence INTEGER NOT NULL, changed_ns INTEGER NOT NULL,
        resets INTEGER NOT NULL, crc INTEGER NOT NULL
    ) WITHOUT ROWID;
    PRAGMA application_id = {_APPLICATION};
    PRAGMA user_version = {_VERSION};
"""
# Never back: during an upgrade two gateways write what they share, and the later state stays.
_UPSERT: Final = f"""
    INSERT INTO budgets ({_COLUMNS}) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)
    ON CONFLICT (key) DO UPDATE SET
        label = excluded.label, spent = excluded.spent, amount = excluded.amount,
        window_ns = excluded.window_ns, blocks = excluded.blocks, unit = excluded.unit,
        window_start_ns = excluded.window_start_ns, sequence = excluded.sequence,
        changed_ns = excluded.changed_ns, resets = excluded.resets, crc = excluded.crc
    WHERE (excluded.resets, excluded.window_start_ns, excluded.spent)
        >= (budgets.resets, budgets.window_start_ns, budgets.spent)
        OR budgets.window_ns > 0 AND budgets.window_start_ns + budgets.window_ns < ?
"""  # noqa: S608 - our own names
_PURGE: Final = "DELETE FROM budgets WHERE window_ns > 0 AND window_start_ns + window_ns < ?"


class JournalError(SidecarError):
    """The journal could not be written; nothing of what was asked is in it."""


@final
@dataclass(frozen=True, slots=True)
class Contents:
    """A journal as of its last commit."""

    secret: bytes
    rows: Sequence[BudgetRow]


def read(path: Path) -> Contents | None:
    """All of a journal, verified; None when there is none yet. Raises: ConfigError."""
    wal = path.with_name(path.name + "-wal")
    try:
        size = path.stat().st_size
    except FileNotFoundError:
        if _size(wal):
            raise _refused(path, "is gone, but its -wal file is there") from None
        return None
    except OSError as error:
        raise _refused(path, f"cannot be read: {error.strerror}") from error
    if not size:
        raise _refused(path, "is empty, and was not always; delete it to begin at zero")
    try:
        return _read(path, "mode=rw")
    except sqlite3.OperationalError as error:
        # On a read-only disk SQLite cannot even look for a WAL; without one that is no loss.
        if _size(wal):
            raise _refused(path, f"cannot be read: {error}") from error
    except sqlite3.Error as error:
        raise _refused(path, f"is damaged: {error}") from error
    try:
        return _read(path, "immutable=1")
    except sqlite3.Error as error:
        raise _refused(path, f"cannot be read: {error}") from error


def create(path: Path, secret: bytes) -> None:
    """Make an empty journal. It comes into its place whole. Raises: ConfigError."""
    fresh = path.with_name(f"{path.name}.{os.getpid()}.new")
    try:
        descriptor = os.open(fresh, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        os.close(descriptor)
        with closing(_connect(fresh, "mode=rw")) as connection:
            connection.executescript(_SCHEMA)
            connection.execute("INSERT INTO about (secret) VALUES (?)", (secret,))
        os.rename(fresh, path)
        _sync_folder(path.parent)
    except (OSError, sqlite3.Error) as error:
        fresh.unlink(missing_ok=True)
        raise _refused(path, f"cannot be made: {error}") from error


def _read(path: Path, mode: str) -> Contents:
    with closing(_connect(path, mode)) as connection:
        (application,) = connection.execute("PRAGMA application_id").fetchone()
        (version,) = connection.execute("PRAGMA user_version").fetchone()
        if application != _APPLICATION:
            raise _refused(path, "is not a journal of budgets")
        if version != _VERSION:
            raise _refused(path, f"has version {version}, this program reads {_VERSION}")
        (verdict, *_) = connection.execute("PRAGMA integrity_check(1)").fetchone()
        secrets = connection.execute("SELECT secret FROM about").fetchall()
        if verdict != "ok" or len(secrets) != 1 or len(secrets[0][0]) != 32:
            raise _refused(path, f"is damaged: {verdict}")
        found = connection.execute(f"SELECT {_COLUMNS} FROM budgets ORDER BY key").fetchall()  # noqa: S608 - our own names
    return Contents(secrets[0][0], [_row(path, values) for values in found])


def _row(path: Path, values: tuple[Any, ...]) -> BudgetRow:
    key, label, spent, amount, window, blocks, unit, start, sequence, changed, resets, crc = values
    try:
        limit = BudgetLimit(amount, window, bool(blocks), unit)
        row = BudgetRow(key, label, limit, spent, 0, start, sequence, changed, resets)
        is_right = _columns(row)[-1] == crc
    except (TypeError, ValueError, struct.error, ShmError):
        is_right = False
    if not is_right:
        raise _refused(path, "is damaged: a row's checksum differs")
    return row


def _columns(row: BudgetRow) -> tuple[object, ...]:
    limit = row.limit
    numbers = (
        *(row.spent, limit.amount, limit.window_ns, int(limit.blocks), limit.unit),
        *(row.window_start_ns, row.sequence, row.changed_ns, row.resets),
    )
    data = _NUMBERS.pack(*numbers) + len(row.key).to_bytes(4, "little") + row.key + row.label
    return row.key, row.label, *numbers, zlib.crc32(data)


def _connect(path: Path, mode: str) -> sqlite3.Connection:
    # Any thread may write, one at a time: the caller sees to that.
    return sqlite3.connect(
        f"file:{quote(str(path))}?{mode}",
        uri=True,
        timeout=_BUSY_SECONDS,
        isolation_level=None,
        check_same_thread=False,
    )


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError:
        return 0


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _refused(path: Path, problem: str) -> ConfigError:
    return ConfigError(PLACE, f"{path} {problem}")


@final
class Journal:
    """Writes to a journal that exists. Opened at the first write, and anew after a failure."""

    def __init__(self, path: Path, secret: bytes) -> None:
        self._path = path
        self._secret = secret
        self._connection: sqlite3.Connection | None = None
        self._inode = 0

    def is_gone(self) -> bool:
        """Whether the file was removed or replaced since it was opened: then write all again."""
        try:
            return bool(self._inode) and self._path.stat().st_ino != self._inode
        except FileNotFoundError:
            return True
        except OSError:
            return False

    def write(self, rows: Iterable[BudgetRow], wall_ns: int, *, is_whole: bool = False) -> None:
        """Commit these rows. Blocks. Raises: JournalError.

        `is_whole`: they are all there are, so that a journal may be made anew of them.
        """
        try:
            with self._transaction(is_whole=is_whole) as connection:
                values = [(*_columns(row), wall_ns) for row in rows]
                connection.executemany(_UPSERT, values)
                connection.execute(_PURGE, (wall_ns - _OVER_NS,))
        except (OSError, sqlite3.Error, ConfigError) as error:
            self.close()
            raise JournalError(f"{self._path}: {error}") from error

    def rows(self) -> Sequence[BudgetRow]:
        """What was committed last. Blocks. Raises: JournalError."""
        try:
            contents = read(self._path)
        except ConfigError as error:
            raise JournalError(error.message) from error
        if contents is None or contents.secret != self._secret:
            return ()
        return contents.rows

    def close(self) -> None:
        """Let go of the file."""
        connection, self._connection = self._connection, None
        if connection is not None:
            try:
                connection.close()
            except sqlite3.Error as error:
                raise JournalError(f"{self._path}: {error}") from error

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *failure: object) -> None:
        self.close()

    @contextmanager
    def _transaction(self, *, is_whole: bool) -> Iterator[sqlite3.Connection]:
        connection = self._opened(is_whole=is_whole)
        connection.execute("BEGIN IMMEDIATE")
        try:
            yield connection
            connection.execute("COMMIT")
        except BaseException:
            if connection.in_transaction:
                connection.execute("ROLLBACK")
            raise

    def _opened(self, *, is_whole: bool) -> sqlite3.Connection:
        if self._connection is not None and not self.is_gone():
            return self._connection
        self.close()
        if is_whole and not self._path.exists():
            create(self._path, self._secret)
        connection = _connect(self._path, "mode=rw")
        try:
            secrets = connection.execute("SELECT secret FROM about").fetchall()
            if secrets != [(self._secret,)]:
                raise JournalError(f"{self._path}: was replaced by another journal")
            connection.execute("PRAGMA journal_mode = WAL")
            connection.execute("PRAGMA synchronous = FULL")
            self._inode = self._path.stat().st_ino
        except BaseException:
            connection.close()
            raise
        self._connection = connection
        return connection
