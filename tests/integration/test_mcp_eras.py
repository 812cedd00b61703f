"""Clients of one era of MCP at servers of the other: modern ones at legacy servers, and back."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from typing import Any

import pytest
from mcp.client.client import Client
from mcp_types import ElicitResult, TextContent

from tests.support.mcp_eras import TOOLS, Setting, eras, modern, result, session, text
from tests.support.mcp_server import MODERN, Events, McpClient, messages
from tests.support.processes import wait_until

ELICITS: dict[str, Any] = {"elicitation": {}}


@pytest.fixture(scope="module")
def setting() -> Iterator[Setting]:
    with eras() as made:
        yield made


# --- a modern client at a legacy server -----------------------------------------------------------


def test_a_legacy_server_is_discovered(setting: Setting) -> None:
    found = result(modern(setting.ports["old"], "server/discover"))
    assert found["supportedVersions"] == [MODERN]
    assert found["capabilities"]["tools"] == {"listChanged": True}
    assert (found["ttlMs"], found["cacheScope"]) == (0, "private")
    assert found["_meta"]["io.modelcontextprotocol/serverInfo"]["name"] == "old"
    listed = result(modern(setting.ports["old"], "tools/list"))
    assert [tool["name"] for tool in listed["tools"]] == list(TOOLS)
    assert (listed["resultType"], listed["ttlMs"], listed["cacheScope"]) == (
        *("complete", 0, "private"),
    )


def test_calls_share_a_session_of_a_worker(setting: Setting) -> None:
    for n in range(9):
        got = modern(setting.ports["old"], "tools/call", name="echo", arguments={"n": n})
        assert text(result(got)) == f'old: echo {{"n": {n}}}'
    # One a worker.
    assert len(setting.old.sessions) <= 3
    sent = setting.old.calls[-1]
    assert not any(key.startswith("io.") for key in sent["params"].get("_meta", {}))


def test_a_legacy_session_that_expired(setting: Setting) -> None:
    for n in range(6):
        setting.old.forget()
        got = modern(setting.ports["old"], "tools/call", name="echo", arguments={"n": n})
        assert text(result(got)) == f'old: echo {{"n": {n}}}'


def test_errors_of_a_legacy_server(setting: Setting) -> None:
    port = setting.ports["old"]
    failed = modern(port, "tools/call", name="fail", arguments={})
    assert messages(failed)[0]["error"] == {"code": -32000, "message": "it broke"}
    got = modern(port, "tasks/get", taskId="t")
    assert (got.status, messages(got)[0]["error"]["code"]) == (404, -32601)
    assert "the server speaks 2025-11-25" in messages(got)[0]["error"]["message"]


@pytest.mark.parametrize(("level", "count"), [("", 0), ("info", 1), ("error", 0)])
def test_log_lines_for_who_wants_them(setting: Setting, level: str, count: int) -> None:
    got = modern(setting.ports["old"], "tools/call", name="stream", arguments={}, level=level)
    *before, _ = messages(got)
    assert [one["method"] for one in before] == ["notifications/message"] * count


def asked(setting: Setting, **more: Any) -> dict[str, Any]:
    got = modern(
        setting.ports["old"],
        "tools/call",
        capabilities=ELICITS,
        name="ask",
        arguments={"x": 1},
        **more,
    )
    return result(got)


def test_a_question_is_put_to_a_modern_client(setting: Setting) -> None:
    """Through whichever worker the answer comes."""
    for n in range(8):
        first = asked(setting)
        assert first["resultType"] == "input_required"
        ((key, question),) = first["inputRequests"].items()
        assert question == {"method": "elicitation/create", "params": {}}
        state = first["requestState"]
        # What is missing is asked for again.
        again = asked(setting, requestState=state)
        assert again["inputRequests"] == first["inputRequests"]
        answers = {key: {"action": "accept", "content": f"yes {n}"}}
        done = asked(setting, requestState=again["requestState"], inputResponses=answers)
        assert text(done) == f"old: yes {n}"
        # It is worth one answer.
        got = modern(
            setting.ports["old"],
            "tools/call",
            capabilities=ELICITS,
            name="ask",
            arguments={"x": 1},
            requestState=state,
            inputResponses=answers,
        )
        assert (got.status, messages(got)[0]["error"]["code"]) == (400, -32602)


def test_a_state_is_of_one_request(setting: Setting) -> None:
    first = asked(setting)
    state = first["requestState"]
    others: tuple[dict[str, Any], ...] = (
        {"name": "ask", "arguments": {"x": 2}},
        {"name": "echo", "arguments": {"x": 1}},
    )
    for changed in others:
        got = modern(
            setting.ports["old"],
            "tools/call",
            capabilities=ELICITS,
            requestState=state,
            inputResponses={"1": {"action": "accept"}},
            **changed,
        )
        assert (got.status, messages(got)[0]["error"]["code"]) == (400, -32602)
    done = asked(setting, requestState=state, inputResponses={"1": {"content": "still"}})
    assert text(done) == "old: still"


def test_a_client_that_cannot_be_asked(setting: Setting) -> None:
    got = modern(setting.ports["old"], "tools/call", name="ask", arguments={})
    assert text(result(got)) == "old: refused"


def test_a_modern_client_that_leaves_has_cancelled(setting: Setting) -> None:
    setting.old.told.clear()
    meta = {
        "io.modelcontextprotocol/protocolVersion": MODERN,
        "io.modelcontextprotocol/clientCapabilities": {},
    }
    params = {"name": "hang", "arguments": {}, "_meta": meta}
    call = {"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": params}
    client = McpClient(setting.ports["old"], headers={"mcp-name": "hang"})
    with Events(client, call, modern="tools/call") as events:
        assert events.status == 200
    wait_until(lambda: "notifications/cancelled" in setting.old.told)


def test_a_modern_client_listens_to_a_legacy_server(setting: Setting) -> None:
    setting.old.listeners.clear()
    meta = {
        "io.modelcontextprotocol/protocolVersion": MODERN,
        "io.modelcontextprotocol/clientCapabilities": {},
    }
    wanted = {
        "toolsListChanged": True,
        "promptsListChanged": True,
        "resourceSubscriptions": ["memo://old/a", 7, "memo://old/a"],
    }
    params = {"notifications": wanted, "_meta": meta}
    listen = {"jsonrpc": "2.0", "id": 5, "method": "subscriptions/listen", "params": params}
    tag = {"io.modelcontextprotocol/subscriptionId": 5}
    client = McpClient(setting.ports["old"])
    with Events(client, listen, modern="subscriptions/listen") as events:
        first = events.next()
        assert first["method"] == "notifications/subscriptions/acknowledged"
        agreed = {"toolsListChanged": True, "resourceSubscriptions": ["memo://old/a"]}
        assert first["params"] == {"notifications": agreed, "_meta": tag}
        setting.old.hear()
        setting.old.tell("notifications/resources/updated", uri="memo://old/b")
        setting.old.tell("notifications/prompts/list_changed")
        setting.old.tell("notifications/resources/updated", uri="memo://old/a")
        assert events.next()["params"] == {"uri": "memo://old/a", "_meta": tag}
        setting.old.tell("notifications/tools/list_changed")
        assert events.next()["method"] == "notifications/tools/list_changed"
        setting.old.listeners[-1].put(None)
        last = events.next()
        assert (last["id"], last["result"]["_meta"]) == (5, tag)


def test_a_legacy_program(setting: Setting) -> None:
    port = setting.ports["stdio"]
    for n in range(6):
        got = modern(port, "tools/call", name="echo", arguments={"text": f"v{n}"})
        assert text(result(got)) == f"v{n}"


# --- both -----------------------------------------------------------------------------------------


def test_servers_of_both_eras_as_one(setting: Setting) -> None:
    port = setting.ports["both"]
    client = session(port)
    names = [tool["name"] for tool in client.result("tools/list")["tools"]]
    assert names == [f"{server}_{tool}" for server in ("old", "new") for tool in TOOLS]
    found = result(modern(port, "server/discover"))
    assert found["supportedVersions"] == [MODERN]
    listed = result(modern(port, "tools/list"))["tools"]
    assert [tool["name"] for tool in listed] == names
    for server in ("old", "new"):
        assert client.text(f"{server}_echo", n=1) == f'{server}: echo {{"n": 1}}'
        got = modern(port, "tools/call", name=f"{server}_echo", arguments={"n": 1})
        assert text(result(got)) == f'{server}: echo {{"n": 1}}'
    asked: dict[str, Any] = {"name": "old_ask", "arguments": {}, "capabilities": ELICITS}
    first = result(modern(port, "tools/call", **asked))
    answers = {key: {"content": "yes"} for key in first["inputRequests"]}
    state = first["requestState"]
    done = modern(port, "tools/call", requestState=state, inputResponses=answers, **asked)
    assert text(result(done)) == "old: yes"
    call = {
        "jsonrpc": "2.0",
        "id": "c1",
        "method": "tools/call",
        "params": {"name": "new_ask", "arguments": {}},
    }
    with Events(client, call) as events:
        question = events.next()
        told = {"jsonrpc": "2.0", "id": question["id"], "result": {"content": "yes"}}
        assert client.post(told).status == 202
        assert events.next()["result"]["content"][0]["text"] == "new: yes opaque"


def test_many_questions_find_their_client(setting: Setting) -> None:
    wrong: list[str] = []

    def work(mark: int) -> None:
        given: dict[str, Any] = {
            "name": "echo",
            "arguments": {"mark": mark},
            "capabilities": ELICITS,
        }
        said = text(result(modern(setting.ports["old"], "tools/call", **given)))
        if json.loads(said.partition("echo ")[2]) != {"mark": mark}:
            wrong.append(said)

    threads = [threading.Thread(target=work, args=(mark,)) for mark in range(40)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


@pytest.mark.filterwarnings("ignore::mcp.shared.exceptions.MCPDeprecationWarning")
@pytest.mark.parametrize("server", ["old", "new"])
@pytest.mark.parametrize("mode", ["legacy", MODERN])
async def test_the_sdks_client(setting: Setting, server: str, mode: str) -> None:
    async def elicit(context: Any, params: Any) -> ElicitResult:
        return ElicitResult(action="accept", content={"who": "me"})

    url = f"http://127.0.0.1:{setting.ports[server]}/mcp"
    async with Client(
        url, mode=mode, read_timeout_seconds=20, elicitation_callback=elicit
    ) as client:
        listed = await client.list_tools()
        assert [tool.name for tool in listed.tools] == list(TOOLS)
        called = await client.call_tool("echo", {"a": 1})
        assert isinstance(called.content[0], TextContent)
        assert called.content[0].text == f'{server}: echo {{"a": 1}}'
