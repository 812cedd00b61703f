"""Clients of HTTP+SSE (2024-11-05): one stream down, a POST a message, through any worker."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest
from mcp import ClientSession
from mcp.client.sse import sse_client

from tests.support.client import Got, fetch
from tests.support.gateway import GatewayProcess, free_ports
from tests.support.mcp_server import Events, McpClient, McpServer, mcp_config
from tests.support.processes import wait_until
from tests.support.upstream import Upstream

Setting = tuple[int, McpServer]


@pytest.fixture(scope="module")
def setting() -> Iterator[Setting]:
    server = McpServer("one")
    (port,) = free_ports(1)
    with (
        Upstream(server) as one,
        Upstream(McpServer("two", legacy=False)) as two,
        GatewayProcess(mcp_config(port, ("one", one.address), ("two", two.address)), workers=3),
    ):
        yield port, server
        server.released.set()
        for listener in server.listeners:
            listener.put(None)


class Old:
    """A client of the older transport."""

    def __init__(self, port: int) -> None:
        self.port = port
        self.stream = Events(McpClient(port, path="/sse"))
        assert self.stream.status == 200
        self.endpoint = self.stream.next()
        assert self.stream.name == "endpoint"

    def post(self, message: object, endpoint: str = "") -> Got:
        return fetch(
            self.port,
            endpoint or self.endpoint,
            "POST",
            host="localhost",
            headers={"content-type": "application/json"},
            body=json.dumps(message).encode(),
        )

    def ask(self, method: str, **params: Any) -> Any:
        message = {"jsonrpc": "2.0", "id": 1, "method": method, "params": params}
        assert self.post(message).status == 202
        return self.stream.next()

    def begin(self) -> Any:
        found = self.ask("initialize", protocolVersion="2024-11-05", capabilities={})
        assert self.post({"jsonrpc": "2.0", "method": "notifications/initialized"}).status == 202
        return found["result"]

    def close(self) -> None:
        self.stream.__exit__()


def test_a_session_on_a_stream(setting: Setting) -> None:
    port, server = setting
    client = Old(port)
    assert client.endpoint.startswith("/sse?sessionId=")
    assert client.begin()["protocolVersion"] == "2024-11-05"
    for n in range(9):
        for name in ("one", "two"):
            found = client.ask("tools/call", name=f"{name}_echo", arguments={"n": n})
            assert found["result"]["content"][0]["text"] == f'{name}: echo {{"n": {n}}}'
    assert client.ask("tools/call", name="nope")["error"]["message"] == "Unknown tool: nope"
    server.hear()
    server.tell("notifications/resources/updated", uri="memo://one/a")
    assert client.stream.next()["params"] == {"uri": "one+memo://one/a"}
    ended = len(server.ended)
    client.close()
    wait_until(lambda: len(server.ended) == ended + 1)
    wait_until(lambda: client.post({"jsonrpc": "2.0", "method": "ping", "id": 1}).status == 404)


def test_a_question_on_a_stream(setting: Setting) -> None:
    client = Old(setting[0])
    client.begin()
    question = client.ask("tools/call", name="one_ask", arguments={})
    assert question["method"] == "elicitation/create"
    answer = {"jsonrpc": "2.0", "id": question["id"], "result": {"content": "yes"}}
    assert client.post(answer).status == 202
    assert client.stream.next()["result"]["content"][0]["text"] == "one: yes"
    client.close()


def test_a_greeting_that_failed_may_be_said_again(setting: Setting) -> None:
    port, server = setting
    old = Old(port)
    params = {"protocolVersion": "2024-11-05", "capabilities": {}, "clientInfo": {}}
    server.broken = True
    try:
        assert "error" in old.ask("initialize", **params)
    finally:
        server.broken = False
    assert "result" in old.ask("initialize", **params)
    assert "came before" in old.ask("initialize", **params)["error"]["message"]
    old.close()


def test_what_is_no_message(setting: Setting) -> None:
    client = Old(setting[0])
    assert client.ask("tools/list")["error"]["code"] == -32600, "it was not greeted"
    assert client.post([]).status == 400
    assert client.post({"jsonrpc": "1.0"}).status == 400
    end = client.endpoint[-1]
    other = client.endpoint[:-1] + ("A" if end != "A" else "B")
    for endpoint in ("/sse", "/sse?sessionId=", "/sse?sessionId=guessed", other):
        message = {"jsonrpc": "2.0", "id": 1, "method": "ping"}
        assert client.post(message, endpoint).status in (404, 422), endpoint
    client.close()


def test_45_a_stream_belongs_to_its_principal() -> None:
    keys = {"mode": "strict", "keys": [{"key": "first"}, {"key": "second"}]}
    (port,) = free_ports(1)
    with Upstream(McpServer("one")) as up:
        config = mcp_config(port, ("one", up.address), policies={"apiKey": keys})
        with GatewayProcess(config):
            headers = {"authorization": "Bearer first"}
            with Events(McpClient(port, path="/sse", headers=headers)) as stream:
                endpoint = stream.next()
                for key, status in (("second", 404), ("first", 202)):
                    got = fetch(
                        port,
                        endpoint,
                        "POST",
                        host="localhost",
                        headers={
                            "content-type": "application/json",
                            "authorization": f"Bearer {key}",
                        },
                        body=b'{"jsonrpc":"2.0","id":1,"method":"ping"}',
                    )
                    assert got.status == status


def test_a_stream_keeps_to_its_backend_and_to_the_rules_in_force() -> None:
    one, two = free_ports(2)
    with Upstream(McpServer("one")) as up:
        config = mcp_config(one, ("one", up.address))
        config["binds"] += mcp_config(two, ("one", up.address))["binds"]
        routes = [bind["listeners"][0]["routes"][0] for bind in config["binds"]]
        for number, route in enumerate(routes):
            route["name"] = f"route{number}"
        with GatewayProcess(config) as gateway:
            client, stranger = Old(one), Old(two)
            client.begin()
            # What stands before another backend lets nobody pass to this one.
            ping = {"jsonrpc": "2.0", "id": 1, "method": "ping"}
            assert stranger.post(ping, client.endpoint).status == 404
            found = client.ask("tools/call", name="echo", arguments={})
            assert found["result"]["content"][0]["text"] == "one: echo {}"
            rules = {"rules": ['mcp.tool.name == "stream"']}
            routes[0]["backends"][0]["policies"] = {"mcpAuthorization": rules}
            gateway.reload(config)
            refused = client.ask("tools/call", name="echo", arguments={})
            assert refused["error"]["message"] == "Unknown tool: echo"
            client.close()
            stranger.close()


@pytest.mark.filterwarnings("ignore::mcp.shared.exceptions.MCPDeprecationWarning")
async def test_the_sdks_client(setting: Setting) -> None:
    async with (
        sse_client(f"http://127.0.0.1:{setting[0]}/sse") as (reads, writes),
        ClientSession(reads, writes) as session,
    ):
        await session.initialize()
        listed = await session.list_tools()
        assert {"one_echo", "two_echo"} <= {tool.name for tool in listed.tools}
        called = await session.call_tool("two_echo", {"a": 1})
        assert called.content[0].text == 'two: echo {"a": 1}'  # type: ignore[union-attr]
