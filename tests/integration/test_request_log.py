"""The request log of a running gateway: what is in the file, and what the admin API tells of it.

Source: spec/llm.md section 5.4; spec/config.md section 8.4.
"""

from __future__ import annotations

import json
import os
import signal
import sqlite3
import stat
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import orjson
import pytest

from sidecar.state.request_log_sqlite import opened
from tests.support.client import fetch
from tests.support.gateway import GatewayProcess, free_ports
from tests.support.models import COMPLETION, EVENTS, JSON, chunk
from tests.support.upstream import Answer, Seen, Upstream

Json = dict[str, Any]
PORT, OTHER = free_ports(2)
SECRET = "sk-client-secret-1234"
RATES = {"input": "10", "output": "20"}
SECONDS = 30.0


def provider(seen: Seen) -> Answer:
    body = orjson.loads(seen.body)
    if body.get("stream"):
        events = [chunk({"content": "4111-"}), chunk({"content": "x"}), chunk({}, "stop")]
        return Answer(200, EVENTS, iter([*events, b"data: [DONE]\n\n"]))
    return Answer(200, JSON, orjson.dumps(COMPLETION))


@pytest.fixture(scope="module")
def upstream() -> Iterator[Upstream]:
    with Upstream(provider) as made:
        yield made


@pytest.fixture
def folder() -> Iterator[Path]:
    with tempfile.TemporaryDirectory() as name:
        yield Path(name)


def document(upstream: Upstream, file: Path, port: int = OTHER, **database: Any) -> Json:
    params = {"baseUrl": f"http://{upstream.address}/v1", "apiKey": "sk-provider-secret-1"}
    guard = [{"regex": {"rules": [{"pattern": "secret-word"}], "action": "mask"}}]
    answers = [{"regex": {"rules": [{"pattern": "hi"}], "action": "mask"}}]
    guarded = {"request": guard, "response": answers, "streaming": "Enabled"}
    models = [
        {"name": "asked", "provider": "openAI", "params": params},
        {"name": "guarded", "provider": "openAI", "params": params, "guardrails": guarded},
    ]
    for one in models:
        one["params"] = {**params, "model": "gpt-test-0125"}
    return {
        "config": {
            "database": {"url": f"sqlite://{file}"},
            "standardAttributes": {"user": 'request.headers["x-user"]'},
            "modelCatalog": [
                {
                    "inline": {
                        "providers": {"openai": {"models": {"gpt-test-0125": {"rates": RATES}}}}
                    }
                }
            ],
        },
        "frontendPolicies": {
            "accessLog": {
                "filter": 'request.headers["x-hidden"] != "yes"',
                "remove": ["gen_ai.provider.name"],
                "database": database,
            }
        },
        "llm": {"port": port, "models": models},
    }


def ask(
    content: str = "hello",
    model: str = "asked",
    headers: Json | None = None,
    port: int = PORT,
    **more: Any,
) -> int:
    body = {"model": model, "messages": [{"role": "user", "content": content}], **more}
    sent = {
        "content-type": "application/json",
        "authorization": f"Bearer {SECRET}",
        "x-user": "ada",
        "x-hidden": "no",
        "user-agent": "tester/1.2 (x)",
        **(headers or {}),
    }
    target = "/v1/chat/completions?key=query-secret"
    return fetch(port, target, "POST", headers=sent, body=orjson.dumps(body)).status


def rows_of(file: Path, sql: str) -> list[Any]:
    with closing(sqlite3.connect(f"file:{file}?mode=ro", uri=True)) as connection:
        return connection.execute(sql).fetchall()


def call(gateway: GatewayProcess, name: str, body: Json | None = None, **headers: str) -> Any:
    request = urllib.request.Request(
        f"http://127.0.0.1:{gateway.admin_port}/api/logs/{name}",
        orjson.dumps(body or {}),
        {"content-type": "application/json", **headers},
    )
    with urllib.request.urlopen(request, timeout=20) as answer:
        return orjson.loads(answer.read())


def wait(condition: Callable[[], bool]) -> None:
    until = time.monotonic() + SECONDS
    while not condition():
        assert time.monotonic() < until
        time.sleep(0.02)


@pytest.fixture(scope="module")
def gateway(upstream: Upstream) -> Iterator[GatewayProcess]:
    with tempfile.TemporaryDirectory() as name:
        file = Path(name) / "data.db"
        config = document(
            upstream, file, PORT, llm="full", add={"team": 'request.headers["x-team"]'}
        )
        with GatewayProcess(config) as made:
            assert ask("my secret-word", headers={"x-team": "blue"}) == 200
            assert ask("unseen", headers={"x-hidden": "yes"}) == 200
            assert ask("masked", "guarded") == 200
            assert ask("streamed", "guarded", stream=True) == 200
            assert ask("streamed", stream=True) == 200
            assert ask("secret-word", "guarded", headers={"x-team": "red"}) == 200
            assert ask("who", "unknown") == 404
            made.wait_metric("agentgateway_request_log_rows_total", 6)
            yield made


