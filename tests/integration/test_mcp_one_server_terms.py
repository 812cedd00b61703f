"""An `mcp` backend with one server: whose a session is, how it ends, and what is configured."""

from __future__ import annotations

import os
import signal

import pytest

from tests.support.client import fetch
from tests.support.gateway import GatewayProcess, free_ports
from tests.support.mcp_server import ACCEPT, McpClient, McpServer, mcp_config, messages
from tests.support.upstream import Upstream

JSON = {"content-type": "application/json", "accept": ACCEPT}
KEY = "ab" * 32
PING = b'{"jsonrpc":"2.0","id":1,"method":"ping"}'


@pytest.fixture(scope="module")
def server() -> McpServer:
    return McpServer(event_ids=True)


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
