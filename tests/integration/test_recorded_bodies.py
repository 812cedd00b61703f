"""Bodies in expressions of logs, metrics and traces, through the gateway.

Source: spec/config.md sections 7.2 and 7.6, row 246.
"""

from __future__ import annotations

import gzip
import http.client
import threading
from collections.abc import Iterator
from typing import Any

import httpx
import orjson
import pytest

from sidecar.telemetry.logs import escape, text_of
from tests.sidecar.telemetry.collectors import GrpcCollector
from tests.support.client import fetch
from tests.support.gateway import GatewayProcess, free_ports
from tests.support.parrot import parrot
from tests.support.upstream import Answer, Seen, Upstream

LIMIT = 4000
PORT, TRACED = free_ports(2)
GO_ON = threading.Event()
"""Set: the slow answer goes on."""
SQUEEZED = gzip.compress(b"squeezed " * 20, mtime=0)
Json = dict[str, Any]


def script(seen: Seen) -> Answer:
    if seen.target.endswith("/slow"):
        return Answer(200, [], slow())
    if seen.target.endswith("/squeezed"):
        return Answer(200, [("content-encoding", "gzip")], SQUEEZED)
    if seen.target.endswith("/long"):
        return Answer(200, [], [b"r" * LIMIT, b"s" * LIMIT])
    if seen.target.endswith("/chat/completions"):
        return parrot(seen)
    return Answer(200, [("content-type", "text/plain")], b"got " + seen.body)


def slow() -> Iterator[bytes]:
    yield b"first "
    assert GO_ON.wait(30)
    yield b"second"


@pytest.fixture(scope="module")
def up() -> Iterator[Upstream]:
    with Upstream(script) as made:
        yield made


def routes(up: Upstream) -> list[Json]:
    backend = {"host": up.address, "policies": {"http": {"version": "HTTP/1.1"}}}
    guard = {"request": [{"regex": {"rules": [{"builtin": "ssn"}]}}]}
    model = {"name": "m", "provider": {"openAI": {}}, "hostOverride": up.address}
    return [
        {"name": "plain", "matches": under("/plain/"), "backends": [{"host": up.address}]},
        {"name": "old", "matches": under("/old/"), "backends": [backend]},
        {
            "name": "shut",
            "matches": under("/shut/"),
            "policies": {"authorization": {"rules": ["false"]}},
            "backends": [backend],
        },
        {
            "name": "held",
            "matches": under("/held/"),
            "policies": {
                "transformations": {"request": {"body": "'changed ' + string(request.body)"}}
            },
            "backends": [backend],
        },
        {
            "name": "chat",
            "matches": under("/chat/"),
            "policies": {"ai": {"promptGuard": guard, "routes": {"*": "completions"}}},
            "backends": [{"ai": {**model, "pathPrefix": "/v1"}}],
        },
    ]


def under(prefix: str) -> list[Json]:
    return [{"path": {"pathPrefix": prefix}}]


@pytest.fixture(scope="module")
def gateway(up: Upstream) -> Iterator[GatewayProcess]:
    add = {
        "asked": "request.body",
        "begin": "request.bodyPrefix.size()",
        "answered": "response.body",
        "answer_begin": "response.bodyPrefix.size()",
    }
    config = {
        "config": {
            "logging": {"format": "json"},
            "metrics": {"fields": {"add": {"kind": "json(request.body).kind"}}},
        },
        "frontendPolicies": {"http": {"maxBufferSize": LIMIT}, "accessLog": {"add": add}},
        "binds": [{"port": PORT, "listeners": [{"routes": routes(up)}]}],
    }
    with GatewayProcess(config) as made:
        yield made


def told(gateway: GatewayProcess, path: str) -> Json:
    """The line of a request: what is said of its bodies."""
    line = orjson.loads(gateway.wait_line(f'"http.path":"{path}"'))
    names = ("asked", "begin", "answered", "answer_begin", "agw.request.body", "agw.response.body")
    return {name: line[name] for name in names if name in line}


def whole(asked: str, answered: str) -> Json:
    return {
        "asked": asked,
        "begin": len(asked.encode()),
        "answered": answered,
        "answer_begin": len(answered.encode()),
    }


def test_short_way_and_long(gateway: GatewayProcess) -> None:
    # The first of them makes the connection that the others find.
    for count in range(3):
        path = f"/plain/{count}"
        body = orjson.dumps({"kind": "order", "n": count})
        assert fetch(PORT, path, "POST", body=body).body == b"got " + body
        assert told(gateway, path) == whole(body.decode(), f"got {body.decode()}")
    gateway.wait_metric("agentgateway_requests_total", 3, route="default/plain", kind="order")
    fetch(PORT, "/plain/none")
    assert told(gateway, "/plain/none") == whole("", "got ")


def test_http2(gateway: GatewayProcess) -> None:
    with httpx.Client(http1=False, http2=True, timeout=20.0, trust_env=False) as client:
        url = f"http://127.0.0.1:{PORT}/old/two"
        answer = client.post(url, content=iter([b"in ", b"pieces"]))
    assert answer.content == b"got in pieces"
    assert told(gateway, "/old/two") == whole("in pieces", "got in pieces")


