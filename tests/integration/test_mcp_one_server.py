"""An `mcp` backend with one server: messages pass as they are, sessions hold over workers."""

from __future__ import annotations

import os
import signal
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


def test_credentials_pass_where_configured() -> None:
    (port,) = free_ports(1)
    with Upstream(McpServer()) as up:
        target = {
            "name": "one",
            "mcp": {"host": f"http://{up.address}/mcp"},
            "policies": {"backendAuth": {"passthrough": {}}},
        }
        with GatewayProcess(mcp_config(port, target)):
            client = McpClient(port, headers={"authorization": "Bearer mine"})
            client.initialize()
            assert client.text("auth") == "Bearer mine"


@pytest.mark.parametrize("header", ["authorization", "x-api-key"])
def test_clients_that_servers_tell_apart_share_nothing(header: str) -> None:
    """Nobody checks here who they are, and what they show passes to the servers."""
    (port,) = free_ports(1)
    servers = (McpServer("one", modern=False), McpServer("two", modern=False))
    with Upstream(servers[0]) as one, Upstream(servers[1]) as two:
        more = {"listCacheTtl": "1h"}
        config = mcp_config(port, ("one", one.address), ("two", two.address), **more)
        backend = config["binds"][0]["listeners"][0]["routes"][0]["backends"][0]
        backend["policies"] = {"backendAuth": {"passthrough": {}}}
        with GatewayProcess(config):
            clients = [McpClient(port, headers={header: f"Bearer {n}"}) for n in range(2)]
            for client in clients:
                client.initialize()
                for _ in range(2):
                    assert client.result("tools/list")["tools"]
            listed = [one for one in servers[0].calls if one["method"] == "tools/list"]
            assert len(listed) == len(clients)
            # A modern client has no session; the gateway has one of its own for each of them.
            before = len(servers[0].sessions)
            for client in clients:
                for _ in range(2):
                    got = client.modern("tools/call", "one_echo", name="one_echo", arguments={})
                    assert "result" in messages(got)[-1]
            assert len(servers[0].sessions) == before + len(clients)


def test_killed_worker(server: McpServer) -> None:
    (port,) = free_ports(1)
    with (
        Upstream(server) as up,
        GatewayProcess(mcp_config(port, ("one", up.address)), workers=2) as gateway,
    ):
        client = McpClient(port)
        client.initialize()
        pids = gateway.worker_pids()
        for pid in pids:
            os.kill(pid, signal.SIGKILL)
        gateway.wait_replaced(pids)
        assert client.text("echo", a=3) == 'one: echo {"a": 3}'


def test_session_goes_on_after_restart_with_a_key(server: McpServer) -> None:
    (port,) = free_ports(1)
    with Upstream(server) as up:
        config = mcp_config(port, ("one", up.address))
        keyed = {**config, "config": {"session": {"key": KEY}}}
        client = McpClient(port)
        with GatewayProcess(keyed):
            client.initialize()
            ended = McpClient(port)
            ended.initialize()
        with GatewayProcess(keyed):
            assert client.text("echo") == "one: echo {}"
        with GatewayProcess(config):
            assert client.request("ping").status == 404


def test_session_belongs_to_its_principal(server: McpServer) -> None:
    (port,) = free_ports(1)
    keys = {"mode": "strict", "keys": [{"key": "first"}, {"key": "second"}]}
    with Upstream(server) as up:
        config = mcp_config(port, ("one", up.address), policies={"apiKey": keys})
        with GatewayProcess(config):
            client = McpClient(port, headers={"authorization": "Bearer first"})
            client.initialize()
            assert client.text("echo") == "one: echo {}"
            client.headers = {"authorization": "Bearer second"}
            assert client.request("tools/list").status == 404
            assert client.end().status == 404


def test_stateless_mode(server: McpServer) -> None:
    (port,) = free_ports(1)
    with Upstream(server) as up:
        config = mcp_config(port, ("one", up.address), statefulMode="stateless")
        with GatewayProcess(config) as gateway:
            client = McpClient(port)
            client.initialize()
            assert client.session == ""
            ended = len(server.ended)
            assert client.text("echo", a=1) == 'one: echo {"a": 1}'
            got = fetch(port, "/mcp", headers={"accept": "text/event-stream"}, host="localhost")
            assert got.status == 405
            gateway.wait_ready()
        assert len(server.ended) > ended


def test_dns_rebinding_protection(server: McpServer) -> None:
    (port,) = free_ports(1)
    with Upstream(server) as up:
        config = mcp_config(port, ("one", up.address), dnsRebindingProtection=True)
        with GatewayProcess(config):
            client = McpClient(port)
            client.initialize()
            body = b'{"jsonrpc":"2.0","id":1,"method":"ping"}'
            for host, origin in (("evil.example", None), ("localhost", "http://evil.example")):
                headers = dict(JSON) | ({"origin": origin} if origin else {})
                got = fetch(port, "/mcp", "POST", host=host, headers=headers, body=body)
                assert got.status == 403
                assert got.text.startswith("MCP DNS rebinding protection")
            client.headers = {"origin": f"http://127.0.0.1:{port}"}
            assert client.request("ping").status == 200


def test_server_that_cannot_be_had() -> None:
    port, nobody = free_ports(2)
    with GatewayProcess(mcp_config(port, ("one", f"127.0.0.1:{nobody}"))):
        params = {"protocolVersion": "2025-11-25", "capabilities": {}}
        message = {"jsonrpc": "2.0", "id": 5, "method": "initialize", "params": params}
        got = McpClient(port).post(message)
        assert got.status == 503
        found = messages(got)[0]
        assert (found["id"], found["error"]["code"]) == (5, -32603)


def test_target_that_names_a_backend(server: McpServer) -> None:
    (port,) = free_ports(1)
    with Upstream(server) as up:
        target = {"name": "one", "mcp": {"backend": "there", "path": "/mcp"}}
        config = {**mcp_config(port, target), "backends": [{"name": "there", "host": up.address}]}
        with GatewayProcess(config):
            client = McpClient(port)
            client.initialize()
            assert client.text("echo", a=1) == 'one: echo {"a": 1}'
