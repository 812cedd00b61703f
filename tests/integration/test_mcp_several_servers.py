"""An `mcp` backend with several servers: names, lists, streams and failures of all as of one."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator

import pytest

from tests.support.gateway import GatewayProcess, free_ports
from tests.support.mcp_federation import Setting, federation, names
from tests.support.mcp_server import (
    MODERN,
    Events,
    McpClient,
    McpServer,
    mcp_config,
    messages,
)
from tests.support.upstream import Upstream


@pytest.fixture(scope="module")
def setting() -> Iterator[Setting]:
    servers = (McpServer("one", event_ids=True, page=4), McpServer("two", has_prompts=False))
    with federation(*servers) as made:
        yield made


@pytest.fixture
def client(setting: Setting) -> McpClient:
    made = McpClient(setting[0].port)
    made.initialize()
    return made


def test_initialize_is_of_all(setting: Setting) -> None:
    result = McpClient(setting[0].port).initialize("2025-06-18")
    assert result["serverInfo"]["name"] == "agentgateway"
    assert result["protocolVersion"] == "2025-06-18"
    assert "[one]\nI am one" in result["instructions"]
    assert result["capabilities"]["tools"] == {"listChanged": True}
    assert "logging" not in result["capabilities"]


def test_lists_are_joined_page_by_page(client: McpClient) -> None:
    first = client.result("tools/list")
    assert names(first)[:4] == ["one_echo", "one_stream", "one_ask", "one_fail"]
    assert names(first)[4:] == [f"two_{name}" for name in McpServer().tools]
    second = client.result("tools/list", cursor=first["nextCursor"])
    assert names(second) == ["one_auth", "one_hang"]
    assert "nextCursor" not in second
    got = client.request("tools/list", cursor="junk")
    assert (got.status, messages(got)[0]["error"]["code"]) == (400, -32602)


def test_server_without_prompts_is_not_asked(client: McpClient, setting: Setting) -> None:
    assert names(client.result("prompts/list"), "prompts") == ["one_greet"]
    assert all(call["method"] != "prompts/list" for call in setting[1]["two"].calls)


def test_calls_find_their_server(client: McpClient) -> None:
    assert client.text("one_echo", a=1) == 'one: echo {"a": 1}'
    assert client.text("two_echo", a=1) == 'two: echo {"a": 1}'
    assert client.result("prompts/get", name="one_greet")["description"] == "greet"


def test_resources(client: McpClient) -> None:
    uris = names(client.result("resources/list"), "resources", "uri")
    assert uris == ["one+memo://one/a", "two+memo://two/a"]
    contents = client.result("resources/read", uri=uris[1])["contents"]
    assert contents == [{"uri": uris[1], "text": "two has memo://two/a"}]


@pytest.mark.parametrize("name", ["echo", "three_echo", "one", "_echo", ""])
def test_unknown_tool(client: McpClient, name: str) -> None:
    got = client.request("tools/call", name=name, arguments={})
    assert got.status == 400
    assert messages(got)[0]["error"] == {"code": -32602, "message": f"Unknown tool: {name}"}


def test_for_all(client: McpClient, setting: Setting) -> None:
    assert client.result("ping") == {}
    for server in setting[1].values():
        assert any(call["method"] == "ping" for call in server.calls)
        assert "notifications/initialized" in server.told


def test_question_to_the_client(client: McpClient) -> None:
    call = {
        "jsonrpc": "2.0",
        "id": "c1",
        "method": "tools/call",
        "params": {"name": "two_ask", "arguments": {}},
    }
    with Events(client, call) as events:
        asked = events.next()
        assert asked["method"] == "elicitation/create"
        assert asked["id"] == "agw_two_s_q7"
        answer = {"jsonrpc": "2.0", "id": asked["id"], "result": {"content": "yes"}}
        assert client.post(answer).status == 202
        done = events.next()
        assert done["id"] == "c1"
        assert done["result"]["content"][0]["text"] == "two: yes"
    stray = {"jsonrpc": "2.0", "id": "agw_three_n_1", "result": {}}
    assert client.post(stray).status == 202


def test_one_stream_of_all_is_resumed_at_each(client: McpClient, setting: Setting) -> None:
    servers = setting[1]
    with Events(client) as events:
        assert events.status == 200
        for server in servers.values():
            server.hear()
        servers["one"].tell("notifications/resources/updated", uri="memo://one/a")
        told = events.next()
        assert told["params"] == {"uri": "one+memo://one/a"}
        last = events.identity
        servers["two"].tell("notifications/tools/list_changed")
        assert events.next()["method"] == "notifications/tools/list_changed"
    assert last.startswith("agw-u")
    for server in servers.values():
        server.listeners.clear()
    with Events(client, last=last) as events:
        assert events.next() == {
            "jsonrpc": "2.0",
            "method": "notifications/resumed",
            "params": {"at": "g1"},
        }


def test_end_reaches_all(setting: Setting) -> None:
    client = McpClient(setting[0].port)
    client.initialize()
    ended = {name: len(server.ended) for name, server in setting[1].items()}
    assert client.end().status == 200
    for name, server in setting[1].items():
        assert len(server.ended) == ended[name] + 1


def test_expired_session_of_one(client: McpClient, setting: Setting) -> None:
    setting[1]["one"].forget()
    for n in range(8):
        assert client.text("one_echo", n=n)
        assert client.text("two_echo", n=n)
    assert len(setting[1]["one"].sessions) == 1


def test_modern(setting: Setting) -> None:
    client = setting[0]
    found = messages(client.modern("server/discover"))[0]["result"]
    assert found["supportedVersions"] == [MODERN]
    listed = messages(client.modern("tools/list"))[0]["result"]
    assert {"one_echo", "two_echo"} <= set(names(listed))
    assert (listed["ttlMs"], listed["cacheScope"]) == (0, "private")
    got = client.modern("tools/call", "two_echo", name="two_echo", arguments={})
    assert messages(got)[0]["result"]["content"][0]["text"] == "two: echo {}"
    assert names(messages(client.modern("prompts/list"))[0]["result"], "prompts") == ["one_greet"]


def test_subscriptions_of_all(setting: Setting) -> None:
    client, servers, _ = setting
    for server in servers.values():
        server.listeners.clear()
    wanted = {"toolsListChanged": True, "resourceSubscriptions": ["one+memo://one/a"]}
    meta = {
        "io.modelcontextprotocol/protocolVersion": MODERN,
        "io.modelcontextprotocol/clientCapabilities": {},
    }
    listen = {
        "jsonrpc": "2.0",
        "id": 9,
        "method": "subscriptions/listen",
        "params": {"notifications": wanted, "_meta": meta},
    }
    tag = {"io.modelcontextprotocol/subscriptionId": 9}
    modern = McpClient(client.port)
    with Events(modern, listen, modern="subscriptions/listen") as events:
        first = events.next()
        assert first["method"] == "notifications/subscriptions/acknowledged"
        assert first["params"] == {"notifications": wanted, "_meta": tag}
        for server in servers.values():
            server.hear()
        servers["one"].tell("notifications/resources/updated", uri="memo://one/a")
        told = events.next()
        assert told["params"] == {"uri": "one+memo://one/a", "_meta": tag}
        for server in servers.values():
            server.listeners[-1].put(None)
        last = events.next()
        assert last["id"] == 9
        assert last["result"]["_meta"] == tag


# --- other settings -------------------------------------------------------------------------


def test_never_finds_names_in_lists() -> None:
    one = McpServer("one", tools=("echo", "a"), page=1)
    two = McpServer("two", tools=("echo", "b"))
    with federation(one, two, prefixMode="never", listCacheTtl="1m") as (client, _, _):
        client.initialize()
        assert client.text("b") == "two: b {}"
        assert client.text("a") == "one: a {}"
        assert messages(client.request("tools/call", name="echo"))[0]["error"]["code"] == -32602


def test_always_prefixes_one() -> None:
    with federation(McpServer("one"), prefixMode="always") as (client, _, _):
        client.initialize()
        assert client.text("one_echo") == "one: echo {}"
        assert names(client.result("tools/list"))[0] == "one_echo"


@pytest.mark.parametrize("mode", ["failOpen", "failClosed"])
def test_server_that_is_gone(mode: str) -> None:
    (nobody,) = free_ports(1)
    with Upstream(McpServer("one")) as up:
        (port,) = free_ports(1)
        targets = (("one", up.address), ("two", f"127.0.0.1:{nobody}"))
        with GatewayProcess(mcp_config(port, *targets, failureMode=mode)):
            client = McpClient(port)
            params = {"protocolVersion": "2025-11-25", "capabilities": {}}
            greeting = {"jsonrpc": "2.0", "id": 1, "method": "initialize", "params": params}
            got = client.post(greeting)
            if mode == "failClosed":
                assert got.status == 503
                return
            client.session = got.get("mcp-session-id") or ""
            assert client.text("one_echo") == "one: echo {}"
            assert names(client.result("tools/list"))[0] == "one_echo"
            denied = client.request("tools/call", name="two_echo")
            assert messages(denied)[0]["error"]["message"] == "Unknown tool: two_echo"


def test_rules_of_all_levels_hold() -> None:
    route = {"mcpAuthorization": {"rules": [{"deny": 'mcp.tool.name == "fail"'}]}}
    own = {"rules": ['mcp.tool.target == "one" && mcp.tool.name in ["echo", "fail"]']}
    with Upstream(McpServer("one")) as one, Upstream(McpServer("two")) as two:
        (port,) = free_ports(1)
        targets = (("one", one.address), ("two", two.address))
        config = mcp_config(port, *targets, policies=route)
        backend = config["binds"][0]["listeners"][0]["routes"][0]["backends"][0]
        backend["policies"] = {"mcpAuthorization": own}
        with GatewayProcess(config):
            client = McpClient(port)
            client.initialize()
            assert names(client.result("tools/list")) == ["one_echo"]
            assert client.text("one_echo") == "one: echo {}"
            for name in ("one_fail", "one_ask", "two_echo"):
                got = client.request("tools/call", name=name)
                assert got.status == 400
                assert messages(got)[0]["error"]["message"] == f"Unknown tool: {name}"


def test_public_lists_are_kept_until_they_change() -> None:
    one, two = McpServer("one", is_public=True), McpServer("two", is_public=True)
    with federation(one, two, workers=1) as (client, _, _):
        for _ in range(3):
            listed = messages(client.modern("tools/list"))[0]["result"]
            assert (listed["ttlMs"], listed["cacheScope"]) == (60_000, "public")
        asked = [call for call in one.calls if call["method"] == "tools/list"]
        assert len(asked) == 1


@pytest.mark.parametrize("mode", ["failOpen", "failClosed"])
def test_kept_lists_hide_no_failure(mode: str) -> None:
    one, two = McpServer("one", is_public=True), McpServer("two")
    with federation(one, two, workers=1, failureMode=mode) as (client, _, _):
        assert client.modern("tools/list").status == 200
        two.broken = True
        got = client.modern("tools/list")
        if mode == "failClosed":
            assert got.status == 502
            return
        listed = messages(got)[0]["result"]
        assert {name.partition("_")[0] for name in names(listed)} == {"one"}
        # Nobody may keep what lacks a server.
        assert (listed["ttlMs"], listed["cacheScope"]) == (0, "private")


def test_never_tells_clashes_of_all_pages() -> None:
    one = McpServer("one", tools=("a", "b", "c"), page=1)
    two = McpServer("two", tools=("d", "c"), page=1)
    with federation(one, two, prefixMode="never") as (client, _, _):
        client.initialize()
        listed = client.result("tools/list")
        assert names(listed) == ["a", "b", "d"]
        assert "nextCursor" not in listed


def test_messages_reach_their_own_session() -> None:
    """A thousand sessions at once, each asked something of its own, by document and by stream."""
    one, two = McpServer("one"), McpServer("two")
    with federation(one, two) as (first, _, _):
        clients = [McpClient(first.port) for _ in range(1000)]
        wrong: list[str] = []

        def work(mine: list[McpClient]) -> None:
            for client in mine:
                client.initialize()
            for number, client in enumerate(mine):
                mark = f"{id(client)}-{number}"
                tool = ("one_echo", "one_stream")[number % 2]
                got = client.request("tools/call", name=tool, arguments={"mark": mark})
                said = messages(got)
                # The answer, and before a stream's answer a log line.
                if len(said) != 1 + number % 2 or any(mark not in str(one) for one in said):
                    wrong.append(f"{mark}: {said}")

        run([lambda part=part: work(clients[part::8]) for part in range(8)])
        assert not wrong
        assert len({client.session for client in clients}) == 1000
        assert len(one.sessions) == 1000


def run(works: list[Callable[[], None]]) -> None:
    threads = [threading.Thread(target=work) for work in works]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