def test_rows_are_found(gateway: GatewayProcess) -> None:
    found = call(gateway, "search", {"includeAttributes": True})
    assert found["nextCursor"] is None
    assert len(found["logs"]) == 6
    times = [one["completedAt"] for one in found["logs"]]
    assert times == sorted(times, reverse=True)
    first = found["logs"][-1]
    assert first["httpStatus"] == 200
    assert first["genAi"] == {
        "operationName": "chat",
        "providerName": "openai",
        "requestModel": "gpt-test-0125",
        "responseModel": "gpt-test-0125",
    }
    assert first["usage"] == {"inputTokens": 17, "outputTokens": 23, "totalTokens": 40}
    assert first["cost"] == pytest.approx((17 * 10 + 23 * 20) / 1e6)
    assert (first["user"], first["userAgentName"]) == ("ada", "tester")
    assert len(first["traceId"]) == 32
    attributes = first["attributes"]
    assert attributes["team"] == "blue"
    assert attributes["agw.ai.original_model"] == "asked"
    assert attributes["agw.ai.usage.cost.output"] == pytest.approx(23 * 20 / 1e6)
    assert attributes["http.path"] == "/v1/chat/completions"
    # What is removed from lines is not removed from rows.
    assert attributes["gen_ai.provider.name"] == "openai"
    text = json.dumps(found)
    assert not any(secret in text for secret in (SECRET, "sk-provider", "query-secret"))


def test_pages_and_filters(gateway: GatewayProcess) -> None:
    every = [one["id"] for one in call(gateway, "search")["logs"]]
    seen: list[str] = []
    body: Json = {"limit": 2}
    while True:
        page = call(gateway, "search", body)
        seen += [one["id"] for one in page["logs"]]
        if page["nextCursor"] is None:
            break
        body["cursor"] = page["nextCursor"]
    assert seen == every
    for filters, count in (
        ({"attributes": {"team": "red"}}, 1),
        ({"attributes": {"http.status": 404}}, 1),
        ({"httpStatus": [404]}, 1),
        ({"provider": ["openai"], "hasPayload": True}, 5),
        ({"requestModel": ["other"]}, 0),
        ({"traceId": "0" * 32}, 0),
    ):
        assert len(call(gateway, "search", {"filters": filters})["logs"]) == count, filters
    later = {"from": "2999-01-01T00:00:00Z"}
    assert call(gateway, "search", {"timeRange": later})["logs"] == []


def test_words_are_kept_as_guards_leave_them(gateway: GatewayProcess) -> None:
    payloads = []
    for one in reversed(call(gateway, "search")["logs"]):
        log = call(gateway, "get", {"id": one["id"], "includePayload": True})["log"]
        assert log["hasPayload"] == (log["payload"] is not None)
        payloads.append(log["payload"])
        assert "payload" not in call(gateway, "get", {"id": one["id"]})["log"]
    plain, masked, guarded_stream, stream, guarded, refused = payloads
    assert plain["requestPrompt"] == [{"role": "user", "content": "my secret-word"}]
    assert plain["responseCompletion"] == ["hi"]
    assert stream["responseCompletion"] == ["4111-x"]
    assert masked["requestPrompt"] == [{"role": "user", "content": "masked"}]
    # A guard may have had something to say about these.
    assert masked["responseCompletion"] is None
    assert guarded_stream["responseCompletion"] is None
    assert "secret-word" not in guarded["requestPrompt"][0]["content"]
    assert refused is None
    assert call(gateway, "get", {"id": "none"}) == {"log": None}


def test_a_summary(gateway: GatewayProcess) -> None:
    body = {"groupBy": [{"field": "httpStatus"}, {"field": "attributes", "key": "team"}]}
    found = call(gateway, "analytics/summary", body)
    groups = {
        (one["group"]["httpStatus"], one["group"]["team"]): one["requests"]
        for one in found["groups"]
    }
    assert groups == {("200", "blue"): 1, ("200", None): 3, ("200", "red"): 1, ("404", None): 1}
    assert sum(one["requests"] for one in found["buckets"]) == 6
    assert found["bucketSeconds"] == 24 * 60
    assert found["filterOptions"]["httpStatus"] == [200, 404]
    (every,) = call(gateway, "analytics/summary")["groups"]
    assert (every["requests"], every["errors"]) == (6, 1)
    assert every["cost"] > 0


