"""The request log's file: what is written, what is lost and counted, what is deleted."""

from __future__ import annotations

import logging
import os
import signal
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from sidecar.state.request_log import RequestLogError, RequestLogWriter
from sidecar.state.request_log_database import database_of
from sidecar.state.request_log_sqlite import SqliteDatabase, opened, purge
from sidecar.state.retention import RowKeeper
from sidecar.telemetry.request_log import COLUMNS, Row, time_text
from tests.support.gateway import ROOT

SECONDS = 30.0
DAY_NS = 86_400 * 10**9


def row(number: int, *, completed_ns: int = 10**18, payload: Any = None, **facts: Any) -> Row:
    known: dict[str, Any] = {
        "id": f"id-{number:05}",
        "started_at": time_text(completed_ns),
        "completed_at": time_text(completed_ns),
        "duration_ms": 1,
        "has_payload": int(payload is not None),
        "attributes_json": "{}",
        **facts,
    }
    return Row(tuple(known.get(name) for name in COLUMNS), payload)


def ask(path: Path, sql: str) -> list[Any]:
    with closing(sqlite3.connect(path)) as connection:
        return connection.execute(sql).fetchall()


def wait(condition: Callable[[], bool]) -> None:
    until = time.monotonic() + SECONDS
    while not condition():
        assert time.monotonic() < until
        time.sleep(0.005)


def test_everything_is_written_by_a_clean_end(tmp_path: Path) -> None:
    path = tmp_path / "a.db"
    first, second = RequestLogWriter(SqliteDatabase(path)), RequestLogWriter(SqliteDatabase(path))
    for number in range(1200):
        writer = (first, second)[number % 2]
        writer.put(row(number, payload=('[{"role": "user"}]', None) if number < 3 else None))
    for one in (first, second):
        one.close(SECONDS)
        assert one.counts()[:2] == (600, 0)
    assert ask(path, "SELECT count(*), sum(has_payload) FROM request_logs") == [(1200, 3)]
    assert ask(path, "SELECT count(*) FROM request_log_payloads") == [(3,)]
    assert ask(path, "PRAGMA integrity_check") == [("ok",)]


