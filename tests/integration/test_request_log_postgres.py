"""The request log in PostgreSQL: as in SQLite, answer by answer."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import psycopg
import pytest
from starlette.applications import Starlette

from sidecar.admin.logs import RequestLogReader, log_routes
from sidecar.state.request_log import RequestLogDatabase, RequestLogError, RequestLogWriter
from sidecar.state.request_log_postgres import PostgresDatabase
from sidecar.state.request_log_sqlite import SqliteDatabase
from sidecar.telemetry.request_log import time_text
from tests.sidecar.state.test_request_log import row, wait
from tests.support.client import fetch
from tests.support.gateway import GatewayProcess, free_ports
from tests.support.postgres_server import PASSWORD, PostgresServer, needs_postgres
from tests.support.upstream import Answer, Upstream

pytestmark = needs_postgres
SECONDS = 30.0
TEAMS = ("red", "blue")
ROWS = [
    row(
        number,
        completed_ns=(1_700_000_000 + number * 7) * 10**9,
        payload=('[{"role":"user"}]', '["hello"]') if number % 5 == 0 else None,
        http_status=(200, 429, None)[number % 3],
        gen_ai_provider_name=("openai", "anthropic")[number % 2],
        gen_ai_request_model=f"model-{number % 4}",
        input_tokens=number,
        output_tokens=2 * number,
        total_tokens=3 * number,
        cost=number / 8,
        trace_id=f"trace-{number}",
        attributes_json=json.dumps(
            {"team": ("red", "blue")[number % 2], "n.x": number, "ok": True}
        ),
    )
    for number in range(60)
]
QUESTIONS: list[tuple[str, dict[str, Any]]] = [
    ("search", {}),
    ("search", {"limit": 7, "includeAttributes": True}),
    ("search", {"filters": {"httpStatus": [429], "provider": ["openai"]}}),
    ("search", {"filters": {"requestModel": ["model-1", "model-2"], "hasPayload": True}}),
    ("search", {"filters": {"attributes": {"team": "red", "ok": True}}}),
    ("search", {"filters": {"attributes": {"n.x": 5}}}),
    ("search", {"filters": {"traceId": "trace-9"}}),
    ("search", {"timeRange": {"from": "2023-11-14T22:14:00Z", "to": "2023-11-14T22:15:00Z"}}),
    ("get", {"id": "id-00005", "includePayload": True}),
    ("get", {"id": "id-00006", "includePayload": True}),
    ("get", {"id": "none"}),
    *(
        (
            "analytics/summary",
            {
                "timeRange": {"from": "2023-11-14T22:00:00Z", "to": "2023-11-14T23:00:00Z"},
                "groupBy": group_by,
                "bucketSeconds": 60,
            },
        )
        for group_by in (
            [],
            [{"field": "provider"}],
            [{"field": "httpStatus"}, {"field": "attributes", "key": "team"}],
            [{"field": "attributes", "key": "n.x"}],
        )
    ),
]


@pytest.fixture(scope="module")
def postgres() -> Iterator[PostgresServer]:
    with PostgresServer() as made:
        yield made


@pytest.fixture
def database(postgres: PostgresServer) -> PostgresDatabase:
    postgres.ask("DROP TABLE IF EXISTS request_log_payloads, request_logs")
    return PostgresDatabase(postgres.url)


def fill(database: RequestLogDatabase) -> None:
    writer = RequestLogWriter(database)
    for one in ROWS:
        writer.put(one)
    writer.close(SECONDS)
    assert writer.counts() == (len(ROWS), 0, 0)


async def ask(database: RequestLogDatabase, name: str, body: Any, *, stopping: bool = True) -> str:
    reader = RequestLogReader(database)
    app = Starlette(routes=log_routes(reader, lambda: stopping))
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://a") as http:
        answer = await http.post(f"/api/logs/{name}", json=body)
    reader.close()
    assert answer.status_code == 200, answer.text
    return answer.text


def sorted_groups(text: str) -> Any:
    """Groups of one size have no order."""
    said = json.loads(text)
    for key in ("groups", "buckets"):
        if key in said:
            said[key].sort(key=json.dumps)
    return said


async def test_every_answer_is_that_of_sqlite(database: PostgresDatabase, tmp_path: Path) -> None:
    other = SqliteDatabase(tmp_path / "a.db")
    for name, body in QUESTIONS:
        empty = await ask(database, name, body)
        assert sorted_groups(empty) == sorted_groups(await ask(other, name, body)), "of nothing"
    fill(database)
    fill(other)
    for name, body in QUESTIONS:
        found = sorted_groups(await ask(database, name, body))
        wanted = sorted_groups(await ask(other, name, body))
        text = json.dumps(wanted).replace("\\u0000", "\\ufffd")  # PostgreSQL has no NUL
        assert found == json.loads(text), (name, body)


async def test_pages_of_a_search(database: PostgresDatabase) -> None:
    fill(database)
    seen: list[str] = []
    cursor = None
    while True:
        said = json.loads(await ask(database, "search", {"limit": 13, "cursor": cursor}))
        seen += [one["id"] for one in said["logs"]]
        cursor = said["nextCursor"]
        if cursor is None:
            break
    assert seen == [one.id for one in reversed(ROWS)]


def test_two_writers_and_a_row_that_is_there_already(
    database: PostgresDatabase, postgres: PostgresServer
) -> None:
    first, second = RequestLogWriter(database), RequestLogWriter(database)
    for number in range(1200):
        (first, second)[number % 2].put(row(number))
    first.put(row(1))
    for one in (first, second):
        one.close(SECONDS)
    assert (first.counts()[0], second.counts()[0]) == (601, 600)
    assert postgres.ask("SELECT count(*) FROM request_logs") == [(1200,)]


def test_a_database_that_is_gone_for_a_while_loses_nothing(
    database: PostgresDatabase, postgres: PostgresServer, caplog: pytest.LogCaptureFixture
) -> None:
    writer = RequestLogWriter(database)
    writer.put(row(1))
    wait(lambda: writer.counts()[0] == 1)
    postgres.stop()
    writer.put(row(2))
    with caplog.at_level(logging.ERROR):
        wait(lambda: writer.counts()[2] > 0)
    postgres.start()
    wait(lambda: writer.counts()[0] == 2)
    writer.close(SECONDS)
    assert postgres.ask("SELECT count(*) FROM request_logs") == [(2,)]
    assert "cannot be written" in caplog.text
    assert PASSWORD not in caplog.text
    assert PASSWORD not in repr(database) + database.name


def test_foreign_tables_are_left_alone(
    database: PostgresDatabase, postgres: PostgresServer, caplog: pytest.LogCaptureFixture
) -> None:
    postgres.ask("CREATE TABLE request_logs (id TEXT, seq BIGINT)")
    with caplog.at_level(logging.ERROR):
        writer = RequestLogWriter(database)
        wait(lambda: writer.counts()[2] > 0)
    writer.close(SECONDS)
    assert "its request_logs has no started_at" in caplog.text
    postgres.ask("DROP TABLE request_logs")


def test_old_rows_go(database: PostgresDatabase, postgres: PostgresServer) -> None:
    assert database.purge(time_text(10**18)) == 0, "no table yet"
    fill(database)
    middle = ROWS[30].columns[2]
    assert database.purge(str(middle)) == 30
    assert postgres.ask("SELECT count(*) FROM request_logs") == [(30,)]
    # Their payloads went with them.
    assert postgres.ask("SELECT count(*) FROM request_log_payloads") == [(6,)]


def test_what_cannot_be_reached_is_said_without_its_password() -> None:
    (port,) = free_ports(1)
    database = PostgresDatabase(f"postgres://u:{PASSWORD}@127.0.0.1:{port}/d")
    with pytest.raises(RequestLogError) as caught, database.reader(1.0):
        pass
    assert PASSWORD not in str(caught.value)
    with pytest.raises(RequestLogError):
        database.purge("x")
    assert isinstance(caught.value.__cause__, psycopg.Error)


def test_a_gateway_writes_and_answers(database: PostgresDatabase, postgres: PostgresServer) -> None:
    (port,) = free_ports(1)
    said = {
        "id": "c",
        "object": "chat.completion",
        "created": 1,
        "model": "m",
        "choices": [
            {"index": 0, "message": {"role": "assistant", "content": "hi"}, "finish_reason": "stop"}
        ],
        "usage": {"prompt_tokens": 3, "completion_tokens": 2, "total_tokens": 5},
    }
    headers = {"content-type": "application/json"}
    with Upstream(lambda seen: Answer(200, [*headers.items()], json.dumps(said).encode())) as up:
        params = {"apiKey": "k", "baseUrl": f"http://{up.address}/v1"}
        model = {"name": "m", "provider": "openAI", "params": params}
        config: dict[str, Any] = {
            "config": {"database": {"url": postgres.url}},
            "llm": {
                "port": port,
                "models": [model],
            },
        }
        body = json.dumps({"model": "m", "messages": [{"role": "user", "content": "x"}]}).encode()
        with GatewayProcess(config) as gateway:
            for _ in range(3):
                path = "/v1/chat/completions"
                assert fetch(port, path, method="POST", body=body, headers=headers).status == 200
            wait(lambda: postgres_count(postgres) == 3)
            url = f"http://127.0.0.1:{gateway.admin_port}/api/logs/search"
            logs = httpx.post(url, json={}).json()["logs"]
            assert PASSWORD not in gateway.log() + json.dumps(gateway.dump())
    assert [one["usage"]["totalTokens"] for one in logs] == [5, 5, 5]


def postgres_count(postgres: PostgresServer) -> int:
    try:
        return int(postgres.ask("SELECT count(*) FROM request_logs")[0][0])
    except psycopg.errors.UndefinedTable:
        return 0
