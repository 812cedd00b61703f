"""An `mcp` backend with one server: messages pass as they are, sessions hold over workers."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.support.client import fetch
from tests.support.gateway import GatewayProcess, free_ports
from tests.support.mcp_server import (
    ACCEPT,
    MODERN,
    McpClient,
    McpServer,
    mcp_config,
    messages,
)
from tests.support.upstream import Upstream

JSON = {"content-type": "application/json", "accept": ACCEPT}
KEY = "ab" * 32
PING = b'{"jsonrpc":"2.0","id":1,"method":"ping"}'


@pytest.fixture(scope="module")
def server() -> McpServer:
    return McpServer(event_ids=True)


@pytest.fixture(scope="module")
def gateway(server: McpServer) -> Iterator[tuple[GatewayProcess, int]]:
    (port,) = free_ports(1)
    with (
        Upstream(server) as up,
        GatewayProcess(mcp_config(port, ("one", up.address)), workers=2) as process,
    ):
        yield process, port


@pytest.fixture
def client(gateway: tuple[GatewayProcess, int]) -> McpClient:
    made = McpClient(gateway[1])
    made.initialize()
    return made


def test_initialize_is_the_servers_own(gateway: tuple[GatewayProcess, int]) -> None:
    client = McpClient(gateway[1])
    result = client.initialize("2025-06-18")
    assert result["protocolVersion"] == "2025-06-18"
    assert result["serverInfo"] == {"name": "one", "version": "1"}
    assert client.session.isascii()
    assert len(client.session) < 1024


@pytest.mark.parametrize("version", ["2026-07-28", "2099-01-01"])
def test_a_greeting_of_the_future(gateway: tuple[GatewayProcess, int], version: str) -> None:
    client = McpClient(gateway[1])
    agreed = client.initialize(version)["protocolVersion"]
    assert agreed == "2025-11-25"
    client.version = agreed
    assert client.text("echo") == "one: echo {}"


def test_call_answered_by_json(client: McpClient) -> None:
    got = client.request("tools/call", name="echo", arguments={"a": 1})
    assert got.get("content-type") == "application/json"
    assert client.text("echo", a=1) == 'one: echo {"a": 1}'


def test_call_answered_by_events_with_the_servers_ids(client: McpClient) -> None:
    got = client.request("tools/call", name="stream", arguments={})
    assert got.get("content-type") == "text/event-stream"
    assert got.get("cache-control") == "no-cache"
    assert got.get("x-accel-buffering") == "no"
    assert b"id: s1\n" in got.body
    log, answer = messages(got)
    assert log["method"] == "notifications/message"
    assert answer["id"] == client.number


def test_servers_error_is_the_answer(client: McpClient) -> None:
    got = client.request("tools/call", name="fail", arguments={})
    assert got.status == 200
    assert messages(got)[0]["error"] == {"code": -32000, "message": "it broke"}


def test_unknown_method(client: McpClient) -> None:
    got = client.request("nope")
    assert (got.status, messages(got)[0]["error"]["code"]) == (200, -32601)


def test_any_worker_serves_a_session(client: McpClient) -> None:
    assert {client.text("echo", n=n) for n in range(40)} == {
        f'one: echo {{"n": {n}}}' for n in range(40)
    }


def test_deleted_session_is_gone_everywhere(client: McpClient, server: McpServer) -> None:
    upstreams = set(server.sessions)
    assert client.end().status == 200
    assert len(upstreams - server.sessions) == 1
    for _ in range(8):
        assert client.request("ping").status == 404
    assert client.end().status == 404


def test_expired_upstream_session_is_begun_again(client: McpClient, server: McpServer) -> None:
    server.forget()
    assert client.text("echo", a=2) == 'one: echo {"a": 2}'
    # The other workers know of it.
    before = len(server.sessions)
    for n in range(20):
        assert client.text("echo", n=n)
    assert len(server.sessions) == before == 1


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({}, 400),
        ({"mcp-session-id": "guessed"}, 404),
        ({"mcp-session-id": "A" * 300}, 404),
        ({"mcp-session-id": "A" * 20_000}, 404),
        ({"mcp-session-id": "\xff\xfe"}, 404),
    ],
    ids=["missing", "45-guessed", "45-forged", "too-long", "no-ascii"],
)
def test_session_id_that_is_none(
    gateway: tuple[GatewayProcess, int], headers: dict[str, str], status: int
) -> None:
    body = b'{"jsonrpc":"2.0","id":1,"method":"tools/list"}'
    given = {**JSON, **headers}
    pairs = [(name, value.encode("latin-1").decode("latin-1")) for name, value in given.items()]
    got = fetch(gateway[1], "/mcp", "POST", host="localhost", headers=pairs, body=body)
    assert got.status == status


def test_tampered_session_id(client: McpClient) -> None:
    whole = client.session
    for at in (0, 20, len(whole) // 2, len(whole) - 1):
        other = "A" if whole[at] != "A" else "B"
        client.session = whole[:at] + other + whole[at + 1 :]
        assert client.request("ping").status == 404
    client.session = whole + "A"
    assert client.request("ping").status == 404


@pytest.mark.parametrize(
    ("change", "body", "status", "code"),
    [
        ({"content-type": "text/plain"}, b"{}", 415, None),
        ({"accept": "application/json"}, b"{}", 406, None),
        ({"accept": "application/json, text/event-stream;q=0"}, b"{}", 406, None),
        ({}, b"{", 400, -32700),
        ({}, b"[]", 400, -32600),
        ({}, b"7", 400, -32600),
        ({}, b'{"jsonrpc":"1.0","id":1,"method":"ping"}', 400, -32600),
        ({}, b'{"jsonrpc":"2.0","id":1,"method":"ping","params":[]}', 400, -32602),
        ({}, b"[" * 200 + b"]" * 200, 400, -32700),
        (
            {"mcp-protocol-version": "2099-01-01"},
            b'{"jsonrpc":"2.0","id":1,"method":"ping"}',
            400,
            -32022,
        ),
    ],
    ids=[
        "type",
        "accept",
        "refused",
        "json",
        "empty",
        "number",
        "version",
        "params",
        "deep",
        "future",
    ],
)
def test_malformed(
    gateway: tuple[GatewayProcess, int],
    change: dict[str, str],
    body: bytes,
    status: int,
    code: int | None,
) -> None:
    got = fetch(gateway[1], "/mcp", "POST", host="localhost", headers={**JSON, **change}, body=body)
    assert got.status == status
    if code is not None:
        assert messages(got)[0]["error"]["code"] == code


def test_batch_only_in_its_version(gateway: tuple[GatewayProcess, int]) -> None:
    batch = [
        {"jsonrpc": "2.0", "id": 1, "method": "ping"},
        {"jsonrpc": "2.0", "method": "notifications/roots/list_changed"},
        {"jsonrpc": "2.0", "id": 2, "method": "tools/call", "params": {"name": "echo"}},
        {"jsonrpc": "2.0", "id": 3, "method": "initialize", "params": {}},
        {"id": 4},
    ]
    old = McpClient(gateway[1], version="2025-03-26")
    old.initialize()
    found = {one["id"]: one for one in messages(old.post(batch))}
    assert found[1]["result"] == {}
    assert found[2]["result"]["content"][0]["text"] == "one: echo {}"
    assert found[3]["error"]["code"] == -32600
    assert found[None]["error"]["code"] == -32600
    new = McpClient(gateway[1])
    new.initialize()
    assert new.post(batch).status == 400


def test_methods_that_there_are_not(gateway: tuple[GatewayProcess, int]) -> None:
    got = fetch(gateway[1], "/mcp", "PUT", host="localhost", headers=JSON, body=b"{}")
    assert got.status == 405
    assert got.get("allow") == "GET, POST, DELETE"


def test_modern_request(gateway: tuple[GatewayProcess, int]) -> None:
    client = McpClient(gateway[1])
    got = client.modern("tools/call", "echo", name="echo", arguments={"x": 1})
    assert messages(got)[0]["result"]["content"][0]["text"] == 'one: echo {"x": 1}'
    # Ignored, as the specification says.
    client.session = "whatever"
    assert client.modern("tools/list").status == 200


@pytest.mark.parametrize(
    ("method", "mirrored", "headers", "status", "code"),
    [
        ("tools/call", "printEnv", {}, 400, -32020),
        ("tools/call", "", {}, 400, -32020),
        ("tools/call", "echo", {"mcp_method": "tools/list"}, 400, -32020),
        ("tools/call", "echo", {"mcp_protocol_version": "2025-11-25"}, 400, -32020),
        ("tools/call", "=?base64?ZWNobw==?=", {}, 200, None),
        ("tools/call", "=?base64?!!?=", {}, 400, -32020),
        ("ping", "", {}, 404, -32601),
        ("initialize", "", {}, 404, -32601),
        ("logging/setLevel", "", {}, 404, -32601),
    ],
    ids=["41-other-name", "no-name", "method", "version", "base64", "bad64", "ping", "init", "log"],
)
def test_modern_headers(
    gateway: tuple[GatewayProcess, int],
    method: str,
    mirrored: str,
    headers: dict[str, str],
    status: int,
    code: int | None,
) -> None:
    meta = {
        "io.modelcontextprotocol/protocolVersion": MODERN,
        "io.modelcontextprotocol/clientCapabilities": {},
    }
    message = {
        "jsonrpc": "2.0",
        "id": 1,
        "method": method,
        "params": {"name": "echo", "_meta": meta},
    }
    given = {"mcp_protocol_version": MODERN, "mcp_method": method, **headers}
    if mirrored:
        given["mcp_name"] = mirrored
    got = McpClient(gateway[1]).post(message, **given)
    assert got.status == status
    found = messages(got)[0]
    assert found["id"] == 1
    assert found.get("error", {}).get("code") == code


def test_modern_get_and_delete(gateway: tuple[GatewayProcess, int]) -> None:
    headers = {"mcp-protocol-version": MODERN, "accept": "text/event-stream"}
    for method in ("GET", "DELETE"):
        got = fetch(gateway[1], "/mcp", method, host="localhost", headers=headers)
        assert (got.status, got.get("allow")) == (405, "POST")


def test_facts(gateway: tuple[GatewayProcess, int], client: McpClient) -> None:
    client.text("echo", marked="here")
    gateway[0].wait_line("gen_ai.tool.name=echo")
    line = gateway[0].wait_line("mcp.method.name=tools/call")
    assert "mcp.target=one" in line
    assert "mcp.resource.type=tool" in line
    assert "protocol=mcp" in line
    found = gateway[0].metric(
        "agentgateway_mcp_requests_total", method="tools/call", server="one", resource="echo"
    )
    assert found > 0


def test_clients_credentials_stay_here(gateway: tuple[GatewayProcess, int]) -> None:
    client = McpClient(gateway[1], headers={"authorization": "Bearer mine"})
    client.initialize()
    assert client.text("auth") == "one: None" or client.text("auth") == "None"
