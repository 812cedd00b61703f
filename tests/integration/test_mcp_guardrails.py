"""`mcpGuardrails`: guards over gRPC and over HTTP, in front of servers of every kind."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import ExitStack

import pytest
import yaml

from tests.support.ext_mcp import Answer, Question, let_pass
from tests.support.gateway import ROOT, GatewayProcess, free_ports
from tests.support.guarded_mcp import (
    Setting,
    error_of,
    only,
)
from tests.support.mcp_server import Events, McpClient, McpServer, messages
from tests.support.upstream import Upstream


@pytest.fixture(scope="module")
def started() -> Iterator[Setting]:
    with ExitStack() as stack:
        made = Setting(stack)
        yield made
        made.one.released.set()


@pytest.fixture
def setting(started: Setting) -> Iterator[Setting]:
    started.guard.script = started.second.script = let_pass
    started.hook.answer, started.hook.status = {"action": "pass"}, 200
    yield started
    started.guard.script = started.second.script = let_pass


# --- what is asked ------------------------------------------------------------------------------


def test_a_call_is_shown_in_the_words_of_its_server(setting: Setting) -> None:
    client = setting.client("/both", x_who="me", cookie="secret", x_plain="p")
    assert client.text("two_echo", a=1) == 'two: echo {"a": 1}'
    asked, answered = setting.guard.take()
    assert (asked.phase, asked.method, asked.targets) == ("request", "tools/call", ["two"])
    assert asked.payload == {"name": "echo", "arguments": {"a": 1}}
    assert asked.metadata == {"who": "me", "tool": "echo", "n": 2.0}
    assert asked.headers["x-plain"] == "p"
    assert "cookie" not in asked.headers
    assert (answered.phase, answered.targets) == ("response", ["two"])
    assert answered.payload["content"][0]["text"] == 'two: echo {"a": 1}'


def test_only_headers_that_are_named(setting: Setting) -> None:
    client = setting.client(
        "/shown", x_shown="1", x_hidden="2", x_other="3", authorization="Bearer t"
    )
    client.text("echo")
    shown = setting.guard.take()[0].headers
    assert shown == {"x-shown": "1", "authorization": "Bearer t", ":path": "/shown"}


def test_merged_lists_are_shown_once(setting: Setting) -> None:
    client = setting.client("/both")

    def hide(question: Question) -> Answer:
        if question.phase == "request":
            return Answer()
        kept = [tool for tool in question.payload["tools"] if tool["name"].endswith("echo")]
        return Answer(mutated={**question.payload, "tools": kept})

    setting.guard.script = hide
    listed = client.result("tools/list")
    assert [tool["name"] for tool in listed["tools"]] == ["one_echo", "two_echo"]
    (asked,) = [one for one in setting.guard.take() if one.phase == "response"]
    assert asked.targets == ["one", "two"]


def test_what_one_client_may_see_is_not_kept_by_others(setting: Setting) -> None:
    listed = messages(McpClient(setting.port, "/both").modern("tools/list"))[-1]["result"]
    assert (listed["ttlMs"], listed["cacheScope"]) == (0, "private")


def test_methods_without_a_key_pass_by(setting: Setting) -> None:
    client = setting.client("/both")
    client.result("resources/read", uri="one+memo://one/a")
    client.result("ping")
    assert setting.guard.take() == []
    bypassed = setting.client("/none")
    bypassed.text("echo")
    assert setting.guard.take() == []
    bypassed.result("ping")
    assert [one.phase for one in setting.guard.take()] == ["request", "response"]


def test_at_a_backend_and_before_a_child_process(setting: Setting) -> None:
    for path in ("/backend", "/targeted"):
        setting.client(path).text("echo")
        assert len(setting.guard.take()) == 2, path
    setting.guard.script = only("request", Answer(code=1, reason="not here"))
    assert error_of(setting.client("/backend"))["message"] == "not here"
    for number in range(4):
        # Whichever worker has the session's child.
        client = setting.client("/stdio")
        setting.guard.script = let_pass
        assert client.text("echo", text=f"{number}") == f"{number}"
        setting.guard.script = only("response", Answer(mutated={"content": []}))
        called = client.result("tools/call", name="echo", arguments={"text": "x"})
        assert called == {"content": []}


# --- what it may do -----------------------------------------------------------------------------


@pytest.mark.parametrize(("code", "number"), [(0, -32603), (1, -32001), (2, -32003), (3, -32600)])
@pytest.mark.parametrize("phase", ["request", "response"])
def test_refusals(setting: Setting, phase: str, code: int, number: int) -> None:
    client = setting.client("/both")
    setting.guard.script = only(phase, Answer(code=code, reason="no"))
    before = len(setting.one.calls)
    assert error_of(client, "one_echo") == {"code": number, "message": "no"}
    reached = [call["method"] for call in setting.one.calls[before:]]
    assert reached == ([] if phase == "request" else ["tools/call"])


def test_a_refusal_in_its_own_words(setting: Setting) -> None:
    said = {"code": -32050, "message": "ask your admin", "data": {"ref": 7}}
    setting.guard.script = only("request", Answer(code=1, reason="no", error=said))
    assert error_of(setting.client("/both"), "one_echo") == said


def test_changes_of_both(setting: Setting) -> None:
    def script(question: Question) -> Answer:
        if question.phase == "request":
            changed = {**question.payload, "arguments": {"a": "masked"}}
            headers = {"x-ticket": "7"}
            return Answer(mutated=changed, set_headers=headers, remove_headers=["x-drop"])
        text = question.payload["content"][0]["text"]
        return Answer(mutated={"content": [{"type": "text", "text": text.upper()}]})

    client = setting.client("/both", x_drop="1")
    setting.guard.script = script
    assert client.text("one_echo", a="secret") == 'ONE: ECHO {"A": "MASKED"}'
    assert setting.one.calls[-1]["params"]["arguments"] == {"a": "masked"}


def test_another_name_is_judged_by_rules(setting: Setting) -> None:
    client = setting.client("/rules")
    setting.guard.script = only("request", Answer(metadata={"level": 3}))
    assert client.text("echo") == "one: echo {}"
    renamed = {"name": "fail", "arguments": {}}
    setting.guard.script = only("request", Answer(mutated=renamed, metadata={"level": 3}))
    got = client.request("tools/call", name="echo", arguments={})
    assert (got.status, messages(got)[0]["error"]["message"]) == (400, "Unknown tool: echo")
    setting.guard.script = only("request", Answer(metadata={"level": 2}))
    assert client.request("tools/call", name="echo", arguments={}).status == 400


def test_what_the_operator_fixed_stays(setting: Setting) -> None:
    client = setting.client("/fixed")
    changed = {"name": "echo", "arguments": {"a": 1, "b": 9}}
    setting.guard.script = only("request", Answer(mutated=changed))
    assert client.text("echo", a=0) == 'one: echo {"a": 1, "b": 2}'
    assert setting.guard.take()[0].payload["arguments"] == {"a": 0, "b": 2}


def test_repeated_arguments_follow_the_change(setting: Setting) -> None:
    client = McpClient(setting.port, "/chain", headers={"mcp-param-region": "us"})
    changed = {"name": "region", "arguments": {"region": "eu"}}
    setting.guard.script = only("request", Answer(mutated=changed))
    got = client.modern("tools/call", "region", name="region", arguments={"region": "us"})
    # The server refuses a header that says otherwise.
    assert "eu" in messages(got)[-1]["result"]["content"][0]["text"]


def test_each_sees_what_the_one_before_made(setting: Setting) -> None:
    client = setting.client("/chain")
    changed = {"name": "echo", "arguments": {"a": 2}}
    setting.guard.script = only("request", Answer(mutated=changed))
    assert client.text("echo", a=1) == 'one: echo {"a": 2}'
    assert setting.second.take()[0].payload["arguments"] == {"a": 2}
    setting.guard.script = only("request", Answer(code=1))
    error_of(client)
    assert setting.second.take() == []


def test_streams_pass_but_for_their_end(setting: Setting) -> None:
    client = setting.client("/chain")
    call = {"jsonrpc": "2.0", "id": 9, "method": "tools/call", "params": {"name": "stream"}}
    setting.guard.script = only("response", Answer(code=1, reason="not that"))
    with Events(client, call) as events:
        assert events.next()["method"] == "notifications/message"
        first = events.identity
        last = events.next()
        assert (last["id"], last["error"]) == (9, {"code": -32001, "message": "not that"})
    # The ids are the gateway's own: who takes it up again does not come by what was refused.
    assert first.startswith("agw-l")
    with Events(client, last=first) as again:
        assert again.next() == last


def test_each_of_a_batch(setting: Setting) -> None:
    client = McpClient(setting.port, "/both", version="2025-03-26")
    client.initialize()

    def script(question: Question) -> Answer:
        is_meant = question.payload.get("arguments") == {"a": 2}
        return Answer(code=1, reason="no") if is_meant else Answer()

    setting.guard.script = script
    calls = [
        {
            "jsonrpc": "2.0",
            "id": number,
            "method": "tools/call",
            "params": {"name": "one_echo", "arguments": {"a": number}},
        }
        for number in (1, 2)
    ]
    one, two = json.loads(client.post(calls).body)
    assert one["result"]["content"][0]["text"] == 'one: echo {"a": 1}'
    assert two["error"] == {"code": -32001, "message": "no"}


def test_a_listening_stream_brings_no_answers(setting: Setting) -> None:
    client = setting.client("/chain")
    with Events(client, last="s1") as events:
        assert events.next()["method"] == "notifications/resumed"
        setting.one.listeners[-1].put({"jsonrpc": "2.0", "id": 9, "result": {"content": []}})
        setting.one.tell("notifications/tools/list_changed")
        assert events.next()["method"] == "notifications/tools/list_changed"


def test_the_beginning_of_a_session(setting: Setting) -> None:
    setting.guard.script = lambda question: Answer(
        code=1 if question.phase == "request" else None, reason="go away"
    )
    params = {"protocolVersion": "2025-11-25", "capabilities": {}, "clientInfo": {}}
    greeting = {"jsonrpc": "2.0", "id": 1, "method": "initialize", "params": params}
    client = McpClient(setting.port, "/both")
    got = client.post(greeting)
    assert messages(got)[0]["error"]["message"] == "go away"

    def script(question: Question) -> Answer:
        if question.phase == "request":
            return Answer()
        changed = {**question.payload, "protocolVersion": "1999", "instructions": "none"}
        return Answer(mutated=changed)

    setting.guard.script = script
    result = client.initialize()
    assert (result["protocolVersion"], result["instructions"]) == ("2025-11-25", "none")
    setting.guard.script = lambda question: Answer(code=1 if question.phase == "response" else None)
    got = McpClient(setting.port, "/both").post(greeting)
    assert messages(got)[0]["error"]["code"] == -32001
    assert got.get("mcp-session-id") is None


# --- the example --------------------------------------------------------------------------------


def test_example(setting: Setting) -> None:
    config = yaml.safe_load((ROOT / "deploy/examples/mcp-guardrails.yaml").read_text())
    (port,) = free_ports(1)
    config["gateways"]["default"]["port"] = port
    (of_route,) = config["routes"]
    remote, hook = of_route["policies"]["mcpGuardrails"]["processors"]
    remote["host"], hook["host"] = setting.guard.address, setting.hook_address
    shop = McpServer("shop", tools=("search", "refund"))

    def script(question: Question) -> Answer:
        if question.payload["name"] == "refund" and question.metadata["team"] != "billing":
            return Answer(code=1, reason="billing only")
        return Answer(metadata={"risk": len(question.payload["arguments"]) / 2})

    setting.guard.script = script
    with Upstream(shop) as up:
        of_route["backends"][0]["mcp"]["targets"][0]["mcp"]["host"] = f"http://{up.address}/mcp"
        with GatewayProcess(config):
            client = McpClient(port, headers={"x-team": "support"})
            client.initialize()
            assert client.text("search", q="x") == 'shop: search {"q": "x"}'
            assert error_of(client, "refund")["message"] == "billing only"
            # Too risky for the rules.
            assert (
                client.request("tools/call", name="search", arguments={"a": 1, "b": 2}).status
                == 400
            )
            setting.hook.answer = {"action": "mutate", "result": {"content": []}}
            called = client.result("tools/call", name="search", arguments={})
            assert called == {"content": []}
