"""`/api/logs/…` over a file of rows: bounds, and a file that is not there or cannot be read.

What the answers hold is looked at in `integration/test_request_log.py`.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import httpx
import pytest
from starlette.applications import Starlette

from sidecar.admin import logs
from sidecar.admin.logs import RequestLogReader, log_routes
from sidecar.state.request_log import RequestLogWriter
from sidecar.state.request_log_sqlite import SqliteDatabase
from tests.sidecar.state.test_request_log import row

NAMES = ("search", "get", "tail", "analytics/summary")
BODIES: dict[str, Any] = {"get": {"id": "x"}}


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "a.db"


@pytest.fixture
def reader(path: Path) -> Iterator[RequestLogReader]:
    made = RequestLogReader(SqliteDatabase(path))
    yield made
    made.close()


def fill(path: Path, count: int, **facts: Any) -> None:
    writer = RequestLogWriter(SqliteDatabase(path))
    for number in range(count):
        writer.put(row(number, completed_ns=(number + 1) * 10**9, **facts))
    writer.close(30.0)
    assert writer.counts()[0] == count


def spoil(path: Path) -> None:
    path.write_text("no database " * 500)


def is_there(path: Path) -> bool:
    return path.exists()


async def ask(
    reader: RequestLogReader | None, name: str, body: Any = None, *, is_stopping: bool = True
) -> httpx.Response:
    app = Starlette(routes=log_routes(reader, lambda: is_stopping))
    transport = httpx.ASGITransport(app=app)
    async with httpx.AsyncClient(transport=transport, base_url="http://admin") as client:
        content = body if isinstance(body, bytes) else None
        json = None if isinstance(body, bytes) else body
        return await client.post(f"/api/logs/{name}", content=content, json=json)


@pytest.mark.parametrize("name", NAMES)
async def test_without_a_database(name: str) -> None:
    answer = await ask(None, name, BODIES.get(name))
    assert answer.status_code == 404
    assert "config.database" in answer.json()["error"]


@pytest.mark.parametrize("name", NAMES)
async def test_before_there_is_a_file(reader: RequestLogReader, path: Path, name: str) -> None:
    answer = await ask(reader, name, BODIES.get(name))
    assert answer.status_code == 200
    assert not is_there(path)


@pytest.mark.parametrize("name", NAMES)
async def test_a_file_that_is_none(reader: RequestLogReader, path: Path, name: str) -> None:
    spoil(path)
    answer = await ask(reader, name, BODIES.get(name))
    assert answer.status_code == 503
    assert "cannot be read" in answer.json()["error"]


async def test_nothing_is_written(reader: RequestLogReader, path: Path) -> None:
    fill(path, 1)
    with pytest.raises(logs._UnansweredError, match="readonly"):
        await reader.ask(lambda one: one.execute("DELETE FROM request_logs"), None)


async def test_a_query_that_takes_long_is_ended(path: Path) -> None:
    fill(path, 1)
    reader = RequestLogReader(SqliteDatabase(path), query_seconds=0.05)
    endless = "WITH RECURSIVE n(x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM n) SELECT sum(x) FROM n"

    def work(one: sqlite3.Connection) -> object:
        return one.execute(endless).fetchall()

    with pytest.raises(logs._UnansweredError, match="took longer"):
        await reader.ask(work, None)
    reader.close()


async def test_a_large_answer_ends_early(
    reader: RequestLogReader, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fill(path, 10, error="x" * 1000)
    monkeypatch.setattr(logs, "MAX_ANSWER_CHARS", 4000)
    seen: list[str] = []
    body: dict[str, Any] = {}
    for _ in range(20):
        page = (await ask(reader, "search", body)).json()
        assert 1 <= len(page["logs"]) <= 4
        seen += [one["id"] for one in page["logs"]]
        if page["nextCursor"] is None:
            break
        body = {"cursor": page["nextCursor"]}
    assert seen == [f"id-{number:05}" for number in reversed(range(10))]


async def test_times_and_buckets(reader: RequestLogReader, path: Path) -> None:
    fill(path, 10, http_status=200, total_tokens=2, cost=0.5)
    times = {"from": "1970-01-01T00:00:03Z", "to": "1970-01-01T02:00:09+02:00"}
    found = (await ask(reader, "search", {"timeRange": times})).json()["logs"]
    assert [one["id"][-1] for one in found] == ["7", "6", "5", "4", "3", "2"]
    body = {"timeRange": times, "bucketSeconds": 4, "groupBy": [{"field": "httpStatus"}]}
    summary = (await ask(reader, "analytics/summary", body)).json()
    assert summary["timeRange"]["to"] == "1970-01-01T00:00:09.000000+00:00"
    assert [(one["start"], one["requests"]) for one in summary["buckets"]] == [
        ("1970-01-01T00:00:03.000000+00:00", 4),
        ("1970-01-01T00:00:07.000000+00:00", 2),
    ]
    (group,) = summary["groups"]
    assert (group["group"], group["totalTokens"], group["cost"]) == ({"httpStatus": "200"}, 12, 3)


async def test_bodies_have_bounds(reader: RequestLogReader) -> None:
    assert (await ask(reader, "search", b"{")).status_code == 400
    assert (await ask(reader, "search", [])).status_code == 400
    assert (await ask(reader, "search", b" " * 100_000)).status_code == 413
    names = {"filters": {"provider": ["x"] * 101}}
    assert (await ask(reader, "search", names)).status_code == 400


async def test_what_is_hostile_is_a_value(reader: RequestLogReader, path: Path) -> None:
    fill(path, 1)
    for filters in (
        {"provider": ["') OR 1=1 --"]},
        {"attributes": {"a') OR 1=1 --": "x"}},
        {"traceId": "' OR ''='"},
    ):
        answer = await ask(reader, "search", {"filters": filters})
        assert answer.json()["logs"] == []
    with closing(sqlite3.connect(path)) as one:
        assert one.execute("SELECT count(*) FROM request_logs").fetchone() == (1,)