def test_what_does_not_fit_is_dropped_and_counted(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with closing(opened(tmp_path / "a.db")) as other:
        other.execute("BEGIN IMMEDIATE")  # nobody else can write
        writer = RequestLogWriter(SqliteDatabase(tmp_path / "a.db"), max_rows=10)
        with caplog.at_level(logging.ERROR):
            for number in range(25):
                writer.put(row(number))
        other.execute("ROLLBACK")
    writer.close(SECONDS)
    assert writer.counts()[:2] == (10, 15)
    assert len([one for one in caplog.records if "does not keep up" in one.message]) == 1
    big = RequestLogWriter(SqliteDatabase(tmp_path / "b.db"), max_bytes=2000)
    big.put(row(1, error="x" * 5000))
    big.close(SECONDS)
    assert big.counts()[:2] == (0, 1)
    big.put(row(2))  # ended: lost, and counted
    assert big.counts()[:2] == (0, 2)


@pytest.mark.parametrize("kind", ["directory", "text", "other tables"])
def test_a_file_at_fault_costs_rows_and_nothing_else(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, kind: str
) -> None:
    path = tmp_path / "a.db"
    if kind == "directory":
        path.mkdir()
    elif kind == "text":
        path.write_text("no database " * 500)
    else:
        with closing(sqlite3.connect(path)) as connection:
            connection.execute("CREATE TABLE request_logs (id TEXT, completed_at TEXT)")
    with caplog.at_level(logging.ERROR):
        writer = RequestLogWriter(SqliteDatabase(path))
        writer.put(row(1))
        writer.close(SECONDS)
    written, lost, failures = writer.counts()
    assert (written, lost) == (0, 1)
    assert failures >= 1
    (line,) = [one.message for one in caplog.records if "cannot be written" in one.message]
    assert str(path) in line
    if kind == "text":
        assert path.read_text().startswith("no database")


def test_a_file_that_was_moved_away_is_made_anew(tmp_path: Path) -> None:
    path = tmp_path / "a.db"
    writer = RequestLogWriter(SqliteDatabase(path))
    writer.put(row(1))
    wait(lambda: writer.counts()[0] == 1)
    for name in ("a.db", "a.db-wal", "a.db-shm"):
        (tmp_path / name).rename(tmp_path / f"old-{name}")
    writer.put(row(2))
    writer.close(SECONDS)
    assert ask(path, "SELECT id FROM request_logs") == [("id-00002",)]


CHILD = """
import sys, time
from pathlib import Path
from sidecar.state.request_log import RequestLogWriter
from sidecar.state.request_log_sqlite import SqliteDatabase
from tests.sidecar.state.test_request_log import row
writer = RequestLogWriter(SqliteDatabase(Path(sys.argv[1])))
number = 0
while True:
    for _ in range(100):
        writer.put(row(number, payload=('["' + "x" * 1000 + '"]', None)))
        number += 1
    print(writer.counts()[0], flush=True)
    time.sleep(0.001)
"""


def test_kill_leaves_what_was_committed(tmp_path: Path) -> None:
    path = tmp_path / "a.db"
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-c", CHILD, str(path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, env=env, text=True) as child:
        assert child.stdout is not None
        committed = 0
        while committed < 600:
            line = child.stdout.readline()
            assert line
            committed = int(line)
        child.send_signal(signal.SIGKILL)
    assert ask(path, "PRAGMA integrity_check") == [("ok",)]
    ((count, payloads),) = ask(
        path,
        "SELECT count(*), sum(log_id IS NOT NULL) FROM request_logs"
        " LEFT JOIN request_log_payloads ON log_id = id",
    )
    assert count >= committed
    assert payloads == count


FULL = """
import resource, sys
from pathlib import Path
from sidecar.state.request_log import RequestLogWriter
from sidecar.state.request_log_sqlite import SqliteDatabase
from tests.sidecar.state.test_request_log import row, wait
_, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
resource.setrlimit(resource.RLIMIT_FSIZE, (64 * 1024, hard))
writer = RequestLogWriter(SqliteDatabase(Path(sys.argv[1])))
for number in range(200):
    writer.put(row(number, payload=('["' + "x" * 2000 + '"]', None)))
wait(lambda: writer.counts()[2] > 0)
assert writer.counts()[0] == 0
resource.setrlimit(resource.RLIMIT_FSIZE, (hard, hard))
writer.close(30.0)
assert writer.counts()[:2] == (200, 0), writer.counts()
"""


def test_a_full_disk_is_tried_again(tmp_path: Path) -> None:
    path = tmp_path / "a.db"
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    subprocess.run([sys.executable, "-c", FULL, str(path)], env=env, check=True, timeout=60)
    assert ask(path, "SELECT count(*) FROM request_logs") == [(200,)]
    assert ask(path, "PRAGMA integrity_check") == [("ok",)]


def test_old_rows_go_with_their_payloads(tmp_path: Path) -> None:
    path = tmp_path / "a.db"
    now = 100 * DAY_NS
    writer = RequestLogWriter(SqliteDatabase(path))
    for number in range(1100):
        old = number >= 50
        at = now - (3 * DAY_NS if old else DAY_NS)
        writer.put(row(number, completed_ns=at, payload=("[]", None)))
    writer.close(SECONDS)
    age: list[int | None] = [None]
    keeper = RowKeeper(SqliteDatabase(path), lambda: age[0], lambda: now)
    assert keeper.purge() == 0
    age[0] = 2 * DAY_NS
    assert keeper.purge() == 1050
    assert ask(path, "SELECT count(*) FROM request_logs") == [(50,)]
    assert ask(path, "SELECT count(*) FROM request_log_payloads") == [(50,)]
    assert purge(tmp_path / "none.db", time_text(now)) == 0
    (tmp_path / "text.db").write_text("no database " * 500)
    with pytest.raises(RequestLogError):
        purge(tmp_path / "text.db", time_text(now))


def test_the_thread_ends(tmp_path: Path) -> None:
    writer = RequestLogWriter(SqliteDatabase(tmp_path / "a.db"))
    writer.close(SECONDS)
    assert "request-log" not in {thread.name for thread in threading.enumerate()}


@pytest.mark.parametrize(
    ("config", "path"),
    [
        ({}, None),
        ({"logging": {"level": "info"}}, None),
        ({"database": {"url": "sqlite://a.db"}}, "a.db"),
        ({"database": {"url": "sqlite://a.db"}, "logging": {"database": None}}, "a.db"),
        (
            {
                "database": {"url": "sqlite://a.db"},
                "logging": {"database": {"url": "sqlite:///b.db?mode=rwc"}},
            },
            "/b.db",
        ),
    ],
)
def test_where_it_is(config: dict[str, Any], path: str | None) -> None:
    found = database_of(config)
    assert (None if found is None else found.name) == path