def test_a_stream_is_not_held_back(gateway: GatewayProcess) -> None:
    connection = http.client.HTTPConnection("127.0.0.1", PORT, timeout=20)
    connection.request("GET", "/plain/slow")
    answer = connection.getresponse()
    assert answer.read1(99) == b"first "
    GO_ON.set()
    assert answer.read() == b"second"
    connection.close()
    assert told(gateway, "/plain/slow") == whole("", "first second")


def test_past_the_limit(gateway: GatewayProcess) -> None:
    got = fetch(PORT, "/plain/long", "POST", body=b"q" * (LIMIT + 1))
    assert len(got.body) == 2 * LIMIT
    assert told(gateway, "/plain/long") == {
        "begin": LIMIT,
        "answer_begin": LIMIT,
        "agw.request.body": "truncated",
        "agw.response.body": "truncated",
    }


def test_content_codings_stay(gateway: GatewayProcess) -> None:
    assert gzip.decompress(fetch(PORT, "/plain/squeezed").body).startswith(b"squeezed")
    found = told(gateway, "/plain/squeezed")
    assert found["answered"] == escape(text_of(SQUEEZED))
    assert found["answer_begin"] == len(SQUEEZED)


def test_a_body_nobody_wanted(gateway: GatewayProcess) -> None:
    # Its last octets are never sent, so that nobody can have read it to its end.
    connection = http.client.HTTPConnection("127.0.0.1", PORT, timeout=20)
    connection.putrequest("POST", "/shut/x")
    connection.putheader("content-length", "10")
    connection.endheaders(b"few")
    assert connection.getresponse().status == 403
    connection.close()
    found = told(gateway, "/shut/x")
    assert found["agw.request.body"] == "unread"
    assert found["answered"] == "authorization failed"
    assert "asked" not in found


def test_what_the_client_sent_whatever_policies_made_of_it(gateway: GatewayProcess) -> None:
    assert fetch(PORT, "/held/x", "POST", body=b"this").body == b"got changed this"
    assert told(gateway, "/held/x") == whole("this", "got changed this")


def chat(path: str, words: str, **more: Any) -> bytes:
    body = {"model": "m", "messages": [{"role": "user", "content": words}], **more}
    headers = {"content-type": "application/json"}
    got = fetch(PORT, path, "POST", headers=headers, body=orjson.dumps(body))
    assert got.status == 200
    return got.body


def test_models(gateway: GatewayProcess) -> None:
    for stream in (False, True):
        path = f"/chat/{stream}"
        answer = chat(path, "hello", stream=stream)
        found = told(gateway, path)
        assert orjson.loads(found["asked"])["messages"][0]["content"] == "hello"
        # Line ends of a stream are told apart from those of the log.
        assert found["answered"].replace("\\n", "\n") == answer.decode()


def test_words_that_a_guard_masked(gateway: GatewayProcess) -> None:
    chat("/chat/masked", "it is 123-45-6789")
    found = told(gateway, "/chat/masked")
    assert found["agw.request.body"] == "withheld"
    assert "123-45-6789" not in gateway.log()


def test_spans_and_exported_lines(up: Upstream) -> None:
    collector = GrpcCollector()
    attributes = {"asked": "request.body", "n": "json(response.body).n", "gone": "response.body.x"}
    policy = {"host": collector.address, "protocol": "grpc"}
    config = {
        "frontendPolicies": {
            "http": {"maxBufferSize": LIMIT},
            "tracing": {**policy, "randomSampling": True, "attributes": attributes},
            "accessLog": {"otlp": {**policy, "fields": {"add": {"said": "response.body"}}}},
        },
        "binds": [{"port": TRACED, "listeners": [{"routes": routes(up)}]}],
    }
    try:
        with GatewayProcess(config) as gateway:
            fetch(TRACED, "/old/x", "POST", body=b"n" * (LIMIT + 1))
            fetch(TRACED, "/old/y", "POST", body=b"small")
            assert gateway.stop() == 0
        records = list(iter_records(collector))
        spans = [one for one in iter_spans(collector) if one.kind == 2]
    finally:
        collector.close()
    long, small = ({item.key: item.value.string_value for item in one.attributes} for one in spans)
    assert ("asked" in long, long["agw.request.body"]) == (False, "truncated")
    assert (small["asked"], "agw.request.body" in small, "gone" in small) == ("small", False, False)
    said = [
        {item.key: item.value.string_value for item in one.attributes}.get("said")
        for one in records
    ]
    assert said == [None, "got small"]


def iter_spans(collector: GrpcCollector) -> Iterator[Any]:
    while not collector.received.empty():
        for resource in collector.received.get()[0].resource_spans:
            for scope in resource.scope_spans:
                yield from scope.spans


def iter_records(collector: GrpcCollector) -> Iterator[Any]:
    while not collector.logs.empty():
        for resource in collector.logs.get()[0].resource_logs:
            for scope in resource.scope_logs:
                yield from scope.log_records