def test_what_comes_in_is_told(gateway: GatewayProcess) -> None:
    request = urllib.request.Request(
        f"http://127.0.0.1:{gateway.admin_port}/api/logs/tail",
        b'{"includeAttributes": true, "filters": {"attributes": {"team": "tail"}}}',
        {"content-type": "application/json"},
    )
    with urllib.request.urlopen(request, timeout=30) as answer:
        assert answer.headers["content-type"].startswith("text/event-stream")
        assert answer.readline().startswith(b":")
        assert ask("unseen") == 200
        assert ask("seen", headers={"x-team": "tail"}) == 200
        lines = iter(answer.readline, b"")
        name = next(line for line in lines if not line.startswith(b":") and line.strip())
        assert name == b"event: log\n"
        event = orjson.loads(next(lines).removeprefix(b"data: "))
    assert event["entry"]["attributes"]["team"] == "tail"
    assert event["cursor"].startswith("row-")


@pytest.mark.parametrize(
    ("name", "body", "word"),
    [
        ("search", {"limit": 0}, "limit"),
        ("search", {"limt": 1}, "limt"),
        ("search", {"cursor": "x' OR 1=1"}, "cursor"),
        ("search", {"timeRange": {"from": "yesterday"}}, "timeRange.from"),
        ("search", {"filters": {"attributes": {'a"': 1}}}, "attributes"),
        ("get", {}, "id"),
        ("tail", {"cursor": "2026"}, "cursor"),
        ("analytics/summary", {"groupBy": [{"field": "attributes"}]}, "key"),
        ("analytics/summary", {"groupBy": [{"field": "id"}]}, "groupBy"),
        ("analytics/summary", {"bucketSeconds": 1}, "bucketSeconds"),
    ],
)
def test_what_makes_no_sense_is_refused(
    gateway: GatewayProcess, name: str, body: Json, word: str
) -> None:
    with pytest.raises(urllib.error.HTTPError) as caught:
        call(gateway, name, body)
    with caught.value as error:
        assert error.code == 400
        assert word in orjson.loads(error.read())["error"]


def test_web_pages_are_kept_away(gateway: GatewayProcess) -> None:
    for headers in ({"origin": "http://evil.example"}, {"host": "evil.example"}):
        with pytest.raises(urllib.error.HTTPError) as caught:
            call(gateway, "search", {}, **headers)
        with caught.value as error:
            assert error.code == 403


def test_workers_write_every_row_and_a_killed_one_does_no_harm(
    upstream: Upstream, folder: Path
) -> None:
    file = folder / "data.db"
    with closing(opened(file)) as connection:
        old = "INSERT INTO request_logs (id, started_at, completed_at, duration_ms, has_payload,"
        old += " attributes_json) VALUES ('old', '1999-01-01T', '1999-01-01T', 1, 0, '{}')"
        connection.execute(old)
    config = document(upstream, file, llm="metadata", retention="720h")
    with GatewayProcess(config, workers=2) as gateway:
        gateway.wait_line("deleted 1 rows")
        assert ask(port=OTHER) == 200
        gateway.wait_metric("agentgateway_request_log_rows_total", 1)
        pids = gateway.worker_pids()
        for pid in pids:
            os.kill(pid, signal.SIGKILL)
        gateway.wait_replaced(pids)
        for number in range(40):
            assert ask(f"number {number}", port=OTHER) == 200
        # At once: what waits is written by a clean end.
        assert gateway.stop() == 0
    rows = rows_of(file, "SELECT id, has_payload, http_status FROM request_logs")
    assert len({row[0] for row in rows}) == 41
    assert {row[1:] for row in rows} == {(0, 200)}
    assert rows_of(file, "SELECT count(*) FROM request_log_payloads") == [(0,)]
    assert rows_of(file, "PRAGMA integrity_check") == [("ok",)]
    assert stat.S_IMODE(file.stat().st_mode) == 0o600


def test_a_file_that_takes_nothing_stops_nobody(upstream: Upstream, folder: Path) -> None:
    file = folder / "no-such-folder" / "data.db"
    config = document(upstream, file)
    config["config"]["state"] = {"journal": str(folder / "budgets")}
    with GatewayProcess(config) as gateway:
        gateway.wait_line("request log")
        assert ask(port=OTHER) == 200
        wait(lambda: gateway.metric("agentgateway_request_log_failures_total") > 0)
        assert call(gateway, "search") == {"logs": [], "nextCursor": None}
        # As soon as there is a place, what waits is written.
        file.parent.mkdir()
        gateway.wait_metric("agentgateway_request_log_rows_total", 1)
        assert len(call(gateway, "search")["logs"]) == 1
        gateway.wait_line("is written again")
