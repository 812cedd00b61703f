"""Clients of the legacy eras of MCP at servers of 2026-07-28."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.support.gateway import GatewayProcess, free_ports
from tests.support.mcp_eras import TOOLS, Setting, eras, session
from tests.support.mcp_server import MODERN, Events, McpClient, McpServer, mcp_config, messages
from tests.support.upstream import Upstream


@pytest.fixture(scope="module")
def setting() -> Iterator[Setting]:
    with eras() as made:
        yield made


def test_a_modern_server_is_greeted(setting: Setting) -> None:
    client = McpClient(setting.ports["new"])
    found = client.initialize("2025-06-18")
    assert found["protocolVersion"] == "2025-06-18"
    assert found["capabilities"]["tools"] == {"listChanged": True}
    listed = client.result("tools/list")
    assert [tool["name"] for tool in listed["tools"]] == list(TOOLS)
    assert not {"resultType", "ttlMs", "cacheScope"} & listed.keys()
    meta = setting.new.calls[-1]["params"]["_meta"]
    assert meta["io.modelcontextprotocol/protocolVersion"] == MODERN
    assert meta["io.modelcontextprotocol/clientCapabilities"] == {"elicitation": {}}
    assert meta["io.modelcontextprotocol/clientInfo"] == {"name": "test", "version": "1"}
    assert client.result("ping") == {}
    assert client.end().status == 200
    assert client.request("ping").status == 404


def test_any_worker_serves_it(setting: Setting) -> None:
    client = session(setting.ports["new"])
    for n in range(9):
        assert client.text("echo", n=n) == f'new: echo {{"n": {n}}}'
    got = client.request("tools/call", name="fail", arguments={})
    assert messages(got)[0]["error"] == {"code": -32000, "message": "it broke"}
    got = client.request("tasks/get", taskId="t")
    assert messages(got)[0]["error"]["code"] == -32601
    assert "the server speaks 2026-07-28" in messages(got)[0]["error"]["message"]
    # It was not told of tasks, and so takes this for an ordinary call.
    assert client.result("tools/call", name="echo", arguments={}, task={"ttl": 1})["content"]
    assert "task" not in setting.new.calls[-1]["params"]


def test_arguments_are_repeated_in_headers(setting: Setting) -> None:
    """Which a legacy client does not know of."""
    client = session(setting.ports["new"])
    for _ in range(2):
        assert client.text("region", region="eu") == 'new: region {"region": "eu"}'


def test_a_question_is_put_to_a_legacy_client(setting: Setting) -> None:
    client = session(setting.ports["new"])
    for answer, said in (
        ({"result": {"action": "accept", "content": "yes"}}, "new: yes opaque"),
        ({"error": {"code": -1, "message": "no"}}, "new: cancel opaque"),
    ):
        params = {"name": "ask", "arguments": {}}
        call = {"jsonrpc": "2.0", "id": "c1", "method": "tools/call", "params": params}
        with Events(client, call) as events:
            question = events.next()
            assert question["method"] == "elicitation/create"
            assert question["params"] == {"message": "who?"}
            told = {"jsonrpc": "2.0", "id": question["id"], **answer}
            assert client.post(told).status == 202
            done = events.next()
            assert done["id"] == "c1"
            assert done["result"]["content"][0]["text"] == said


def test_log_lines_are_asked_for(setting: Setting) -> None:
    client = session(setting.ports["new"])
    assert client.result("logging/setLevel", level="warning") == {}
    client.text("echo")
    meta = setting.new.calls[-1]["params"]["_meta"]
    assert meta["io.modelcontextprotocol/logLevel"] == "warning"
    got = client.request("logging/setLevel", level="loud")
    assert messages(got)[0]["error"]["code"] == -32602


def test_a_legacy_client_cancels(setting: Setting) -> None:
    """By a message that any worker may get; the server sees the stream close."""
    client = session(setting.ports["new"])
    params = {"name": "hang", "arguments": {}}
    call = {"jsonrpc": "2.0", "id": "h1", "method": "tools/call", "params": params}
    with Events(client, call) as events:
        cancel = {
            "jsonrpc": "2.0",
            "method": "notifications/cancelled",
            "params": {"requestId": "h1"},
        }
        assert client.post(cancel).status == 202
        assert events.next() is None


def test_a_legacy_client_listens_to_a_modern_server(setting: Setting) -> None:
    new = setting.new
    client = session(setting.ports["new"])
    new.listeners.clear()
    with Events(client) as events:
        assert events.status == 200
        new.hear()
        new.tell("notifications/tools/list_changed")
        assert events.next() == {
            "jsonrpc": "2.0",
            "method": "notifications/tools/list_changed",
            "params": {},
        }
        assert client.result("resources/subscribe", uri="memo://new/a") == {}
        new.hear(2)
        assert new.subscribed[-1]["resourceSubscriptions"] == ["memo://new/a"]
        new.listeners[-1].put(
            {
                "jsonrpc": "2.0",
                "method": "notifications/resources/updated",
                "params": {"uri": "memo://new/a"},
            }
        )
        assert events.next()["params"] == {"uri": "memo://new/a"}


def test_a_client_that_is_refused_says_nothing_of_the_server() -> None:
    """One that knows both eras, and did not like the client's own greeting."""
    (port,) = free_ports(1)
    server = McpServer("both")
    with Upstream(server) as up, GatewayProcess(mcp_config(port, ("both", up.address))):
        params = {"protocolVersion": "odd", "capabilities": {}}
        got = McpClient(port).post(
            {"jsonrpc": "2.0", "id": 1, "method": "initialize", "params": params}
        )
        assert (got.status, messages(got)[0]["error"]["message"]) == (400, "Invalid params: odd")
        assert not server.sessions
        client = session(port)
        assert client.text("echo") == "both: echo {}"
        assert len(server.sessions) == 1
